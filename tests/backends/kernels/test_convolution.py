# SPDX-License-Identifier: Apache-2.0
"""Dense convolutions of every kind, float32 and codes, on every instruction set."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.convolution import ConvolutionKernel
from sparsec.backends.kernels.reference import finish_channels
from sparsec.compiler.lowering.ops import Convolution, Linear
from tests.backends.kernels.products import (
    AFFINE,
    EPILOGUES,
    MIXED,
    PLAIN_SUM,
    REQUANTIZE,
    REQUANTIZE_SUM,
    RESIDUAL,
    VARIETY,
    Problem,
    check,
    convolution_problem,
    convolve,
    linear_problem,
)

KERNEL = ConvolutionKernel()
POINTWISE = (
    ((1, 1), (1, 1)),
    ((3, 4), (1, 3)),
    ((5, 8), (1, 7)),
    ((7, 9), (3, 5)),
    ((12, 17), (1, 17)),
    ((9, 5), (7, 7)),
    ((16, 24), (9, 11)),
)
"""(channels, filters), size."""
SPATIAL = [
    {"size": (5, 6), "kernel": (3, 3), "pads": (1, 1, 1, 1)},
    {"size": (9, 9), "kernel": (3, 3), "stride": (2, 2), "pads": (0, 0, 1, 1)},
    {"size": (7, 7), "kernel": (5, 5), "stride": (2, 2), "pads": (2, 2, 2, 2)},
    {"size": (6, 40), "kernel": (3, 3)},
    {"size": (8, 10), "kernel": (3, 2), "dilation": (2, 3), "pads": (2, 1, 0, 3)},
    {"size": (10, 10), "kernel": (1, 1), "stride": (2, 2)},
    {"size": (11, 7), "kernel": (2, 3), "stride": (3, 1), "pads": (1, 0, 0, 2)},
    {"size": (20, 1), "kernel": (5, 1), "stride": (2, 1), "pads": (2, 0, 2, 0)},
    {"size": (1, 50), "kernel": (1, 7), "stride": (1, 3), "pads": (0, 3, 0, 3)},
    {"size": (4, 18), "kernel": (7, 7), "pads": (3, 3, 3, 3)},
]


def _some(dtype: str) -> list[Convolution]:
    ops = []
    for i, ((channels, filters), size) in enumerate(POINTWISE):
        ops.append(Convolution(dtype, channels, filters, size, epilogue=EPILOGUES[i % len(EPILOGUES)]))
    for i, options in enumerate(SPATIAL):
        channels, filters, groups = [(3, 6, 1), (8, 8, 2), (5, 9, 1), (12, 8, 1), (16, 16, 4), (4, 4, 1)][i % 6]
        code = 11 * (dtype == "uint8")
        chosen = (AFFINE, REQUANTIZE, RESIDUAL, REQUANTIZE_SUM, MIXED, PLAIN_SUM)[i % 6]
        ops.append(Convolution(dtype, channels, filters, groups=groups, pad_code=code, epilogue=chosen, **options))
    return ops


@pytest.mark.parametrize(("isa", "dtype"), VARIETY)
def test_matches_the_definition(isa: str, dtype: str, tmp_path: Path) -> None:
    problems = [convolution_problem(op, seed) for seed, op in enumerate(_some(dtype))]
    assert check(KERNEL, problems, isa, tmp_path) == len(problems)


@pytest.mark.parametrize("isa", ["avx2", "relaxed-simd"])
def test_every_tile_of_some_shapes(isa: str, tmp_path: Path) -> None:
    ops = [
        Convolution("float32", 6, 20, (7, 7), epilogue=AFFINE),
        Convolution("uint8", 10, 20, (13, 13), (3, 3), pads=(1, 1, 1, 1), epilogue=REQUANTIZE_SUM),
        Convolution("float32", 3, 8, (15, 15), (3, 3), (2, 2), pads=(1, 1, 1, 1), epilogue=AFFINE),
    ]
    assert check(KERNEL, [convolution_problem(op, 3) for op in ops], isa, tmp_path, every=True) >= 9


@pytest.mark.parametrize("isa", ["avx2", "simd128"])
def test_tokens_as_positions(isa: str, tmp_path: Path) -> None:
    ops = [
        Linear(d, t, 13, 9, e)
        for d, t, e in [("float32", 5, RESIDUAL), ("uint8", 19, REQUANTIZE), ("uint8", 8, AFFINE)]
    ]
    assert check(KERNEL, [linear_problem(op, 1) for op in ops], isa, tmp_path)


@pytest.mark.parametrize("isa", ISAS)
def test_the_largest_codes_do_not_saturate(isa: str, tmp_path: Path) -> None:
    op = Convolution("uint8", 32, 4, (4, 8))
    weight, x = np.full((4, 32, 1, 1), -128, np.int8), np.full((32, 4, 8), 127, np.uint8)
    full = Problem(op, "dense", x, weight, (), np.full((4, 32), -127 * 128 * 32.0, np.float32))
    assert check(KERNEL, [full], isa, tmp_path)


@pytest.mark.parametrize("isa", ISAS)
def test_codes_far_outside_are_clamped(isa: str, tmp_path: Path) -> None:
    op = Convolution("uint8", 4, 8, (3, 11), epilogue=REQUANTIZE)
    problem = convolution_problem(op, 4)
    gain = np.array([1e-3, 1e3, 1e9, -1e9, 1e5, -1e5, 1e30, 0], np.float32)
    offset = np.array([0.5, 1.5, 0, 0, -1e10, 1e10, 1e35, 126.5], np.float32)
    right = finish_channels(op.epilogue, convolve(op, problem.x, problem.weight), (gain, offset))
    assert {0, 127} < set(right.ravel().tolist())
    extreme = replace(problem, operands=(gain, offset), expected=right)
    assert check(KERNEL, [extreme], isa, tmp_path, every=True)


@pytest.mark.parametrize("isa", ["avx2", "relaxed-simd"])
def test_groups_that_share_words(isa: str, tmp_path: Path) -> None:
    ops = [
        Convolution("uint8", 6, 4, (4, 9), (3, 3), groups=2),
        Convolution("float32", 6, 6, (4, 9), (3, 3), groups=3, epilogue=REQUANTIZE),
        Convolution("float32", 5, 5, (1, 3), groups=5, epilogue=AFFINE),
        Convolution("uint8", 5, 10, (6, 6), (3, 3), groups=5, epilogue=REQUANTIZE),
    ]
    assert check(KERNEL, [convolution_problem(op, 2) for op in ops], isa, tmp_path)
