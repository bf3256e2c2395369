# SPDX-License-Identifier: Apache-2.0
"""Vectors over a row of neighbouring float32: whole ones, and a last one that overlaps where the row is no multiple.

So no element is handled alone and no byte beyond the row is touched. A row shorter than a register takes vectors of
the next smaller power of two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from sparsec.backends.kernels import emit, vector

Expr = Any
Combine = Callable[[Expr, Expr], Expr]


@dataclass(frozen=True, slots=True)
class Row:
    """How vectors cover a row.

    Attributes:
        extent: Elements; with none there is no vector, and `fold` gives the neutral element.
        widest: Lanes of a register, a power of two.
    """

    extent: int
    widest: int

    @property
    def lanes(self) -> int:
        """Lanes of each vector."""
        return min(self.widest, 1 << (max(self.extent, 1).bit_length() - 1))

    @property
    def whole(self) -> int:
        """Number of vectors that do not overlap."""
        return self.extent // self.lanes

    @property
    def last(self) -> int | None:
        """Where the overlapping vector starts, if there is one."""
        return self.extent - self.lanes if self.extent % self.lanes else None

    def each(self, body: Callable[[Expr], None]) -> None:
        """The body for the start of every vector, the overlapping one included."""
        with emit.loop(self.whole) as i:
            body(i * self.lanes)
        if self.last is not None:
            body(self.last)

    def groups(self, size: int, body: Callable[[list[Expr]], None]) -> None:
        """The body for the starts of up to `size` neighbouring vectors at a time."""
        groups, single = divmod(self.whole, size)
        with emit.loop(groups) as g:
            body([(g * size + k) * self.lanes for k in range(size)])
        rest: list[Expr] = [(groups * size + k) * self.lanes for k in range(single)]
        rest += [] if self.last is None else [self.last]
        if rest:
            body(rest)

    def fold(self, value: Callable[[Expr], Expr], combine: Combine, neutral: float, ways: int = 4) -> Expr:
        """One float32 from all elements, by several independent accumulators.

        Args:
            value: The vector for a start.
            combine: Associative and commutative.
            neutral: Its neutral element.
            ways: Number of accumulators.
        """
        ways = max(1, min(ways, self.whole))
        total = emit.Registers(ways, "float32", self.lanes, [vector.const(neutral, "float32", self.lanes)] * ways)
        groups, single = divmod(self.whole, ways)
        with emit.loop(groups) as g:
            for k in range(ways):
                total[k] = combine(total[k], value((g * ways + k) * self.lanes))
        for k in range(single):
            total[k] = combine(total[k], value((groups * ways + k) * self.lanes))
        if self.last is not None:
            total[0] = combine(total[0], self.fresh(once(value(self.last)), neutral))
        return horizontal(_tree([total[k] for k in range(ways)], combine), combine)

    def fresh(self, value: Expr, neutral: float) -> Expr:
        """The overlapping vector, its lanes that an earlier one has had replaced by the neutral element."""
        old = self.lanes - self.extent % self.lanes
        picks = [i if i < old else self.lanes + i for i in range(self.lanes)]
        both = [vector.const(neutral, "float32", self.lanes), value]
        return tirx.Shuffle(both, [vector.index(i) for i in picks])


def horizontal(value: Expr, combine: Combine) -> Expr:
    """All lanes of a vector combined to a scalar, halves at a time."""
    lanes = vector.lanes_of(value)
    while lanes > 1:
        lanes //= 2
        low, high = vector.pick(value, range(lanes)), vector.pick(value, range(lanes, 2 * lanes))
        value = once(combine(low, high))
    return value


def once(value: Expr) -> Expr:
    """Compute a value here, through a register: TVM's simplifier would write a mere name out wherever it is used."""
    lanes = vector.lanes_of(value)
    return emit.Registers(1, str(value.ty).partition("x")[0], lanes, [value])[0]


def _tree(values: list[Expr], combine: Combine) -> Expr:
    while len(values) > 1:
        pairs = [once(combine(a, b)) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[len(pairs) * 2 :]
    return values[0]
