# SPDX-License-Identifier: Apache-2.0
"""Transposes of four vectors within each 128 bits: instruction sets interleave halves of such lanes in one step."""

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from sparsec.backends.kernels import emit, vector

Expr = Any
_LANE = 16
_TYPES = {1: "int8", 2: "int16", 4: "int32"}


def transpose_bytes(vectors: Sequence[Expr]) -> list[Expr]:
    """Four vectors of words with bytes c = 0..3: vector k gets, for each c, byte c of every vector's words 4j + k."""
    a, b, c, d = vectors
    low, low_other = _interleave(a, b, 1, 0), _interleave(c, d, 1, 0)
    high, high_other = _interleave(a, b, 1, 1), _interleave(c, d, 1, 1)
    pairs = [(low, low_other, 0), (low, low_other, 1), (high, high_other, 0), (high, high_other, 1)]
    return [_interleave(p, q, 2, half) for p, q, half in pairs]


def transpose_words(vectors: Sequence[Expr]) -> list[Expr]:
    """Four vectors of words: word i of quad j in vector k goes to word k of quad j in vector i."""
    a, b, c, d = vectors
    low, low_other = _interleave(a, b, 4, 0), _interleave(c, d, 4, 0)
    high, high_other = _interleave(a, b, 4, 1), _interleave(c, d, 4, 1)
    pairs = [(low, low_other, 0), (low, low_other, 1), (high, high_other, 0), (high, high_other, 1)]
    return [_interleave(p, q, 8, half) for p, q, half in pairs]


def _interleave(a: Expr, b: Expr, size: int, half: int) -> Expr:
    """Elements of `size` bytes of a and b in turn, from the lower (0) or upper (1) half of each lane; words again."""
    words = vector.lanes_of(a)
    kind = _TYPES[min(size, 4)]
    count = words * 4 // min(size, 4)
    parts = [emit.bind(T.reinterpret(vector.typed(kind, count), value)) for value in (a, b)]
    mixed = tirx.Shuffle(parts, [vector.index(i) for i in _order(count, size, half)])
    return emit.bind(T.reinterpret(vector.typed("int32", words), emit.bind(mixed)))


def _order(count: int, size: int, half: int) -> list[int]:
    run = max(size // 4, 1)
    per_lane = _LANE // min(size, 4)
    order: list[int] = []
    for lane in range(0, count, per_lane):
        start = lane + half * per_lane // 2
        for i in range(start, start + per_lane // 2, run):
            order += [*range(i, i + run), *range(count + i, count + i + run)]
    return order
