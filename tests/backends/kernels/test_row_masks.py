# SPDX-License-Identifier: Apache-2.0
"""Sparse float32 convolution and Linear by row masks: empty and full rows, tails, wide kernels, everywhere."""

from pathlib import Path

import numpy as np
import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.row_masks import RowMaskKernel
from sparsec.compiler.lowering.ops import Convolution, Linear
from sparsec.compiler.pattern import NM
from tests.backends.kernels.products import (
    AFFINE,
    MIXED,
    PLAIN_SUM,
    REQUANTIZE,
    REQUANTIZE_SUM,
    RESIDUAL,
    check,
    convolution_problem,
    linear_problem,
    pruned,
)

KERNEL = RowMaskKernel()
ISA = [name for name in ISAS if name != "neon-dotprod"]


@pytest.mark.parametrize("isa", ISA)
def test_every_tile_and_epilogue(isa: str, tmp_path: Path) -> None:
    problems = []
    for i, epilogue in enumerate((AFFINE, REQUANTIZE, REQUANTIZE_SUM, RESIDUAL, PLAIN_SUM, MIXED)):
        op = Convolution("float32", 16 + i, 13 + i, (5, 11 + 2 * i), epilogue=epilogue)
        weight = pruned("float32", "unstructured", op.filters, op.channels, 1, 1)
        problems.append(convolution_problem(op, i, weight, "unstructured"))
    assert check(KERNEL, problems, isa, tmp_path, every=isa == "avx512vnni") >= len(problems)


@pytest.mark.parametrize("isa", ISA)
def test_wide_kernels_tokens_and_small_images(isa: str, tmp_path: Path) -> None:
    conv = Convolution("float32", 6, 10, (7, 7), (3, 3), (2, 2), pads=(1, 1, 1, 1), epilogue=AFFINE)
    inner = Convolution("float32", 3, 5, (9, 6), (3, 2))
    small = Convolution("float32", 9, 7, (1, 3), epilogue=AFFINE)
    linear = Linear("float32", 21, 24, 10, AFFINE)
    problems = [
        convolution_problem(conv, 1, pruned("float32", "unstructured", 10, 6, 3, 3), "unstructured"),
        convolution_problem(inner, 2, pruned("float32", "unstructured", 5, 3, 3, 2), "unstructured"),
        convolution_problem(small, 3, pruned("float32", "unstructured", 7, 9, 1, 1), "unstructured"),
        linear_problem(linear, 4, _two_of_four(10, 24), "nm(2:4)"),
    ]
    assert check(KERNEL, problems, isa, tmp_path) == len(problems)


@pytest.mark.parametrize("isa", ["avx2", "avx512vnni"])
def test_blocks_of_two_rows(isa: str, tmp_path: Path) -> None:
    op = Convolution("float32", 18, 15, (3, 17), epilogue=AFFINE)
    problem = convolution_problem(op, 1, pruned("float32", "block(2x1)", 15, 18, 1, 1), "block(2x1)")
    assert check(KERNEL, [problem], isa, tmp_path)
    assert not list(KERNEL.candidates(op, "block(2x1)", 4))


@pytest.mark.parametrize("isa", ["avx2", "relaxed-simd"])
def test_weights_of_zeros_and_full_weights(isa: str, tmp_path: Path) -> None:
    op = Convolution("float32", 8, 9, (2, 9), epilogue=REQUANTIZE)
    weights = [np.full((9, 8, 1, 1), value, np.float32) for value in (0, 1)]
    problems = [convolution_problem(op, 1, weight, "unstructured") for weight in weights]
    assert check(KERNEL, problems, isa, tmp_path, every=True)


def test_what_is_not_its_job() -> None:
    for dtype, pattern, groups in (
        ("float32", "dense", 1),
        ("float32", "block(4x1)", 1),
        ("float32", "unstructured", 2),
        ("uint8", "unstructured", 1),
    ):
        assert not list(KERNEL.candidates(Convolution(dtype, 8, 8, (4, 4), groups=groups), pattern, 8))


def test_price_follows_density_and_finds_nothing_in_a_full_weight() -> None:
    op = Convolution("float32", 64, 64, (14, 14))
    (spec, *_) = KERNEL.candidates(op, "unstructured", 4)
    densities = (0.0001, 0.3, 0.6, 0.9, 1.0)
    weights = [pruned("float32", "unstructured", 64, 64, 1, 1, density=d) for d in densities]
    prices = [KERNEL.cost(spec, weight, dict.fromkeys(_NAMES, 1.0)) for weight in weights]
    assert prices == sorted(prices)
    assert prices[0] < prices[2] < prices[-1]


def _two_of_four(rows: int, columns: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    kept = NM(2, 4).project(rng.random((rows, columns)), 0.5)
    return (rng.standard_normal((rows, columns)) * kept).astype(np.float32)


_NAMES = (
    "call_us", "bytes_per_us", "float32_ops_per_us", "float32_macs_per_us", "int8_macs_per_us", "vector_lanes",
    "vector_registers", "int8_registers", "mac_chains", "int8_chains", "first_cache_kb", "line_us",
    "load_macs", "spill_factor", "tile_us", "block_us", "mask_us", "pair_us",
)  # fmt: skip
