# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolution of codes, four channels at a time: one byte shuffle makes operands of dot products.

A channel word's plane is first copied, with its padding, to scratch memory in the first-level cache. There, 16 bytes
are the words under four neighbouring taps of one position; transposed, they are four taps of each of four channels,
what a dot product of four wants. So a vector whose 16-byte lanes are loaded where positions 0, 4, 8, ... begin, its
shifts by one, two and three words, and one shuffle of each, serve a vector of positions. The sums stay as they are,
by position and then channel, until `Tail.store_quads` has made words of codes of them.

Columns between the taps of a dilated kernel are taps whose weight is zero. A register tile is rows x vectors; where
a row is shorter than half a vector, a vector holds several rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, product
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.dot import Arithmetic, arithmetic
from sparsec.backends.kernels.epilogue import Tail, parameters
from sparsec.backends.kernels.pad import copy_row
from sparsec.backends.kernels.positions import Span, covering, row_spans, upright
from sparsec.backends.kernels.product_cost import DepthwiseTile
from sparsec.compiler.lowering.kernel import Array, KernelSpec
from sparsec.compiler.lowering.ops import Convolution

Expr = Any
_WORD = 4
_SHAPES = ((4, 1), (3, 1), (2, 1), (1, 1), (2, 2), (1, 4))
"""Vectors below x beside each other of the register tiles tried."""
_PAIRED = 2
"""The stride of columns at which 16 bytes begin at every second position."""


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
        return -(-self.op.filters // _WORD)

    @property
    def pitch(self) -> int:
        """Words of a row in scratch memory: what the taps reach."""
        return _reach(self.op, 1)

    @property
    def rows(self) -> int:
        """Rows in scratch memory."""
        return _reach(self.op, 0)

    @property
    def ys(self) -> Span:
        """Tiles along a column; a single one may reach beyond it."""
        height, size = self.op.out_size[0], self.down * self.fold
        return covering(max(height, size), size)

    @property
    def xs(self) -> Span:
        """Tiles along a row; a single one may reach beyond it."""
        width, size = self.op.out_size[1], self.across * self.segment
        return covering(max(width, size), self.across, self.segment)

    @cached_property
    def groups(self) -> list[tuple[int, int]]:
        """Row of the kernel, and first of four columns, of each group of taps that holds one."""
        width, step = self.op.kernel[1], self.op.dilation[1]
        columns = sorted({x * step // _WORD * _WORD for x in range(width)})
        return list(product(range(self.op.kernel[0]), columns))

    @cached_property
    def vectors(self) -> list[tuple[int, int]]:
        """First row and column of each vector, from the tile's."""
        return [(r * self.fold, c * self.segment) for r in range(self.down) for c in range(self.across)]

    @cached_property
    def uses(self) -> list[tuple[int, int, int]]:
        """Where an operand begins, the sum it adds to (vector and part), and its group; equal operands together."""
        (sy, sx), dy = self.op.stride, self.op.dilation[0]
        return sorted(
            ((row * sy + ky * dy) * self.pitch + column * sx + first + start, v * _WORD + part, g)
            for v, (row, column) in enumerate(self.vectors)
            for g, (ky, first) in enumerate(self.groups)
            for part, start in enumerate(self._starts)
        )

    @property
    def _starts(self) -> list[int]:
        """Where the operand of each of four parts of a vector begins."""
        if self.op.stride[1] == _PAIRED:
            return [0, _PAIRED, self.segment, self.segment + _PAIRED]
        return [self.op.stride[1] * part for part in range(_WORD)]

    @property
    def pieces(self) -> list[int]:
        """Where the equally long pieces of an operand begin, from its start."""
        (sy, sx), lanes = self.op.stride, range(0, self.segment, _WORD)
        beside = [0] if sx in (1, _PAIRED) else [sx * lane for lane in lanes]
        return [row * sy * self.pitch + x for row in range(self.fold) for x in beside]

    @property
    def scratch(self) -> int:
        """Words of scratch memory, with what whole vectors touch beyond the last row."""
        last = self.ys.last * self.op.stride[0] * self.pitch + self.xs.last * self.op.stride[1]
        touched = last + self.uses[-1][0] + self.pieces[-1] + self.lanes // len(self.pieces)
        return max(touched, self.rows * self.pitch)

    def lane(self, position: int) -> int:
        """Where a row's position lies in its segment, once its parts are put together."""
        if self.op.stride[1] != _PAIRED:
            return position
        half, place = divmod(position, self.segment // 2)
        return _WORD * (place // 2) + 2 * half + place % 2

    def runs(self, row: int, column: int) -> Iterator[tuple[int, list[int]]]:
        """Neighbouring results of the vector there: position from the tile's first, lanes (a power of two)."""
        height, width = self.op.out_size
        columns = min(self.segment, width - column) if self.xs.count == 1 else self.segment
        rows = min(self.fold, height - row) if self.ys.count == 1 else self.fold
        lanes = [r * self.segment + self.lane(p) for r in range(max(rows, 0)) for p in range(max(columns, 0))]
        if lanes:
            size = 1 << (len(lanes).bit_length() - 1)
            for start in sorted({0, len(lanes) - size}):
                yield row * width + column + start, lanes[start : start + size]


def _reach(op: Convolution, axis: int) -> int:
    return (op.out_size[axis] - 1) * op.stride[axis] + op.dilation[axis] * (op.kernel[axis] - 1) + 1


def tiles(op: Convolution, lanes: int) -> set[tuple[int, int, int, int]]:
    """Tiles worth pricing."""
    height, width = upright(op).out_size
    segment = min(lanes, max(_WORD, 1 << (width - 1).bit_length()))
    fold = min(lanes // segment, 1 << (height - 1).bit_length())
    most = -(-height // fold), -(-width // segment)
    return {(fold, min(down, most[0]), min(across, most[1]), segment * fold) for down, across in _SHAPES}


def work(stencil: Stencil) -> tuple[DepthwiseTile, float]:
    """What a register tile does, and the vectors computed for each word of channels."""
    loads = len({offset for offset, *_ in stencil.uses}) * len(stencil.pieces)
    vectors = len(stencil.vectors)
    tile = DepthwiseTile(vectors, len(stencil.groups), loads, loads + _WORD * vectors)
    return tile, float(vectors * stencil.ys.count * stencil.xs.count)


def signature(stencil: Stencil) -> list[tuple[str, int]]:
    """Of the function: input, packed weights, epilogue operands, output."""
    op = stencil.op
    positions = op.out_size[0] * op.out_size[1]
    tail = parameters(op.epilogue, op.filters, op.filters * positions, stencil.words * positions)
    weights = stencil.words * len(stencil.groups) * _WORD
    return [("int32", stencil.words * op.size[0] * op.size[1]), ("int32", weights), *tail]


def pack(stencil: Stencil, weight: Array) -> Array:
    """[four channels][group of four taps][channel][tap] as int8 in words."""
    op, groups = stencil.op, stencil.groups
    taps = np.asarray(weight).reshape(op.filters, *op.kernel)
    packed = np.zeros((stencil.words * _WORD, len(groups), _WORD), np.int8)
    for (ky, kx), step in product(np.ndindex(op.kernel), [op.dilation[1]]):
        first = kx * step // _WORD * _WORD
        packed[: op.filters, groups.index((ky, first)), kx * step - first] = taps[:, ky, kx]
    ordered = packed.reshape(-1, _WORD, len(groups), _WORD).swapaxes(1, 2)
    return np.ascontiguousarray(ordered).view(np.int32).ravel()


def emit_code(stencil: Stencil, isa: Isa, x: Expr, w: Expr, rest: Sequence[Expr]) -> None:
    """The body of the function."""
    tail = Tail(stencil.op.epilogue, rest[:-1], rest[-1], isa)
    plane = T.alloc_buffer((stencil.scratch,), "int32")
    _fill(stencil, plane, isa.lanes("float32"))
    for span in row_spans(stencil.op.filters, _WORD):
        with emit.loop(span.count) as i:
            word = span.start // _WORD + i
            _copy(stencil, x, word, plane, isa.lanes("float32"))
            _emit_word(stencil, isa, plane, w, tail, word, len(span.offsets))


def _fill(stencil: Stencil, plane: Expr, lanes: int) -> None:
    """Padding everywhere; only what lies inside is written again."""
    fill = stencil.op.pad_code * 0x01010101
    width = min(lanes, 1 << (stencil.scratch.bit_length() - 1))
    span = covering(stencil.scratch, 1, width)
    with emit.loop(span.count) as i:
        emit.store(plane, emit.clamped(i, span.step, span.last), vector.const(fill, "int32", width))


def _copy(stencil: Stencil, x: Expr, word: Expr, plane: Expr, lanes: int) -> None:
    """What of a word's plane the taps reach."""
    op, (height, width) = stencil.op, stencil.op.size
    rows, columns = max(min(height, stencil.rows - op.pads[0]), 0), min(width, stencil.pitch - op.pads[1])
    with emit.loop(rows) as row:
        source = (word * height + row) * width
        copy_row(1, lanes, x, source, plane, (row + op.pads[0]) * stencil.pitch + op.pads[1], columns)


def _emit_word(stencil: Stencil, isa: Isa, plane: Expr, w: Expr, tail: Tail, word: Expr, count: int) -> None:
    """All tiles of four channels."""
    way = arithmetic(isa, "uint8")
    groups, lanes, (sy, sx) = len(stencil.groups), stencil.lanes, stencil.op.stride
    positions, width = stencil.op.out_size[0] * stencil.op.out_size[1], stencil.op.out_size[1]
    weights = [_weight(way, w, (word * groups + g) * _WORD, lanes) for g in range(groups)]
    with emit.loop(stencil.ys.count) as iy, emit.loop(stencil.xs.count) as ix:
        y = emit.clamped(iy, stencil.ys.step, stencil.ys.last)
        column = emit.clamped(ix, stencil.xs.step, stencil.xs.last)
        sums = _sums(stencil, way, plane, y * (sy * stencil.pitch) + column * sx, weights)
        for v, place in enumerate(stencil.vectors):
            quads = [sums[v * _WORD + part] for part in range(_WORD)]
            at = y * width + column
            runs = [(at + start, picked) for start, picked in stencil.runs(*place)]
            tail.store_quads(quads, word * _WORD, count, positions, runs)


def _sums(
    stencil: Stencil, way: Arithmetic, plane: Expr, start: Expr, weights: Sequence[tuple[Expr, ...]]
) -> emit.Registers:
    sums = emit.Registers(_WORD * len(stencil.vectors), "int32", stencil.lanes)
    for offset, uses in groupby(stencil.uses, key=lambda use: use[0]):
        part = way.activation(_operand(stencil, plane, start + offset))
        for _, place, group in uses:
            sums[place] = way.accumulate(sums[place], part, weights[group])
    return sums


def _operand(stencil: Stencil, plane: Expr, at: Expr) -> Expr:
    """Four taps of each of four channels in each 16 bytes."""
    size = stencil.lanes // len(stencil.pieces)
    loaded = [emit.bind(vector.load(plane, at + piece, size)) for piece in stencil.pieces]
    whole = emit.bind(vector.concat(loaded))
    order = [
        lane + _WORD * tap + c for lane in range(0, _WORD * stencil.lanes, 16) for c in range(4) for tap in range(4)
    ]
    mixed = emit.bind(vector.pick(T.reinterpret(f"int8x{_WORD * stencil.lanes}", whole), order))
    return emit.bind(tirx.reinterpret(vector.typed("int32", stencil.lanes), mixed))


def _weight(way: Arithmetic, w: Expr, at: Expr, lanes: int) -> tuple[Expr, ...]:
    """Words of four channels, repeated for every four positions."""
    quad = emit.bind(vector.load(w, at, _WORD))
    return way.weight(emit.bind(vector.concat([quad] * (lanes // _WORD))))
