# SPDX-License-Identifier: Apache-2.0
"""The last step of integer kernels at its corners: halves, and numbers far beyond all integers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.convolution import ConvolutionKernel
from sparsec.backends.kernels.depthwise import DepthwiseKernel
from sparsec.backends.kernels.reference import finish_channels
from sparsec.compiler.lowering.ops import Convolution
from tests.backends.kernels.products import REQUANTIZE, Problem, check, convolution_problem, convolve

SCALES = np.array([0.5, -0.5, 1e-3, 3e8, -3e8, 1e30, -1e30], np.float32)
OFFSETS = np.array([0.5, 64.0, -1e20, 63.5], np.float32)


def problem(op: Convolution) -> Problem:
    """Every scale with every offset, one a channel; small weights, so that many sums are small too."""
    made = convolution_problem(op, 1, weight(op))
    scale = np.repeat(SCALES, len(OFFSETS))
    operands = (scale, np.tile(OFFSETS, len(SCALES)))
    expected = finish_channels(op.epilogue, convolve(op, made.x, made.weight), operands)
    assert len(set(expected.ravel().tolist())) > 20
    return replace(made, operands=operands, expected=expected)


def weight(op: Convolution) -> NDArray[np.int8]:
    """-1, 0 and 1."""
    shape = (op.filters, op.channels // op.groups, *op.kernel)
    return np.random.default_rng(2).integers(-1, 2, shape).astype(np.int8)


COUNT = len(SCALES) * len(OFFSETS)
STENCIL = Convolution("uint8", COUNT, COUNT, (5, 7), (3, 3), pads=(1, 1, 1, 1), groups=COUNT, epilogue=REQUANTIZE)
KERNELS = {
    "pointwise": (ConvolutionKernel(), Convolution("uint8", 6, COUNT, (5, 7), epilogue=REQUANTIZE)),
    "depthwise": (DepthwiseKernel(), STENCIL),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", KERNELS)
def test_numbers_of_any_size_are_rounded_and_clamped(name: str, isa: str, tmp_path: Path) -> None:
    kernel, op = KERNELS[name]
    assert check(kernel, [problem(op)], isa, tmp_path)
