# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from sparsec.backends.kernels.plan import Plan
from sparsec.backends.kernels.traffic import CLOSE, traffic
from sparsec.backends.profiles import built_in
from sparsec.backends.targets import BY_FAMILY
from sparsec.compiler.lowering.kernel import KernelSpec
from sparsec.compiler.lowering.ops import Convolution


def spec_of(op, tile, family="convolution", pattern="dense"):
    return KernelSpec(family, op, pattern, tile, ("plain",), "plain")


def of(channels, size, tile, dtype="float32", **options):
    op = Convolution(dtype, channels, 64, size, **options)
    return traffic(Plan.of(spec_of(op, tile)))


def lines_by_counting(plane, lanes, channels):
    """Lines that the vector at the start of each channel touches."""
    first = np.arange(channels) * plane
    return float(np.mean((first + lanes - 1) // 16 - first // 16 + 1))


@pytest.mark.parametrize("size", [(28, 28), (14, 14), (7, 7), (15, 15), (12, 12)])
def test_long_vectors_lie_in_the_lines_that_counting_finds(size):
    found = of(128, size, (8, 1, 1, 16))
    assert found.lines == lines_by_counting(size[0] * size[1], 16, 128)


def test_short_vectors_cross_lines_less_often():
    assert of(64, (7, 7), (4, 1, 2, 16)).lines == 1 + 15 / 16
    assert of(64, (7, 7), (4, 1, 2, 4)).lines == 1 + 3 / 4 / 4
    assert of(64, (14, 14), (4, 1, 2, 4)).lines == 1


@pytest.mark.parametrize(
    ("channels", "dtype", "tile", "nbytes"),
    [
        (512, "float32", (4, 1, 6, 16), 512 * 96 * 4),
        (512, "uint8", (1, 1, 8, 16), 128 * 128 * 4),
        (30, "uint8", (4, 1, 2, 4), 8 * 8 * 4),
    ],
)
def test_bytes_are_those_of_all_channels_under_a_tile(channels, dtype, tile, nbytes):
    assert of(channels, (14, 14), tile, dtype).nbytes == nbytes


def test_taps_that_overlap_are_counted_once():
    found = of(32, (34, 34), (8, 2, 1, 16), kernel=(3, 3))
    assert found.nbytes == 32 * (2 + 2) * (16 + 2) * 4


def test_what_stays_in_the_cache_is_not_fetched():
    profile = dict(built_in("avx512vnni").costs, first_cache_kb=32.0, line_us=0.5)
    assert of(64, (14, 14), (4, 1, 6, 16)).fetch_us(6, profile) == 0
    assert of(512, (14, 14), (4, 1, 6, 16)).fetch_us(6, profile) == 6 * 0.5
    assert 0 < of(86, (14, 14), (4, 1, 6, 16)).fetch_us(6, profile) < 6 * 0.5
    assert of(512, (14, 14), (4, 1, 6, 4)).fetch_us(6, profile) == 6 / 4 * 0.5
    assert CLOSE.fetch_us(6, profile) == 0


SPARSE = {
    "sparse": ("float32", "block(4x1)", (4, 1, 6, 16, 1)),
    "row-masks": ("float32", "unstructured", (4, 1, 6, 16)),
    "word-pairs": ("uint8", "unstructured", (1, 1, 4, 16)),
}


@pytest.mark.parametrize("family", SPARSE)
@pytest.mark.parametrize("change", [{"line_us": 1.0}, {"first_cache_kb": 8.0}])
def test_every_sparse_kernel_pays_for_an_operand_that_outgrows_the_cache(family, change):
    dtype, pattern, tile = SPARSE[family]
    op = Convolution(dtype, 512, 64, (14, 14))
    weight = np.zeros((64, 512, 1, 1), np.int8 if dtype == "uint8" else np.float32)
    weight[::2, ::3] = 1
    spec = spec_of(op, tile, family, pattern)
    known = {**built_in("avx512vnni").costs, "first_cache_kb": 16.0}
    near = BY_FAMILY[family].cost(spec, weight, {**known, "first_cache_kb": 1000.0})
    far = BY_FAMILY[family].cost(spec, weight, {**known, **change})
    assert far > near


def test_the_dense_kernel_that_fits_the_cache_is_preferred():
    op = Convolution("float32", 1024, 64, (28, 28))
    weight = np.ones((64, 1024, 1, 1), np.float32)
    costs = {**built_in("avx512vnni").costs, "first_cache_kb": 128.0, "line_us": 0.01}
    price = {
        tile: BY_FAMILY["convolution"].cost(spec_of(op, tile), weight, costs) for tile in [(4, 1, 6, 16), (8, 1, 1, 16)]
    }
    assert price[8, 1, 1, 16] < price[4, 1, 6, 16]
