# SPDX-License-Identifier: Apache-2.0
"""Inner loops consist of products, loads and little else, and keep their sums in registers."""

import re

import pytest

from benchmarks.inner_loops import hottest
from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.convolution import ConvolutionKernel
from sparsec.backends.kernels.depthwise import DepthwiseKernel
from sparsec.backends.kernels.plan import layouts
from sparsec.backends.kernels.sparse import SparseKernel
from sparsec.backends.kernels.word_pairs import WordPairKernel
from sparsec.backends.tir import build_object
from sparsec.compiler.lowering.kernel import KernelSpec
from sparsec.compiler.lowering.ops import Convolution
from tests.backends.kernels.products import AFFINE, REQUANTIZE

DENSE, SPARSE, PAIRS, DEPTHWISE = ConvolutionKernel(), SparseKernel(), WordPairKernel(), DepthwiseKernel()


def _loop(family, isa, dtype, tile, **options):
    epilogue = REQUANTIZE if dtype == "uint8" else AFFINE
    op = Convolution(dtype, 256, 256, (28, 28), epilogue=epilogue, **options)
    source, target = layouts(op)
    pattern = "block(4x4)" if family is SPARSE else "dense"
    spec = KernelSpec(family.family, op, pattern, tile, (source,), target)
    return hottest(build_object({"kernel": family.build(spec, ISAS[isa])}, ISAS[isa]).asm())


@pytest.mark.parametrize(
    ("family", "isa", "dtype", "tile", "most"),
    [
        (DENSE, "neon-dotprod", "uint8", (4, 1, 6, 4), 32),
        (SPARSE, "neon-dotprod", "uint8", (4, 1, 6, 4, 1), 32),
        (DENSE, "neon-dotprod", "float32", (4, 1, 6, 4), 32),
        (SPARSE, "neon-dotprod", "float32", (4, 1, 6, 4, 1), 32),
        (DENSE, "neon", "uint8", (4, 1, 4, 4), 64),
        (SPARSE, "neon", "uint8", (4, 1, 4, 4, 1), 63),
        (PAIRS, "neon-dotprod", "uint8", (4, 1, 4, 4), 32),
        (PAIRS, "neon", "uint8", (4, 1, 4, 4), 76),
    ],
)
def test_a_turn_has_few_instructions_and_no_spill(family, isa, dtype, tile, most):
    """Products of registers, three instructions each without dot products; operands, weights, index, end of loop."""
    loop = _loop(family, isa, dtype, tile)
    assert len(loop.lines) <= most, loop.lines
    assert not [line for line in loop.lines if re.search(r"\[sp[\],]", line)]
    assert loop.products == {"uint8": 16, "float32": 4}[dtype] * tile[0] * tile[2]


@pytest.mark.parametrize(("size", "most"), [(3, 8), (5, 7)])
def test_depthwise_without_dot_products_multiplies_bytes(size, most):
    """A loop is a register tile from operands to codes; instructions for each 16 products of bytes."""
    pads = (size // 2,) * 4
    loop = _loop(DEPTHWISE, "neon", "uint8", (1, 2, 1, 4), kernel=(size, size), pads=pads, groups=256)
    assert loop.products == 2 * 16 * size * size
    assert len(loop.lines) <= most * loop.products / 16, loop.lines


@pytest.mark.parametrize(
    ("family", "tile", "most"),
    [
        (DENSE, (4, 1, 6, 16), 38),
        (DENSE, (8, 1, 3, 16), 39),
        (SPARSE, (4, 1, 6, 16, 1), 41),
        (SPARSE, (4, 1, 4, 16, 1), 31),
        (SPARSE, (2, 1, 6, 16, 1), 27),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_turn_with_long_vectors_moves_no_sum(family, dtype, tile, most):
    """Neither to the stack nor from register to register, though a tile leaves one register free."""
    loop = _loop(family, "avx512vnni", dtype, tile)
    assert len(loop.lines) <= most, loop.lines
    assert not [line for line in loop.lines if re.search(r"\(%rsp|^vmov\w+\s+%zmm\d+, %zmm", line)]
    assert loop.products == {"uint8": 64, "float32": 16}[dtype] * tile[0] * tile[2]
