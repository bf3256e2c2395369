# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolution of codes in numbers: tiles, where operands begin, how weights are packed. No TIR.

A dot product takes four taps of a channel: four neighbouring columns of a kernel row (a *row group*), or, where one
column would be left of each row, four rows of that column (a *column group*). Row groups serve every output row at
another kernel row. Column groups begin at every fourth row of a register tile's operand, so that vectors share them
too: a vector that begins between two of them takes weights that are shifted by so many rows, its phase.

Columns between the taps of a dilated kernel are taps whose weight is zero.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from sparsec.backends.kernels.positions import Span, covering, upright
from sparsec.backends.kernels.product_cost import DepthwiseTile
from sparsec.compiler.lowering.kernel import Array, KernelSpec
from sparsec.compiler.lowering.ops import Convolution

WORD = 4
"""Codes of a word, words of 16 bytes, taps of a group."""
PAIRED = 2
"""The stride of columns at which 16 bytes begin at every second position."""
_WHOLE, _BAND = 4096, 1280
"""Words in scratch memory up to which all rows are copied together, and otherwise of a band of rows."""
_SHAPES = ((4, 1), (3, 1), (2, 1), (1, 1), (2, 2), (1, 4))
"""Vectors below x beside each other of the register tiles tried."""


@dataclass(frozen=True)
class Stencil:
    """All numbers of one kernel. Offsets count words of four codes.

    Attributes:
        op: The convolution.
        fold: Rows of a vector.
        down: Vectors below each other.
        across: Vectors beside each other.
        lanes: Words of a vector.
    """

    op: Convolution
    fold: int
    down: int
    across: int
    lanes: int

    @classmethod
    def of(cls, spec: KernelSpec) -> "Stencil":
        """Of a spec whose tile is (fold, vectors down, vectors across, lanes)."""
        assert isinstance(spec.op, Convolution)
        return cls(upright(spec.op), *spec.tile[:4])

    @property
    def segment(self) -> int:
        """Words of one row in a vector."""
        return self.lanes // self.fold

    @property
    def words(self) -> int:
        """Words of four channels."""
        return -(-self.op.filters // WORD)

    @property
    def pitch(self) -> int:
        """Words of a row in scratch memory: what the taps reach."""
        op = self.op
        return (op.out_size[1] - 1) * op.stride[1] + op.dilation[1] * (op.kernel[1] - 1) + 1

    @property
    def ys(self) -> Span:
        """Tiles along a column of a band; a single one may reach beyond it."""
        height, size = min(self.bands.step, self.op.out_size[0]), self.down * self.fold
        return covering(max(height, size), size)

    @cached_property
    def bands(self) -> Span:
        """Rows of the output whose operand lies in scratch memory at the same time: all, if that is small."""
        height, size = self.op.out_size[0], self.down * self.fold
        count = covering(max(height, size), size).count
        shares = [n for n in range(count, 0, -1) if count % n == 0]
        fitting = [n for n in shares if self.pitch * self._rows_under(n * size) <= (_WHOLE if n == count else _BAND)]
        rows = size * (fitting[0] if fitting else 1)
        return covering(max(height, rows), rows)

    @property
    def rows(self) -> int:
        """Rows in scratch memory: what the taps of a band reach."""
        return self._rows_under(min(self.bands.step, self.op.out_size[0]))

    def _rows_under(self, count: int) -> int:
        return (count - 1) * self.op.stride[0] + self.op.dilation[0] * (self.op.kernel[0] - 1) + 1

    @property
    def xs(self) -> Span:
        """Tiles along a row; a single one may reach beyond it."""
        width, size = self.op.out_size[1], self.across * self.segment
        return covering(max(width, size), self.across, self.segment)

    @cached_property
    def vectors(self) -> list[tuple[int, int]]:
        """First row and column of each vector's operand, from the tile's."""
        sy, sx = self.op.stride
        return [(r * self.fold * sy, c * self.segment * sx) for r in range(self.down) for c in range(self.across)]

    @cached_property
    def groups(self) -> list[tuple[int, ...]]:
        """Index of each tap of all groups, -1 where there is none."""
        (height, width), step = self.op.kernel, self.op.dilation[1]
        rows = [
            [(ky, x // step) if x % step == 0 else (ky, -1) for x in range(first, first + WORD)]
            for ky, first in self.row_groups
        ]
        columns = [[(WORD * i + b - phase, width - 1) for b in range(WORD)] for phase, i in self.column_groups]
        return [
            tuple(ky * width + kx if 0 <= ky < height and 0 <= kx < width else -1 for ky, kx in group)
            for group in [*rows, *columns]
        ]

    @cached_property
    def row_groups(self) -> list[tuple[int, int]]:
        """Row of the kernel, and first of four columns."""
        columns = [first for first in self._columns if first != self._alone]
        return list(product(range(self.op.kernel[0]), columns))

    @cached_property
    def column_groups(self) -> list[tuple[int, int]]:
        """Phase, and which of its groups."""
        phases = sorted({row % WORD for row, _ in self.vectors})
        counts = [(phase, -(-(phase + self.op.kernel[0]) // WORD)) for phase in phases]
        return [(phase, i) for phase, count in counts for i in range(count) if self._alone is not None]

    @property
    def _columns(self) -> list[int]:
        """First of four columns, of all that hold a tap."""
        return sorted({x * self.op.dilation[1] // WORD * WORD for x in range(self.op.kernel[1])})

    @property
    def _alone(self) -> int | None:
        """The last column, if its taps make column groups."""
        last = (self.op.kernel[1] - 1) * self.op.dilation[1]
        dense = self.op.dilation == (1, 1) and self.op.stride[1] in (1, PAIRED) and self.op.kernel[0] > 2
        return last if dense and last % WORD == 0 else None

    @cached_property
    def row_uses(self) -> list[tuple[int, int, int]]:
        """Where an operand begins, the sum it adds to (vector and part), and its group; equal operands together.

        Column by column: so few sums, and few operands that share a row, are needed at a time.
        """
        places = sorted(
            (column + first + start, row + ky * self.op.dilation[0], v * WORD + part, g)
            for v, (row, column) in enumerate(self.vectors)
            for g, (ky, first) in enumerate(self.row_groups)
            for part, start in enumerate(self._starts)
        )
        return [(row * self.pitch + column, place, g) for column, row, place, g in places]

    @cached_property
    def column_uses(self) -> list[tuple[int, int, int]]:
        """Where an operand of four rows begins, the vector it adds to, and its group; equal operands together."""
        return sorted(
            ((row - phase + WORD * i) * self.pitch + column + (self._alone or 0), v, len(self.row_groups) + g)
            for v, (row, column) in enumerate(self.vectors)
            for g, (phase, i) in enumerate(self.column_groups)
            if phase == row % WORD
        )

    def held(self, groups: Iterable[int]) -> int:
        """Rows of an operand of four that these groups have taps in."""
        return max(place + 1 for group in groups for place, tap in enumerate(self.groups[group]) if tap >= 0)

    @property
    def _starts(self) -> list[int]:
        """Where the operand of each of four parts of a vector begins."""
        if self.op.stride[1] == PAIRED:
            return [0, PAIRED, self.segment, self.segment + PAIRED]
        return [self.op.stride[1] * part for part in range(WORD)]

    @property
    def pieces(self) -> list[int]:
        """Where the equally long pieces of an operand begin, from its start."""
        (sy, sx), lanes = self.op.stride, range(0, self.segment, WORD)
        beside = [0] if sx in (1, PAIRED) else [sx * lane for lane in lanes]
        return [row * sy * self.pitch + x for row in range(self.fold) for x in beside]

    @property
    def scratch(self) -> int:
        """Words of scratch memory, with what whole vectors touch beyond the last row."""
        last = self.ys.last * self.op.stride[0] * self.pitch + self.xs.last * self.op.stride[1]
        rows = self.vectors[-1][0] + self.op.kernel[0] * self.op.dilation[0]
        reach = self.vectors[-1][1] + self._columns[-1] + self._starts[-1] + self.pieces[-1] + self.lanes
        return last + rows * self.pitch + reach

    @property
    def copies(self) -> int:
        """Bands in scratch memory: two small ones, so that a copy is made long before it is read by other vectors."""
        return 2 if self.words * self.bands.count > 1 and 2 * self.scratch <= _WHOLE else 1

    def lane(self, position: int) -> int:
        """Where a row's position lies in its segment, once its parts are put together."""
        if self.op.stride[1] != PAIRED:
            return position
        half, place = divmod(position, self.segment // 2)
        return WORD * (place // 2) + 2 * half + place % 2

    def runs(self, v: int) -> Iterator[tuple[int, list[int]]]:
        """Neighbouring results of a vector: position from the tile's first, lanes (a power of two)."""
        height, width = self.op.out_size
        row, column = v // self.across * self.fold, v % self.across * self.segment
        columns = min(self.segment, width - column) if self.xs.count == 1 else self.segment
        rows = min(self.fold, height - row) if self.ys.count == self.bands.count == 1 else self.fold
        lanes = [r * self.segment + self.lane(p) for r in range(max(rows, 0)) for p in range(max(columns, 0))]
        if lanes:
            size = 1 << (len(lanes).bit_length() - 1)
            for start in sorted({0, len(lanes) - size}):
                yield row * width + column + start, lanes[start : start + size]


def tiles(op: Convolution, lanes: int) -> set[tuple[int, int, int, int]]:
    """Tiles worth pricing."""
    height, width = upright(op).out_size
    segment = min(lanes, max(WORD, 1 << (width - 1).bit_length()))
    fold = min(lanes // segment, 1 << (height - 1).bit_length())
    most = -(-height // fold), -(-width // segment)
    return {(fold, min(down, most[0]), min(across, most[1]), segment * fold) for down, across in _SHAPES}


def work(stencil: Stencil) -> tuple[DepthwiseTile, float]:
    """What a register tile does, and the vectors computed for each word of channels."""
    vectors, pieces = len(stencil.vectors), len(stencil.pieces)
    rows, columns = (len({at for at, *_ in uses}) for uses in (stencil.row_uses, stencil.column_uses))
    groups = len(stencil.row_groups) + len(stencil.column_uses) / vectors
    loads = (rows + WORD * stencil.op.stride[1] * columns) * pieces
    shuffles = loads + 2 * WORD * columns + WORD * vectors
    tiles_run = stencil.bands.count * stencil.ys.count * stencil.xs.count
    return DepthwiseTile(vectors, groups, loads, shuffles), float(vectors * tiles_run)


def pack(stencil: Stencil, weight: Array) -> Array:
    """[four channels][group][channel][tap] as int8 in words."""
    filters, groups = stencil.op.filters, np.array(stencil.groups)
    taps = np.asarray(weight).reshape(filters, -1)
    packed = np.zeros((stencil.words * WORD, *groups.shape), np.int8)
    packed[:filters] = np.where(groups >= 0, taps[:, groups], 0)
    ordered = packed.reshape(-1, WORD, *groups.shape).swapaxes(1, 2)
    return np.ascontiguousarray(ordered).view(np.int32).ravel()
