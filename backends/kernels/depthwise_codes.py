# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolution of codes, four channels at a time: one byte shuffle makes operands of dot products.

A channel word's plane is first copied, with its padding, to scratch memory in the first-level cache. There, 16 bytes
are the words under four neighbouring taps of one position; transposed, they are four taps of each of four channels,
what a dot product of four wants. So a vector whose 16-byte lanes are loaded where positions 0, 4, 8, ... begin, its
shifts by one, two and three words, and one shuffle of each, serve a vector of positions. The words under four taps
below each other take a transpose of four vectors. The sums stay as they are, by position and then channel, until
`Tail.store_quads` has made words of codes of them.

A register tile is rows x vectors; where a row is shorter than half a vector, a vector holds several rows.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby, pairwise
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import depthwise_taps, emit, vector
from sparsec.backends.kernels.dot import Arithmetic, arithmetic
from sparsec.backends.kernels.epilogue import Tail, parameters
from sparsec.backends.kernels.pad import copy_row
from sparsec.backends.kernels.positions import covering, row_spans
from sparsec.backends.kernels.stencil import PAIRED, WORD, Stencil
from sparsec.backends.kernels.transpose import transpose_bytes

Expr = Any


def signature(stencil: Stencil) -> list[tuple[str, int]]:
    """Of the function: input, packed weights, epilogue operands, output."""
    op = stencil.op
    positions = op.out_size[0] * op.out_size[1]
    tail = parameters(op.epilogue, op.filters, op.filters * positions, stencil.words * positions)
    weights = stencil.words * len(stencil.groups) * WORD
    return [("int32", stencil.words * op.size[0] * op.size[1]), ("int32", weights), *tail]


def emit_code(stencil: Stencil, isa: Isa, x: Expr, w: Expr, rest: Sequence[Expr]) -> None:
    """The body of the function."""
    tail = Tail(stencil.op.epilogue, rest[:-1], rest[-1], isa)
    size, lanes = stencil.copies * stencil.scratch, isa.lanes("float32")
    planes = T.alloc_buffer((size,), "int32")
    _fill(stencil, planes, 0, size, lanes)
    last, ahead = stencil.words * stencil.bands.count - 1, stencil.copies - 1
    if ahead:
        _copy(stencil, x, 0, planes, lanes)
    for span in row_spans(stencil.op.filters, WORD):
        with emit.loop(span.count) as i, emit.loop(stencil.bands.count) as band:
            word = span.start // WORD + i
            at = word * stencil.bands.count + band
            _copy(stencil, x, emit.clamped(at + ahead, 1, last), planes, lanes)
            _emit_band(stencil, isa, planes, w, tail, at, len(span.offsets))


def _fill(stencil: Stencil, array: Expr, start: Expr, count: int, lanes: int) -> None:
    """Padding."""
    width = min(lanes, 1 << (count.bit_length() - 1))
    span = covering(count, 1, width)
    value = vector.const(stencil.op.pad_code * 0x01010101, "int32", width)
    with emit.loop(span.count) as i:
        emit.store(array, start + emit.clamped(i, span.step, span.last), value)


def _copy(stencil: Stencil, x: Expr, at: Expr, planes: Expr, lanes: int) -> None:
    """What of a band the taps reach. Padding beside it is there already, that above and below if it is all rows."""
    op, (height, width) = stencil.op, stencil.op.size
    columns = min(width, stencil.pitch - op.pads[1])
    word, y = _word(stencil, at), _row(stencil, at)
    first = op.pads[0] - y * op.stride[0]
    target = _place(stencil, at) + op.pads[1]

    def copy(row: Expr) -> None:
        source = (word * height + row - first) * width
        copy_row(1, lanes, x, source, planes, target + row * stencil.pitch, columns)

    if stencil.bands.count == 1:
        with emit.loop(max(min(height, stencil.rows - op.pads[0]), 0)) as row:
            copy(op.pads[0] + row)
        return
    inside = [emit.bind(tirx.min(tirx.max(bound, 0), stencil.rows)) for bound in (first, first + height)]
    bounds = [0, *inside, stencil.rows]
    for part, (start, stop) in enumerate(pairwise(bounds)):
        with emit.loop_range(start, stop) as row:
            if part == 1:
                copy(row)
            else:
                _fill(stencil, planes, target + row * stencil.pitch, columns, lanes)


def _word(stencil: Stencil, at: Expr) -> Expr:
    """The word of channels of a band."""
    return tirx.truncdiv(at, stencil.bands.count) if stencil.bands.count > 1 else at


def _row(stencil: Stencil, at: Expr) -> Expr:
    """A band's first row of the output."""
    bands = stencil.bands
    return emit.clamped(tirx.truncmod(at, bands.count), bands.step, bands.last) if bands.count > 1 else 0


def _place(stencil: Stencil, at: Expr) -> Expr:
    """Where the copy of a band begins."""
    return tirx.truncmod(at, stencil.copies) * stencil.scratch if stencil.copies > 1 else 0


