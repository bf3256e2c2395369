# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolutions of all strides and dilations, float32 and codes, on every instruction set."""

from pathlib import Path

import numpy as np
import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.depthwise import DepthwiseKernel
from sparsec.compiler.lowering.ops import Convolution
from tests.backends.kernels.products import EPILOGUES, PLAIN_SUM, VARIETY, Problem, check, convolution_problem

KERNEL = DepthwiseKernel()
SHAPES = [
    {"size": (7, 7), "kernel": (3, 3), "pads": (1, 1, 1, 1)},
    {"size": (9, 11), "kernel": (3, 3), "stride": (2, 2), "pads": (0, 0, 1, 1)},
    {"size": (6, 6), "kernel": (5, 5), "pads": (2, 2, 2, 2)},
    {"size": (12, 21), "kernel": (5, 5), "stride": (2, 2), "pads": (1, 1, 2, 2)},
    {"size": (8, 9), "kernel": (3, 3), "dilation": (2, 2), "pads": (2, 2, 2, 2)},
    {"size": (1, 40), "kernel": (1, 7), "pads": (0, 3, 0, 3)},
    {"size": (5, 36), "kernel": (2, 2)},
    {"size": (30, 1), "kernel": (3, 1), "pads": (1, 0, 1, 0)},
    {"size": (3, 2), "kernel": (1, 2)},
    {"size": (7, 35), "kernel": (3, 3), "stride": (2, 2), "pads": (1, 1, 1, 1)},
    {"size": (11, 25), "kernel": (3, 5), "stride": (1, 3), "pads": (1, 0, 1, 2)},
    {"size": (10, 70), "kernel": (2, 3), "stride": (2, 4), "dilation": (2, 5), "pads": (0, 3, 1, 4)},
    {"size": (9, 20), "kernel": (3, 3), "stride": (3, 2), "dilation": (3, 6), "pads": (3, 6, 3, 6)},
    {"size": (5, 5), "kernel": (3, 3), "pads": (2, 2, 2, 2)},
    {"size": (14, 4), "kernel": (3, 3), "stride": (2, 1), "pads": (1, 1, 1, 1)},
    {"size": (40, 19), "kernel": (3, 3), "pads": (1, 1, 1, 1)},
    {"size": (75, 63), "kernel": (5, 5), "pads": (2, 2, 2, 2)},
    {"size": (65, 130), "kernel": (3, 3), "stride": (2, 2), "pads": (9, 1, 12, 1)},
]


def _ops(dtype: str) -> list[Convolution]:
    channels = (1, 4, 6, 9)
    ops = []
    for i, shape in enumerate(SHAPES):
        count = max(2, channels[i % 4])
        code = 9 * (dtype == "uint8")
        chosen = EPILOGUES[i % len(EPILOGUES)]
        ops.append(Convolution(dtype, count, count, groups=count, pad_code=code, epilogue=chosen, **shape))
    return ops


@pytest.mark.parametrize(("isa", "dtype"), VARIETY)
def test_matches_the_definition(isa: str, dtype: str, tmp_path: Path) -> None:
    problems = [convolution_problem(op, seed) for seed, op in enumerate(_ops(dtype))]
    assert check(KERNEL, problems, isa, tmp_path) == len(problems)


@pytest.mark.parametrize("isa", ["avx2"])
def test_every_tile(isa: str, tmp_path: Path) -> None:
    ops = [
        Convolution(dtype, 5, 5, (13, 37), (3, 3), pads=(1, 1, 1, 1), groups=5, epilogue=EPILOGUES[3])
        for dtype in ("float32", "uint8")
    ]
    assert check(KERNEL, [convolution_problem(op, 1) for op in ops], isa, tmp_path, every=True) >= 10


def test_several_filters_a_channel(tmp_path: Path) -> None:
    op = Convolution("float32", 3, 6, (8, 8), (3, 3), pads=(1, 1, 1, 1), groups=3, epilogue=EPILOGUES[4])
    assert check(KERNEL, [convolution_problem(op, 1)], "avx2", tmp_path)


@pytest.mark.parametrize("isa", ISAS)
def test_the_largest_codes_do_not_saturate(isa: str, tmp_path: Path) -> None:
    op = Convolution("uint8", 4, 4, (4, 8), (3, 3), groups=4)
    weight = np.full((4, 1, 3, 3), -128, np.int8)
    full = Problem(
        op, "dense", np.full((4, 4, 8), 127, np.uint8), weight, (), np.full((4, 12), -127 * 128 * 9.0, np.float32)
    )
    assert check(KERNEL, [full], isa, tmp_path)


def test_other_groups_are_not_its_job() -> None:
    assert not list(KERNEL.candidates(Convolution("float32", 8, 8, (4, 4), (3, 3), groups=2), "dense", 4))
    assert not list(
        KERNEL.candidates(Convolution("uint8", 4, 8, (4, 4), (3, 3), groups=4, epilogue=PLAIN_SUM), "dense", 4)
    )
