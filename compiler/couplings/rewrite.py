# SPDX-License-Identifier: Apache-2.0
"""Removes or permutes units everywhere at once: weights, shape constants, split sizes, group counts, value shapes."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from sparsec.compiler.couplings.analysis import Couplings
from sparsec.compiler.couplings.axes import Atom, Axis, Selection, select, size_of
from sparsec.compiler.graph import attribute, constant_of, free_name, value_names
from sparsec.compiler.layers import layer_name
from sparsec.compiler.pattern import Array

Edit = Selection


def rearrange(couplings: Couplings, edits: Mapping[Atom, Edit]) -> None:
    """Keep the selected units of each atom, in the selected order, in the model that `couplings` describes.

    Args:
        couplings: The analysis; void afterwards.
        edits: For each atom which of its units remain, in their new order. Whether that is allowed is the caller's
            business: see `CoupledGroup.removable` and `permutable`.
    """
    sizes = {atom: edit.size for atom, edit in edits.items()}
    for node in couplings.model.graph:
        _resize_node(couplings, node, sizes)
    for value, axes in couplings.trace.axes.items():
        if value.is_initializer() and value.const_value is not None:
            _select_weight(value, axes, edits)
        value.shape = ir.Shape([size_of(axis, sizes) for axis in axes])


def _select_weight(value: ir.Value, axes: list[Axis], edits: Mapping[Atom, Edit]) -> None:
    array = constant_of(value)
    assert array is not None
    kept = array
    for number, axis in enumerate(axes):
        index = select(axis, edits)
        if not np.array_equal(index, np.arange(array.shape[number])):
            kept = kept.take(index, axis=number)
    if kept is not array:
        value.const_value = ir.tensor(np.ascontiguousarray(kept), name=value.name)


def _resize_node(couplings: Couplings, node: ir.Node, sizes: Mapping[Atom, int]) -> None:
    """Rewrite the constants and attributes by which a node knows a size."""
    resize = _RESIZERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    outputs = [couplings.axes(value) for value in node.outputs]
    changed = [axis for axes in outputs for axis in axes if size_of(axis, sizes) != size_of(axis)]
    moved = any(
        size_of(axis, sizes) != size_of(axis)
        for piece in couplings.trace.slices.get(node, {}).values()
        for axis in piece
    )
    if resize is not None and (changed or moved or node.op_type in ("Conv", "ConvTranspose")):
        resize(couplings, node, sizes)


def _set_shape(couplings: Couplings, node: ir.Node, sizes: Mapping[Atom, int]) -> None:
    _set(couplings, node, 1, [size_of(axis, sizes) for axis in couplings.axes(node.outputs[0])])


def _set_split(couplings: Couplings, node: ir.Node, sizes: Mapping[Atom, int]) -> None:
    place = attribute(node, "axis", 0)
    node.attributes.pop("num_outputs", None)
    _set(couplings, node, 1, [size_of(couplings.axes(output)[place], sizes) for output in node.outputs])


def _set_slice(couplings: Couplings, node: ir.Node, sizes: Mapping[Atom, int]) -> None:
    pieces = couplings.trace.slices.get(node, {})
    starts = [size_of(before, sizes) for before, _ in pieces.values()]
    ends = [start + size_of(piece, sizes) for start, (_, piece) in zip(starts, pieces.values(), strict=True)]
    steps = _other_steps(couplings, node)
    starts, ends = starts + [s for _, s, _, _ in steps], ends + [e for _, _, e, _ in steps]
    places = [*pieces, *(place for place, _, _, _ in steps)]
    for index, numbers in enumerate((starts, ends, places, [1] * len(pieces) + [s for *_, s in steps]), 1):
        _set(couplings, node, index, numbers)


def _other_steps(couplings: Couplings, node: ir.Node) -> list[tuple[int, int, int, int]]:
    """Axis, start, end and step of what a Slice does with steps other than 1; those axes are fixed."""
    starts, ends, *rest = (constant_of(value) for value in node.inputs[1:])
    assert starts is not None
    assert ends is not None
    rank = len(couplings.axes(node.outputs[0]))
    places = rest[0] if rest and rest[0] is not None else np.arange(len(starts))
    steps = rest[1] if len(rest) > 1 and rest[1] is not None else np.ones(len(starts), np.int64)
    found = zip((places % rank).tolist(), starts.tolist(), ends.tolist(), steps.tolist(), strict=True)
    return [entry for entry in found if entry[3] != 1]


def _set_groups(couplings: Couplings, node: ir.Node, sizes: Mapping[Atom, int]) -> None:
    axis = couplings.trace.groups.get(node)
    if axis is not None and size_of(axis, sizes) != attribute(node, "group", 1):
        node.attributes["group"] = ir.AttrInt64("group", size_of(axis, sizes))


def _set_resize(couplings: Couplings, node: ir.Node, sizes: Mapping[Atom, int]) -> None:
    given = constant_of(node.inputs[3]) if len(node.inputs) > 3 else None
    if given is not None:
        axes = couplings.axes(node.outputs[0])
        places = attribute(node, "axes") or range(len(axes))
        same = zip(places, given.tolist(), strict=True)
        _set(couplings, node, 3, [size_of(axes[p], sizes) if size_of(axes[p]) == n else n for p, n in same])


def _set(couplings: Couplings, node: ir.Node, index: int, numbers: list[int]) -> None:
    """Give a node a constant of its own as an input."""
    graph = couplings.model.graph
    name = free_name(f"{layer_name(node)}.{_ROLES[node.op_type][index]}", value_names(graph))
    array: Array = np.array(numbers, np.int64)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), const_value=ir.tensor(array, name=name))
    value.type = ir.TensorType(ir.DataType.INT64)
    graph.register_initializer(value)
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    old = node.inputs[index]
    node.replace_input_with(index, value)
    if old is not None and old.is_initializer() and not old.uses() and not old.is_graph_output():
        graph.initializers.pop(str(old.name))


_ROLES: Mapping[str, tuple[str, ...]] = {
    "Reshape": ("", "shape"),
    "Expand": ("", "shape"),
    "Split": ("", "sizes"),
    "Slice": ("", "starts", "ends", "axes", "steps"),
    "Resize": ("", "", "", "sizes"),
}
_RESIZERS: Mapping[str, Callable[[Couplings, ir.Node, Mapping[Atom, int]], None]] = {
    "Reshape": _set_shape,
    "Expand": _set_shape,
    "Split": _set_split,
    "Slice": _set_slice,
    "Conv": _set_groups,
    "ConvTranspose": _set_groups,
    "Resize": _set_resize,
}
