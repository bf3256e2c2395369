# SPDX-License-Identifier: Apache-2.0
"""The loop nest of an `Elementwise` op, found at build time."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from sparsec.compiler.lowering.expression import IDENTITY
from sparsec.compiler.lowering.ops import Elementwise

SHORT = 4
"""Axes of fewer elements are not worth vectors."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A loop: its extent, and how far each array moves at a step; operands first, the output last."""

    extent: int
    strides: tuple[int, ...]


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Element strides of a contiguous array."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def out_strides(op: Elementwise) -> tuple[int, ...]:
    """Element strides of the output."""
    return row_major(op.shape) if op.out_strides is None else op.out_strides


def moves_only(op: Elementwise) -> bool:
    """Whether elements are copied as they are."""
    return op.expression == IDENTITY and [o.dtype for o in op.operands] == [op.dtype]


def loop_nest(op: Elementwise) -> list[Axis]:
    """Axes from the output's slowest to its fastest, joined where all arrays allow it; the last is for vectors."""
    rows = zip(op.shape, zip(*(o.strides for o in op.operands), out_strides(op), strict=True), strict=True)
    axes = [Axis(extent, tuple(strides)) for extent, strides in rows if extent != 1]
    joined: list[Axis] = []
    for axis in sorted(axes, key=lambda a: -abs(a.strides[-1])):
        if joined and _contiguous(joined[-1], axis):
            axis = Axis(joined.pop().extent * axis.extent, axis.strides)
        joined.append(axis)
    return _long_axis_last(joined or [Axis(1, (1,) * (len(op.operands) + 1))])


def across(axes: Sequence[Axis], square: int) -> int | None:
    """The axis along which an operand has its neighbours that the vector axis does not, if squares fit."""
    last = axes[-1]
    operands = [i for i, stride in enumerate(last.strides[:-1]) if stride not in (0, 1)]
    found = [k for k, a in enumerate(axes[:-1]) if a.extent >= square and any(a.strides[i] == 1 for i in operands)]
    return found[0] if found and last.strides[-1] == 1 and last.extent >= square else None


def quads(axes: Sequence[Axis], dtypes: Sequence[str], least: int = 4) -> tuple[int, int] | None:
    """Positions and lanes of a ``channels4`` array of codes: the axes where it has strides 4, and 1 of extent 4.

    None if no array is so, or if another has its neighbours along the lanes (tokens by channels): then vectors along
    the lanes serve it better. `least` lanes are enough where only the output is so.
    """
    lanes = [k for k, axis in enumerate(axes) if least <= axis.extent <= 4 and 1 in axis.strides]
    for lane, position in ((k, p) for k in lanes for p in range(len(axes)) if p != k):
        pairs = list(zip(axes[position].strides, axes[lane].strides, dtypes, strict=True))
        words = [pair == (4, 1, "uint8") for pair in pairs]
        if axes[lane].extent < 4 and (any(words[:-1]) or not words[-1]):
            continue
        if any(words) and all(word or pair[1] != 1 or pair[0] == 0 for word, pair in zip(words, pairs, strict=True)):
            return position, lane
    return None


def _contiguous(outer: Axis, inner: Axis) -> bool:
    return all(a == inner.extent * b for a, b in zip(outer.strides, inner.strides, strict=True))


def _long_axis_last(axes: list[Axis]) -> list[Axis]:
    """Vectors along an axis of three elements gain nothing: take the longest axis instead."""
    if axes[-1].extent >= SHORT:
        return axes
    longest = max(range(len(axes)), key=lambda i: axes[i].extent)
    return [a for i, a in enumerate(axes) if i != longest] + [axes[longest]]
