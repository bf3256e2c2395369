# SPDX-License-Identifier: Apache-2.0
"""The `Pad` op: a padded copy, split by the phases of a stride, that a convolution reads by whole vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm import tirx

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.cost import streaming
from sparsec.backends.kernels.weightless import Weightless
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import CHANNELS4, PLAIN, Pad

Expr = Any
_MOST_PHASES = 4
_UNROLLED = 4
"""Elements outside of a row that are written one by one."""


def pad_spec(op: Pad) -> KernelSpec:
    """The one kernel of a `Pad`."""
    layout = CHANNELS4 if op.dtype == "uint8" else PLAIN
    return KernelSpec("pad", op, inputs=(layout,), output=layout)


class PadKernel(Weightless):
    """See the module. Parameters: images, out."""

    family = "pad"
    op_type = Pad

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """The TIR PrimFunc."""
        op = _op(spec)
        dtype = _element(op)
        sizes = [(dtype, op.channels * prod(op.size)), (dtype, op.out_elements)]
        return emit.function(sizes, lambda source, target: _emit(op, isa.lanes("float32"), source, target))

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """The result as 32-bit elements [channels][phases][phases][rows][columns]."""
        op = _op(spec)
        source = np.ascontiguousarray(operands[0]).reshape(-1).view(_element(op)).reshape(op.channels, *op.size)
        fill = np.array(op.fill, np.uint32).view(_element(op))
        out = np.full((op.channels, *op.phases, *op.plane), fill, source.dtype)
        for a, b in np.ndindex(op.phases):
            (i, rows), (j, columns) = _copied(op, 0, a), _copied(op, 1, b)
            out[:, a, b, i.start : i.stop, j.start : j.stop] = source[:, rows, columns]
        return out

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """Bytes read and written."""
        return pad_cost(_op(spec), profile)


def pad_cost(op: Pad, profile: Profile) -> float:
    """Microseconds to prepare an operand."""
    return streaming(profile, 4 * op.channels * prod(op.size) + op.out_bytes, op.out_elements)


def _op(spec: KernelSpec) -> Pad:
    assert isinstance(spec.op, Pad)
    return spec.op


def _element(op: Pad) -> str:
    return "int32" if op.dtype == "uint8" else "float32"


@dataclass(frozen=True, slots=True)
class _Range:
    """Elements start..stop of a phase's axis that lie in the image; the first comes from `source`."""

    start: int
    stop: int
    source: int


def _range(op: Pad, axis: int, phase: int) -> _Range:
    stride, lead = op.stride[axis], op.origin[axis] - phase
    start = min(max(-(-lead // stride), 0), op.plane[axis])
    stop = min((op.size[axis] - 1 + lead) // stride + 1, op.plane[axis])
    return _Range(start, max(stop, start), start * stride - lead)


def _copied(op: Pad, axis: int, phase: int) -> tuple[_Range, slice]:
    part = _range(op, axis, phase)
    stride = op.stride[axis]
    count = part.stop - part.start
    return part, slice(part.source, part.source + (count - 1) * stride + 1, stride) if count else slice(0, 0)


def _emit(op: Pad, lanes: int, source: Expr, target: Expr) -> None:
    if prod(op.phases) > _MOST_PHASES:
        _emit_any(op, source, target)
        return
    with emit.loop(op.channels) as channel:
        for phase, (a, b) in enumerate(np.ndindex(op.phases)):
            base = (channel * prod(op.phases) + phase) * prod(op.plane)
            _emit_phase(op, lanes, source, target, channel * prod(op.size), base, (a, b))


def _emit_any(op: Pad, source: Expr, target: Expr) -> None:
    """Element by element, for any number of phases in little code."""
    fill = vector.const(_fill_value(op), _element(op))
    extents = (op.channels, *op.phases, *op.plane)
    with emit.loops(extents) as (channel, a, b, i, j):
        row, column = i * op.stride[0] + a - op.origin[0], j * op.stride[1] + b - op.origin[1]
        inside = tirx.all(row >= 0, row < op.size[0], column >= 0, column < op.size[1])
        value = source[(channel * op.size[0] + row) * op.size[1] + column]
        at = (((channel * op.phases[0] + a) * op.phases[1] + b) * op.plane[0] + i) * op.plane[1] + j
        emit.store(target, at, tirx.if_then_else(inside, value, fill))


def _emit_phase(
    op: Pad, lanes: int, source: Expr, target: Expr, image: Expr, base: Expr, phase: tuple[int, int]
) -> None:
    rows, columns = (_range(op, axis, phase[axis]) for axis in (0, 1))
    width = op.plane[1]
    _fill(op, lanes, target, base, rows.start * width)
    if rows.stop > rows.start:
        with emit.loop(rows.stop - rows.start) as i:
            start = base + (i + rows.start) * width
            _fill(op, lanes, target, start, columns.start)
            first = image + (rows.source + i * op.stride[0]) * op.size[1] + columns.source
            copy_row(op.stride[1], lanes, source, first, target, start + columns.start, columns.stop - columns.start)
            _fill(op, lanes, target, start + columns.stop, width - columns.stop)
    _fill(op, lanes, target, base + rows.stop * width, (op.plane[0] - rows.stop) * width)


def _fill_value(op: Pad) -> float:
    return op.fill if op.dtype == "uint8" else 0.0


def _pieces(count: int, lanes: int) -> Sequence[tuple[int, int, int]]:
    """(start, vectors, width) that cover `count` elements by whole vectors, the last of which may overlap."""
    width = min(lanes, 1 << (count.bit_length() - 1))
    rest = count % width
    return [(0, count // width, width)] + ([(count - width, 1, width)] if rest else [])


def _fill(op: Pad, lanes: int, target: Expr, start: Expr, count: int) -> None:
    value = _fill_value(op)
    if count <= 0:
        return
    for first, vectors, width in _pieces(count, lanes if count > _UNROLLED else 1):
        if vectors <= _UNROLLED:
            for v in range(vectors):
                emit.store(target, start + first + v * width, vector.const(value, _element(op), width))
        else:
            with emit.loop(vectors) as v:
                emit.store(target, start + first + v * width, vector.const(value, _element(op), width))


def copy_row(stride: int, lanes: int, source: Expr, first: Expr, target: Expr, start: Expr, count: int) -> None:
    """Write `count` elements to `target`, from `start` on: every stride-th of `source`, from `first` on.

    Args:
        stride: Of the source.
        lanes: 32-bit elements of a register.
        source: An array.
        first: Its first element to read.
        target: Another array.
        start: Its first element to write.
        count: Elements; none if it is negative.
    """
    if count <= 0:
        return
    for at, vectors, width in _pieces(count, lanes if stride <= 2 else 1):
        with emit.loop(vectors) as v:
            element = at + v * width
            emit.store(target, start + element, _strided(source, first + element * stride, width, stride))


def _strided(source: Expr, at: Expr, lanes: int, stride: int) -> Expr:
    """Every element, or every second one: two loads, the second so placed that nothing beyond the last is read."""
    if stride == 1 or lanes == 1:
        return vector.load(source, at, lanes)
    low, high = vector.load(source, at, lanes), vector.load(source, at + lanes - 1, lanes)
    half = lanes // 2
    picked = [2 * i for i in range(half)] + [lanes + 2 * i + 1 for i in range(half)]
    return tirx.Shuffle([emit.bind(low), emit.bind(high)], [vector.index(i) for i in picked])
