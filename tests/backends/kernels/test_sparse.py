# SPDX-License-Identifier: Apache-2.0
"""Block-sparse convolution and Linear: empty and full rows, cut blocks, every pattern, on every instruction set."""

from pathlib import Path

import numpy as np
import pytest

from sparsec.backends.kernels.sparse import SparseKernel
from sparsec.compiler.lowering.ops import Convolution, Linear
from tests.backends.kernels.products import (
    AFFINE,
    PLAIN_SUM,
    REQUANTIZE,
    REQUANTIZE_SUM,
    RESIDUAL,
    VARIETY,
    check,
    convolution_problem,
    linear_problem,
    pruned,
)

KERNEL = SparseKernel()
PATTERNS = ("block(4x4)", "block(4x1)", "block(1x4)", "block(2x4)", "block(8x4)", "unstructured")


@pytest.mark.parametrize(("isa", "dtype"), VARIETY)
def test_every_pattern(isa: str, dtype: str, tmp_path: Path) -> None:
    problems = []
    for i, pattern in enumerate(PATTERNS if dtype == "uint8" else (*PATTERNS[:-1], "block(2x1)")):
        chosen = (AFFINE, REQUANTIZE, REQUANTIZE_SUM, RESIDUAL, PLAIN_SUM, REQUANTIZE)[i]
        op = Convolution(dtype, 16 + i, 15 + i, (3, 5 + i), epilogue=chosen)
        weight = pruned(dtype, pattern, op.filters, op.channels, 1, 1)
        problems.append(convolution_problem(op, i, weight, pattern))
    assert check(KERNEL, problems, isa, tmp_path) == len(PATTERNS)


@pytest.mark.parametrize(("isa", "dtype"), [("avx2", "uint8"), ("avx512vnni", "float32"), ("relaxed-simd", "uint8")])
def test_wide_kernels_and_tokens(isa: str, dtype: str, tmp_path: Path) -> None:
    conv = Convolution(
        dtype, 8, 12, (7, 7), (3, 3), (2, 2), pads=(1, 1, 1, 1), pad_code=3 * (dtype == "uint8"), epilogue=REQUANTIZE
    )
    linear = Linear(dtype, 21, 24, 10, AFFINE)
    problems = [
        convolution_problem(conv, 1, pruned(dtype, "block(4x1)", 12, 8, 3, 3), "block(4x1)"),
        linear_problem(linear, 2, pruned(dtype, "block(4x4)", 10, 24), "block(4x4)"),
    ]
    assert check(KERNEL, problems, isa, tmp_path) == len(problems)


@pytest.mark.parametrize(("isa", "dtype"), VARIETY)
def test_positions_behind_the_last_vector(isa: str, dtype: str, tmp_path: Path) -> None:
    problems = []
    for i, (pattern, epilogue) in enumerate(
        (("block(8x4)", REQUANTIZE), ("block(4x4)", RESIDUAL), ("block(2x4)", REQUANTIZE_SUM), ("block(1x4)", AFFINE))
    ):
        op = Convolution(dtype, 16, 18 + i, (7, 7) if i % 2 else (3, 11), epilogue=epilogue)
        problems.append(convolution_problem(op, i, pruned(dtype, pattern, op.filters, 16, 1, 1), pattern))
    assert check(KERNEL, problems, isa, tmp_path) == len(problems)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_weight_of_zeros(dtype: str, tmp_path: Path) -> None:
    op = Convolution(dtype, 8, 8, (2, 9), epilogue=REQUANTIZE)
    weight = np.zeros((8, 8, 1, 1), np.float32 if dtype == "float32" else np.int8)
    assert check(KERNEL, [convolution_problem(op, 1, weight, "block(4x4)")], "avx2", tmp_path)


def test_dense_weights_are_not_its_job() -> None:
    assert not list(KERNEL.candidates(Convolution("float32", 8, 8, (4, 4)), "dense", 8))
    assert not list(KERNEL.candidates(Convolution("float32", 8, 8, (4, 4), groups=2), "block(4x4)", 8))
    assert not list(KERNEL.candidates(Convolution("float32", 8, 8, (4, 4)), "unstructured", 8))


def test_price_follows_density() -> None:
    op = Convolution("float32", 64, 64, (14, 14))
    (spec, *_) = KERNEL.candidates(op, "block(4x4)", 8)
    profile = dict.fromkeys(_NAMES, 1.0)
    prices = [
        KERNEL.cost(spec, pruned("float32", "block(4x4)", 64, 64, 1, 1, density=d), profile) for d in (0.3, 0.6, 0.9)
    ]
    assert prices == sorted(prices)
    assert prices[0] < prices[2]


_NAMES = (
    "call_us", "bytes_per_us", "float32_ops_per_us", "float32_macs_per_us", "int8_macs_per_us", "vector_lanes",
    "vector_registers", "int8_registers", "mac_chains", "int8_chains", "first_cache_kb", "line_us",
    "load_macs", "spill_factor", "tile_us", "block_us",
)  # fmt: skip
