# SPDX-License-Identifier: Apache-2.0
"""The transpose of four vectors within each 128 bits: instruction sets interleave halves of such lanes in one step."""

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from sparsec.backends.kernels import emit, vector

Expr = Any
_LANE = 4
"""Words of 128 bits."""


def transpose_words(vectors: Sequence[Expr]) -> list[Expr]:
    """Four vectors of words: word i of quad j in vector k goes to word k of quad j in vector i."""
    a, b, c, d = vectors
    low, low_other = _interleave(a, b, 1, 0), _interleave(c, d, 1, 0)
    high, high_other = _interleave(a, b, 1, 1), _interleave(c, d, 1, 1)
    pairs = [(low, low_other, 0), (low, low_other, 1), (high, high_other, 0), (high, high_other, 1)]
    return [_interleave(p, q, 2, half) for p, q, half in pairs]


def _interleave(a: Expr, b: Expr, run: int, half: int) -> Expr:
    """Runs of words of a and b in turn, from the lower (0) or upper (1) half of each lane."""
    return emit.bind(tirx.Shuffle([a, b], [vector.index(i) for i in _order(vector.lanes_of(a), run, half)]))


def _order(count: int, run: int, half: int) -> list[int]:
    order: list[int] = []
    for lane in range(0, count, _LANE):
        start = lane + half * _LANE // 2
        for i in range(start, start + _LANE // 2, run):
            order += [*range(i, i + run), *range(count + i, count + i + run)]
    return order