def _emit_band(stencil: Stencil, isa: Isa, planes: Expr, w: Expr, tail: Tail, at: Expr, count: int) -> None:
    """All tiles of a band of four channels."""
    word, top, (sy, sx) = _word(stencil, at), _row(stencil, at), stencil.op.stride
    positions, width = stencil.op.out_size[0] * stencil.op.out_size[1], stencil.op.out_size[1]
    sums_at = _summing(stencil, isa, planes, w, word)
    with emit.loop(stencil.ys.count) as iy, emit.loop(stencil.xs.count) as ix:
        y = emit.clamped(iy, stencil.ys.step, stencil.ys.last)
        column = emit.clamped(ix, stencil.xs.step, stencil.xs.last)
        start = _place(stencil, at) + y * (sy * stencil.pitch) + column * sx
        sums = sums_at(start)
        for v in range(len(stencil.vectors)):
            quads = [sums[v * WORD + part] for part in range(WORD)]
            runs = [((top + y) * width + column + first, picked) for first, picked in stencil.runs(v)]
            tail.store_quads(quads, word * WORD, count, positions, runs)


def _summing(stencil: Stencil, isa: Isa, planes: Expr, w: Expr, word: Expr) -> Callable[[Expr], emit.Registers]:
    """From where a tile's operand begins to its sums, with the weights of four channels at hand."""
    if depthwise_taps.applies(isa, stencil.lanes):
        return partial(depthwise_taps.tap_sums, stencil, planes, depthwise_taps.tap_weights(stencil, w, word))
    way, first = arithmetic(isa, "uint8"), word * len(stencil.groups)
    weights = [_weight(way, w, (first + g) * WORD, stencil.lanes) for g in range(len(stencil.groups))]
    return partial(_sums, stencil, way, planes, weights)


def _sums(
    stencil: Stencil, way: Arithmetic, plane: Expr, weights: Sequence[tuple[Expr, ...]], start: Expr
) -> emit.Registers:
    sums = emit.Registers(WORD * len(stencil.vectors), "int32", stencil.lanes)
    for offset, rows in groupby(stencil.row_uses, key=lambda use: use[0]):
        part = way.activation(_mixed(stencil, _load(stencil, plane, start + offset)))
        for _, place, group in rows:
            sums[place] = way.accumulate(sums[place], part, weights[group])
    for offset, columns in groupby(stencil.column_uses, key=lambda use: use[0]):
        uses = list(columns)
        parts = _column(stencil, plane, start + offset, stencil.held(group for *_, group in uses))
        for k, part in enumerate(map(way.activation, parts)):
            for _, v, group in uses:
                sums[v * WORD + k] = way.accumulate(sums[v * WORD + k], part, weights[group])
    return sums


def _load(stencil: Stencil, plane: Expr, at: Expr) -> Expr:
    """The operand that begins there, as it is."""
    size = stencil.lanes // len(stencil.pieces)
    return emit.bind(vector.concat([emit.bind(vector.load(plane, at + piece, size)) for piece in stencil.pieces]))


def _mixed(stencil: Stencil, words: Expr) -> Expr:
    """Four words in each 16 bytes transposed: four taps of each of four channels."""
    lanes = range(0, WORD * stencil.lanes, WORD * WORD)
    order = [lane + WORD * tap + channel for lane in lanes for channel in range(WORD) for tap in range(WORD)]
    mixed = emit.bind(vector.pick(T.reinterpret(f"int8x{WORD * stencil.lanes}", words), order))
    return emit.bind(tirx.reinterpret(vector.typed("int32", stencil.lanes), mixed))


def _column(stencil: Stencil, plane: Expr, at: Expr, held: int) -> list[Expr]:
    """For each part, the taps of four rows below each other, of which so many matter."""
    rows = [_neighbours(stencil, plane, at + row * stencil.pitch) for row in range(held)]
    return transpose_bytes(rows + rows[-1:] * (WORD - held))


def _neighbours(stencil: Stencil, plane: Expr, at: Expr) -> Expr:
    """The words under one tap of all positions, in each 16 bytes those of the four parts."""
    if stencil.op.stride[1] != PAIRED:
        return _load(stencil, plane, at)
    halves = [_load(stencil, plane, at), _load(stencil, plane, at + stencil.segment)]
    order = [half * stencil.lanes + lane + i for lane in range(0, stencil.lanes, 4) for half in (0, 1) for i in (0, 2)]
    return emit.bind(tirx.Shuffle(halves, [vector.index(i) for i in order]))


def _weight(way: Arithmetic, w: Expr, at: Expr, lanes: int) -> tuple[Expr, ...]:
    """Words of four channels, repeated for every four positions."""
    quad = emit.bind(vector.load(w, at, WORD))
    return way.weight(emit.bind(vector.concat([quad] * (lanes // WORD))))
