# SPDX-License-Identifier: Apache-2.0
"""The static arena: where each intermediate lives, by liveness."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparsec.compiler.lowering.program import ALIGNMENT


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A buffer of `nbytes` that must hold its content from call `first` to call `last`, both included."""

    nbytes: int
    first: int
    last: int

    def overlaps(self, other: "Lifetime") -> bool:
        """Whether both are alive at some call."""
        return self.first <= other.last and other.first <= self.last


def align(nbytes: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def plan(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Offsets of the buffers and the size of the arena in bytes.

    Largest first, each at the lowest offset free during its whole life: the greedy-by-size strategy of Pisarchyk and
    Lee, "Efficient memory management for deep neural net inference" (2020).
    """
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    for index in sorted(range(len(lifetimes)), key=lambda i: (-lifetimes[i].nbytes, i)):
        neighbours = [i for i in placed if lifetimes[i].overlaps(lifetimes[index])]
        taken = sorted((offsets[i], offsets[i] + align(lifetimes[i].nbytes)) for i in neighbours)
        offsets[index] = _first_gap(taken, align(lifetimes[index].nbytes))
        placed.append(index)
    ends = [offset + align(life.nbytes) for offset, life in zip(offsets, lifetimes, strict=True)]
    return offsets, max(ends, default=0)


def _first_gap(taken: Sequence[tuple[int, int]], nbytes: int) -> int:
    start = 0
    for low, high in taken:
        if low - start >= nbytes:
            return start
        start = max(start, high)
    return start
