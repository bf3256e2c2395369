# SPDX-License-Identifier: Apache-2.0
"""Which words of four channels a panel of rows can share a dot product for, and the arrays that say so. Numpy only.

Two words of a panel make a pair if no byte is needed of both: the channels 0 and 3 of one, say, and 1 of another. A
word that finds no partner goes alone, as a pair with itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparsec.compiler.lowering.kernel import Array

_MASKS = range(16)
_ALONE = [(mask, 0) for mask in _MASKS if mask]
_PAIRS = sorted(
    ((a, b) for a in _MASKS for b in range(1, a) if not a & b), key=lambda pair: -(pair[0] | pair[1]).bit_count()
)
"""Masks that can share a word: those that fill it first, a word alone last."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A sparse weight of words as a kernel reads it.

    Attributes:
        values: int32 [pair][row]: weights of four channels, each of one word of the pair or the other.
        masks: int32 [pair]: all bits of the bytes that come from the pair's first word.
        places: int32 [pair][2]: where the operands of both words lie.
        ends: int32 [panels + 1]: the number of pairs before each panel.
    """

    values: Array
    masks: Array
    places: Array
    ends: Array


def count(elements: Array, size: int) -> int:
    """How many pairs all panels have together; see `pack`."""
    return int(_matched(_needed(_panels(elements, size))).sum())


def pack(elements: Array, size: int, places: Array) -> Packed:
    """Pair the words of [row][step], panel by panel.

    Args:
        elements: int32: words of four int8 weights.
        size: Rows of a panel; the last panel is filled up by empty rows.
        places: int32 [step]: where the operand of each step lies.
    """
    panels = _panels(elements, size)
    needed = _needed(panels)
    chosen = [
        np.array([*_steps(*both)] or [], int).reshape(-1, 2) for both in zip(needed, _matched(needed), strict=True)
    ]
    ends = np.cumsum([0, *(len(pairs) for pairs in chosen)])
    values, masks = [], []
    for panel, need, (first, second) in zip(panels, needed, (pairs.T for pairs in chosen), strict=True):
        mask = _spread(need[first])
        values.append((panel[:, first] & mask | panel[:, second] & ~mask).T)
        masks.append(mask)
    return Packed(
        _never_empty(np.concatenate(values)),
        _never_empty(np.concatenate(masks)),
        _never_empty(places[np.concatenate(chosen)]),
        ends.astype(np.int32),
    )


def _steps(need: Array, matched: Array) -> Iterator[tuple[int, int]]:
    """The two steps of each pair of one panel."""
    waiting = {mask: iter(np.flatnonzero(need == mask)) for mask in _MASKS}
    for (a, b), number in zip(_PAIRS + _ALONE, matched, strict=True):
        for _ in range(number):
            first = int(next(waiting[a]))
            yield first, int(next(waiting[b])) if b else first


def _matched(needed: Array) -> Array:
    """How many pairs of each kind every panel makes: [panel][kind]."""
    left = np.stack([(needed == mask).sum(axis=1) for mask in _MASKS])
    found = []
    for a, b in _PAIRS:
        found.append(np.minimum(left[a], left[b]))
        left[a] -= found[-1]
        left[b] -= found[-1]
    return np.stack([*found, *(left[a] for a, _ in _ALONE)], axis=1)


def _needed(panels: Array) -> Array:
    """Which bytes of each step's word some row needs, as four bits: [panel][step]."""
    held = np.ascontiguousarray(panels).view(np.int8).reshape(*panels.shape, 4).any(axis=1)
    return np.asarray(held @ (1 << np.arange(4)))


def _spread(bits: Array) -> Array:
    """All bits of the bytes of a word: int32."""
    each = bits[:, None] >> np.arange(4) & 1
    return np.ascontiguousarray(-each.astype(np.int8)).view(np.int32)[:, 0]


def _panels(elements: Array, size: int) -> Array:
    """[panel][row][step], the last one filled up by zeros."""
    rows, steps = elements.shape
    padded = np.zeros((-(-rows // size) * size, steps), elements.dtype)
    padded[:rows] = elements
    return padded.reshape(-1, size, steps)


def _never_empty(array: Array) -> Array:
    return np.ascontiguousarray(array if array.size else np.zeros(1), np.int32).ravel()
