# SPDX-License-Identifier: Apache-2.0
"""Operators that only move elements, of any type: as another view of the same bytes, or as strided copies."""

from collections.abc import Sequence
from itertools import accumulate
from math import prod

import onnx_ir as ir

from sparsec.compiler.graph import attribute, constant_of, dtype_of, itemsize, shape_of
from sparsec.compiler.lowering import layout
from sparsec.compiler.lowering.anchors.anchor import Anchor, report_plain
from sparsec.compiler.lowering.emitter import Emitter, View
from sparsec.compiler.lowering.ops import Elementwise, Operand
from sparsec.compiler.lowering.regions import Region


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Element strides of a contiguous array."""
    return tuple(accumulate(reversed((*shape[1:], 1)), lambda total, dim: total * dim))[::-1] if shape else ()


def _view_accepts(node: ir.Node) -> bool:
    source = node.inputs[0]
    return source is not None and prod(shape_of(source)) == prod(shape_of(node.outputs[0]))


def _view(emitter: Emitter, region: Region) -> None:
    """The same bytes under another shape."""
    source = region.nodes[0].inputs[0]
    assert source is not None
    emitter.bind(region.output, layout.PLAIN, emitter.read(source))


def _cast_accepts(node: ir.Node) -> bool:
    return _view_accepts(node) and node.inputs[0].dtype == node.outputs[0].dtype  # type: ignore[union-attr]


def _transpose(emitter: Emitter, region: Region) -> None:
    node = region.nodes[0]
    source = node.inputs[0]
    assert source is not None
    shape = shape_of(source)
    order = attribute(node, "perm") or list(reversed(range(len(shape))))
    wide = [axis for axis in order if shape[axis] != 1]
    if wide == sorted(wide):
        _view(emitter, region)
        return
    strides = row_major(shape)
    _copy(emitter, region, source, tuple(strides[axis] for axis in order))


def _expand_accepts(node: ir.Node) -> bool:
    return node.inputs[0] is not None


def _expand(emitter: Emitter, region: Region) -> None:
    source = region.nodes[0].inputs[0]
    assert source is not None
    shape, out = shape_of(source), shape_of(region.output)
    aligned = (1,) * (len(out) - len(shape)) + shape
    strides = [0 if dim == 1 else stride for dim, stride in zip(aligned, row_major(aligned), strict=True)]
    _copy(emitter, region, source, tuple(strides))


def _slices(node: ir.Node) -> tuple[list[int], list[int]] | None:
    """Starts and steps by axis of a Slice that runs forward and whose bounds are known now."""
    assert node.inputs[0] is not None
    shape = shape_of(node.inputs[0])
    known = [constant_of(value) for value in node.inputs[1:]]
    if any(value is not None and array is None for value, array in zip(node.inputs[1:], known, strict=True)):
        return None
    starts, _, axes, steps = ([None if a is None else a.reshape(-1).tolist() for a in known] + [None] * 4)[:4]
    if starts is None:
        return None
    places = [axis % len(shape) for axis in (axes or range(len(starts)))]
    first, stride = [0] * len(shape), [1] * len(shape)
    for place, start, step in zip(places, starts, steps or [1] * len(starts), strict=True):
        if step < 1:
            return None
        first[place] = min(max(start + shape[place] if start < 0 else start, 0), shape[place])
        stride[place] = step
    return first, stride


def _slice_accepts(node: ir.Node) -> bool:
    return _slices(node) is not None


def _slice(emitter: Emitter, region: Region) -> None:
    found = _slices(region.nodes[0])
    source = region.nodes[0].inputs[0]
    assert found is not None
    assert source is not None
    starts, steps = found
    _cut(emitter, region, source, region.output, starts, steps)


def _split(emitter: Emitter, region: Region) -> None:
    node = region.nodes[0]
    source = node.inputs[0]
    assert source is not None
    rank = len(shape_of(source))
    axis = attribute(node, "axis", 0) % rank
    start = 0
    for value in node.outputs:
        starts = [start if place == axis else 0 for place in range(rank)]
        _cut(emitter, region, source, value, starts, [1] * rank)
        start += shape_of(value)[axis]


def _gather_accepts(node: ir.Node) -> bool:
    """One index known now: a slice."""
    index = constant_of(node.inputs[1])
    return index is not None and index.size == 1


def _gather(emitter: Emitter, region: Region) -> None:
    node = region.nodes[0]
    source, index = node.inputs[0], constant_of(node.inputs[1])
    assert source is not None
    assert index is not None
    shape = shape_of(source)
    axis = attribute(node, "axis", 0) % len(shape)
    starts = [int(index.reshape(())) % shape[axis] if place == axis else 0 for place in range(len(shape))]
    out = tuple(1 if place == axis else dim for place, dim in enumerate(shape))
    _cut(emitter, region, source, region.output, starts, [1] * len(shape), out)


def _concat(emitter: Emitter, region: Region) -> None:
    node = region.nodes[0]
    shape = shape_of(region.output)
    strides = row_major(shape)
    axis = attribute(node, "axis", 0) % len(shape)
    target, start, price = emitter.make(region.output), 0, 0.0
    for value in [v for v in node.inputs if v is not None]:
        part = shape_of(value)
        operand = Operand(dtype_of(value), row_major(part))
        offset = start * strides[axis]
        op = Elementwise(part, (operand,), dtype=dtype_of(value), out_strides=strides, out_offset=offset)
        price += emitter.run(op, [emitter.read(value), target], region.name)
        start += part[axis]
    report_plain(emitter, region, "copy", price)


def _cut(
    emitter: Emitter,
    region: Region,
    source: ir.Value,
    value: ir.Value,
    starts: Sequence[int],
    steps: Sequence[int],
    out: tuple[int, ...] | None = None,
) -> None:
    """A box out of an array: a view if it is one run of bytes, else a copy."""
    shape, sizes = shape_of(source), out or shape_of(value)
    strides = row_major(shape)
    offset = sum(start * stride for start, stride in zip(starts, strides, strict=True))
    outer = next((place for place, dim in enumerate(sizes) if dim != 1), len(sizes))
    run = all(sizes[p] == shape[p] for p in range(outer + 1, len(sizes))) and all(step == 1 for step in steps)
    if run:
        view = emitter.read(source).at(offset * itemsize(source))
        emitter.bind(value, layout.PLAIN, view)
        return
    moved = tuple(stride * step for stride, step in zip(strides, steps, strict=True))
    op = Elementwise(tuple(sizes), (Operand(dtype_of(source), moved, offset),), dtype=dtype_of(source))
    _run(emitter, region, op, emitter.read(source), value)


def _copy(emitter: Emitter, region: Region, source: ir.Value, strides: tuple[int, ...]) -> None:
    op = Elementwise(shape_of(region.output), (Operand(dtype_of(source), strides),), dtype=dtype_of(source))
    _run(emitter, region, op, emitter.read(source), region.output)


def _run(emitter: Emitter, region: Region, op: Elementwise, source: View, value: ir.Value) -> None:
    price = emitter.run(op, [source, emitter.make(value)], region.name)
    report_plain(emitter, region, "copy", price)


def _always(_node: ir.Node) -> bool:
    return True


ANCHORS = {
    name: Anchor(_view_accepts, _view) for name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")
} | {
    "Cast": Anchor(_cast_accepts, _view),
    "Transpose": Anchor(_always, _transpose),
    "Expand": Anchor(_expand_accepts, _expand),
    "Slice": Anchor(_slice_accepts, _slice),
    "Split": Anchor(_always, _split),
    "Gather": Anchor(_gather_accepts, _gather),
    "Concat": Anchor(_always, _concat),
}
