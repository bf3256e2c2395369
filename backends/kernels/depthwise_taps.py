# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolution of codes on ARM without dot products: products of bytes, tap by tap, no shuffle.

A vector of words under one tap holds four channels of each of four positions; so does the tap's weight, repeated.
Their products are 16 bits wide, and the sum of two taps' still fits: at most 2 * 127 * 128. Each such pair is then
added to sums of 32 bits, which stand by position and then channel, as `Tail.store_quads` wants them. Taps go down the
columns of the kernel: so most operands of a pair are also those of the vector below, and of the pair after it.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from tvm.tirx.script import builder as T

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.dot import fenced
from sparsec.backends.kernels.stencil import PAIRED, WORD, Stencil

Expr = Any
_HALVES = (range(8), range(8, 16))
_QUARTERS = (range(4), range(4, 8))


def applies(isa: Isa, lanes: int) -> bool:
    """Whether this is what `isa` computes vectors of so many words by."""
    return isa.dot == "widen" and not isa.wasm and lanes == WORD


def tap_weights(stencil: Stencil, w: Expr, word: Expr) -> Mapping[int, Expr]:
    """For each tap its weights of four channels, in each word of a vector."""
    first = word * (len(stencil.groups) * WORD)
    found: dict[int, Expr] = {}
    for g, group in enumerate(stencil.groups):
        new = [(place, tap) for place, tap in enumerate(group) if tap >= 0 and tap not in found]
        quad = T.reinterpret("int8x16", emit.bind(vector.load(w, first + g * WORD, WORD)))
        for place, tap in new:
            found[tap] = fenced(vector.pick(quad, [WORD * channel + place for channel in range(WORD)] * WORD))
    return found


def tap_sums(stencil: Stencil, plane: Expr, weights: Mapping[int, Expr], start: Expr) -> emit.Registers:
    """The sums of a register tile: vector by vector, of each its four positions."""
    sums = emit.Registers(WORD * len(stencil.vectors), "int32", WORD)
    height, width = stencil.op.kernel
    taps = [ky * width + kx for kx, ky in product(range(width), range(height))]
    for i in range(0, len(taps), 2):
        for v, (row, column) in enumerate(stencil.vectors):
            at = start + row * stencil.pitch + column
            pair = [(_operand(stencil, plane, at, *divmod(tap, width)), weights[tap]) for tap in taps[i : i + 2]]
            for position, added in enumerate(_products(pair)):
                sums[v * WORD + position] = sums[v * WORD + position] + added
    return sums


def _operand(stencil: Stencil, plane: Expr, first: Expr, ky: int, kx: int) -> Expr:
    """The words of four positions under a tap, as bytes; for a stride of two, out of those under two taps."""
    down, across = stencil.op.dilation
    at, tap, stride = first + ky * down * stencil.pitch, kx * across, stencil.op.stride[1]
    if stride == PAIRED:
        both = emit.bind(vector.load(plane, at + tap // 2 * 2, 2 * WORD))
        words = vector.pick(both, range(tap % 2, 2 * WORD, 2))
    elif stride == 1:
        words = vector.load(plane, at + tap, WORD)
    else:
        words = vector.concat([emit.bind(plane[at + tap + stride * i]) for i in range(WORD)])
    return emit.bind(T.reinterpret("int8x16", emit.bind(words)))


def _products(operands: Sequence[tuple[Expr, Expr]]) -> list[Expr]:
    """For each position, the sum of one or two products as 32 bits."""
    found = []
    for half in _HALVES:
        terms = [_multiplied(vector.pick(x, half), vector.pick(w, half)) for x, w in operands]
        total = emit.bind(terms[0] if len(terms) == 1 else terms[0] + terms[1])
        found += [T.cast(vector.pick(total, quarter), "int32x4") for quarter in _QUARTERS]
    return found


def _multiplied(x: Expr, w: Expr) -> Expr:
    return T.call_llvm_pure_intrin("int16x8", "llvm.aarch64.neon.smull.v8i16", x, w)
