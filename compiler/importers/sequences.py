# SPDX-License-Identifier: Apache-2.0
"""Sequences whose members are known are no sequences: exporters split tensors and pick the parts that way."""

import onnx_ir as ir

from sparsec.compiler.importers.constants import constant, integers
from sparsec.compiler.importers.limits import MAX_SHAPE_ELEMENTS


def unpack_sequence(node: ir.Node) -> bool:
    """Replace a sequence operator by Split, Concat or a plain use, in place, if all members are known.

    Args:
        node: a node of a main graph whose inputs have static shapes.

    Returns:
        Whether it was replaced.
    """
    if node.domain != "" or node.graph is None or not node.inputs or node.inputs[0] is None:
        return False
    if node.op_type == "SplitToSequence":
        return _split(node)
    maker = node.inputs[0].producer()
    if maker is None or maker.op_type != "SequenceConstruct" or maker.domain != "":
        return False
    members = [value for value in maker.inputs if value is not None]
    if node.op_type == "SequenceAt":
        return _pick(node, members)
    return _join(node, members) if node.op_type == "ConcatFromSequence" else False


def _split(node: ir.Node) -> bool:
    """SplitToSequence becomes a Split and a SequenceConstruct, which later picks take apart."""
    sizes, source, graph = _sizes(node), node.inputs[0], node.graph
    if sizes is None or source is None or graph is None or not 0 < len(sizes) <= MAX_SHAPE_ELEMENTS:
        return False
    name, axis = str(node.outputs[0].name), node.attributes.get_int("axis", 0)
    split = ir.node("Split", [source, constant(graph, f"{name}/sizes", sizes)], {"axis": axis}, num_outputs=len(sizes))
    split.name, made, parts = node.name, [split], list(split.outputs)
    for index, part in enumerate(parts):
        part.name = f"{name}/{index}"
    if len(node.inputs) < 2 and node.attributes.get_int("keepdims", 1) == 0:
        axes = constant(graph, f"{name}/axes", [axis])
        squeezes = [ir.node("Squeeze", [part, axes]) for part in parts]
        made, parts = [*made, *squeezes], [squeeze.outputs[0] for squeeze in squeezes]
    pack = ir.node("SequenceConstruct", parts)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [*made, pack], node.outputs, pack.outputs)
    return True


def _sizes(node: ir.Node) -> list[int] | None:
    source = node.inputs[0]
    if source is None or source.shape is None or not source.shape.is_static():
        return None
    dims = [int(dim) for dim in source.shape.numpy()]
    axis = node.attributes.get_int("axis", 0)
    if not -len(dims) <= axis < len(dims) or dims[axis] > MAX_SHAPE_ELEMENTS:
        return None
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return [1] * dims[axis]
    sizes = integers(node, 1)
    if sizes is None or node.inputs[1].shape is None or len(node.inputs[1].shape) == 1:
        return sizes
    step = sizes[0]
    return None if step < 1 else [min(step, dims[axis] - start) for start in range(0, dims[axis], step)]


def _pick(node: ir.Node, members: list[ir.Value]) -> bool:
    position = integers(node, 1)
    if position is None or not -len(members) <= position[0] < len(members) or node.graph is None:
        return False
    copy = ir.node("Identity", [members[position[0]]])
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], [copy], node.outputs, copy.outputs)
    return True


def _join(node: ir.Node, members: list[ir.Value]) -> bool:
    graph = node.graph
    if graph is None:
        return False
    axis, made = node.attributes["axis"].as_int(), []
    if node.attributes.get_int("new_axis", 0) == 1:
        axes = constant(graph, f"{node.outputs[0].name}/axes", [axis])
        made = [ir.node("Unsqueeze", [value, axes]) for value in members]
        members = [unsqueeze.outputs[0] for unsqueeze in made]
    concat = ir.node("Concat", members, {"axis": axis}, name=node.name)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [*made, concat], node.outputs, concat.outputs)
    return True
