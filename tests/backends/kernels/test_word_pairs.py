# SPDX-License-Identifier: Apache-2.0
"""Sparse int8 convolution and Linear by pairs of words: exact, with empty and full rows, tails, everywhere."""

from pathlib import Path

import numpy as np
import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.word_pairs import WordPairKernel
from sparsec.compiler.lowering.ops import Convolution, Linear
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

KERNEL = WordPairKernel()
CASES = (
    ("block(4x1)", AFFINE),
    ("block(8x1)", REQUANTIZE),
    ("block(2x1)", REQUANTIZE_SUM),
    ("nm(2:4)", RESIDUAL),
    ("unstructured", PLAIN_SUM),
    ("block(4x2)", MIXED),
    ("nm(2:4)", REQUANTIZE),
)


@pytest.mark.parametrize("isa", ISAS)
def test_every_pattern_and_epilogue(isa: str, tmp_path: Path) -> None:
    problems = []
    for i, (pattern, epilogue) in enumerate(CASES):
        op = Convolution("uint8", 17 + i, 13 + i, (5, 11 + 2 * i), epilogue=epilogue)
        weight = pruned("uint8", pattern, op.filters, op.channels, 1, 1)
        problems.append(convolution_problem(op, i, weight, pattern))
    assert check(KERNEL, problems, isa, tmp_path, every=isa == "avx512vnni") >= len(problems)


@pytest.mark.parametrize("isa", ISAS)
def test_wide_kernels_and_tokens(isa: str, tmp_path: Path) -> None:
    conv = Convolution("uint8", 7, 12, (7, 7), (3, 3), (2, 2), pads=(1, 1, 1, 1), pad_code=3, epilogue=REQUANTIZE)
    small = Convolution("uint8", 9, 7, (1, 3), epilogue=REQUANTIZE)
    linear = Linear("uint8", 21, 30, 10, AFFINE)
    problems = [
        convolution_problem(conv, 1, pruned("uint8", "block(4x9)", 12, 7, 3, 3), "block(4x9)"),
        convolution_problem(small, 3, pruned("uint8", "block(4x1)", 7, 9, 1, 1), "block(4x1)"),
        linear_problem(linear, 2, pruned("uint8", "nm(2:4)", 10, 30), "nm(2:4)"),
    ]
    assert check(KERNEL, problems, isa, tmp_path) == len(problems)


@pytest.mark.parametrize("isa", ["avx2", "relaxed-simd"])
def test_weights_of_zeros_and_full_weights(isa: str, tmp_path: Path) -> None:
    op = Convolution("uint8", 9, 9, (2, 9), epilogue=REQUANTIZE)
    weights = [np.full((9, 9, 1, 1), value, np.int8) for value in (0, -128, 127)]
    problems = [convolution_problem(op, 1, weight, "block(4x1)") for weight in weights]
    assert check(KERNEL, problems, isa, tmp_path) == len(problems)


def test_what_is_not_its_job() -> None:
    for dtype, pattern, groups in (
        ("uint8", "dense", 1),
        ("uint8", "block(4x4)", 1),
        ("uint8", "block(4x1)", 2),
        ("float32", "block(4x1)", 1),
    ):
        assert not list(KERNEL.candidates(Convolution(dtype, 8, 8, (4, 4), groups=groups), pattern, 8))
    wide = Convolution("uint8", 8, 8, (4, 4), (3, 3))
    assert not list(KERNEL.candidates(wide, "block(4x36)", 8))
    assert list(KERNEL.candidates(wide, "block(4x9)", 8))


def test_price_follows_density() -> None:
    op = Convolution("uint8", 64, 64, (14, 14))
    (spec, *_) = KERNEL.candidates(op, "block(4x1)", 4)
    weights = [pruned("uint8", "block(4x1)", 64, 64, 1, 1, density=d) for d in (0.05, 0.3, 0.5, 0.7, 1.0)]
    prices = [KERNEL.cost(spec, weight, dict.fromkeys(_NAMES, 1.0)) for weight in weights]
    assert prices == sorted(prices)
    assert prices[0] < prices[2] < prices[-1]


_NAMES = (
    "call_us", "bytes_per_us", "float32_ops_per_us", "float32_macs_per_us", "int8_macs_per_us", "vector_lanes",
    "vector_registers", "int8_registers", "mac_chains", "int8_chains", "first_cache_kb", "line_us",
    "load_macs", "spill_factor", "tile_us", "block_us", "mask_us", "pair_us",
)  # fmt: skip
