# SPDX-License-Identifier: Apache-2.0
"""Small exact clean-ups: nodes that copy, inputs without effect, names."""

import numpy as np
import onnx_ir as ir

from sparsec.compiler.errors import UnsupportedError
from sparsec.compiler.importers.constants import constant


def separate_outputs(graph: ir.Graph) -> None:
    """Make each graph output the output of a node of its own, in place.

    Args:
        graph: a main graph; an output may be an input, a weight, or another output.
    """
    seen: set[ir.Value] = set()
    for index, value in enumerate(graph.outputs):
        if value.producer() is not None and value not in seen:
            seen.add(value)
            continue
        copy = ir.node("Identity", [value])
        copy.outputs[0].name, copy.outputs[0].type, copy.outputs[0].shape = value.name, value.type, value.shape
        if value.is_initializer():
            value.name = f"{value.name}/constant"
        graph.append(copy)
        graph.outputs[index] = copy.outputs[0]


def remove_copies(graph: ir.Graph) -> None:
    """Remove Identity and inference-time Dropout from a main graph, in place, see :func:`remove_copy`."""
    for node in list(graph):
        remove_copy(node)


def remove_copy(node: ir.Node) -> bool:
    """Remove a node if it is Identity or inference-time Dropout.

    A copy stays where a graph output would lose its own producer: behind an input, a weight, another output.

    Args:
        node: a node of a main graph.

    Returns:
        Whether it was removed.
    """
    graph = node.graph
    if not isinstance(graph, ir.Graph) or node.domain != "" or not node.inputs or node.inputs[0] is None:
        return False
    if node.op_type == "Dropout" and _is_idle(node):
        _drop_mask(graph, node)
        node.op_type = "Identity"  # it stays one where it cannot go
        node.resize_inputs(1)
        node.resize_outputs(1)
        node.attributes.clear()
    elif node.op_type != "Identity":
        return False
    source, copy = node.inputs[0], node.outputs[0]
    renamed = copy.is_graph_output()
    if renamed and (source.producer() is None or source.graph is not graph or source.is_graph_output()):
        return False
    copy.replace_all_uses_with(source, replace_graph_outputs=renamed)
    graph.remove(node, safe=True)
    if renamed:
        source.name = copy.name
    return True


def refuse_training(graph: ir.Graph) -> None:
    """Refuse a Dropout that :func:`remove_copies` had to leave.

    Args:
        graph: a main graph.

    Raises:
        UnsupportedError: there is one.
    """
    for node in graph:
        if node.domain == "" and node.op_type == "Dropout":
            msg = f"Operator 'Dropout', node {node.name!r}: is in training mode. Export the model for inference."
            raise UnsupportedError(msg)


def _is_idle(node: ir.Node) -> bool:
    """Whether a Dropout drops nothing: it is not in training mode, for certain."""
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is None:
        return True
    return training.const_value is not None and not training.const_value.numpy().any()


def _drop_mask(graph: ir.Graph, node: ir.Node) -> None:
    """The mask of an idle Dropout keeps everything."""
    if len(node.outputs) < 2 or not node.outputs[1].name:
        return
    mask, shape = node.outputs[1], node.outputs[1].shape
    if shape is None or not (mask.uses() or mask.is_graph_output()):
        return
    size = constant(graph, f"{mask.name}/shape", [int(dim) for dim in shape.numpy()])
    ones = ir.node("ConstantOfShape", [size], {"value": ir.Tensor(np.array([True]), name="value")})
    ir.convenience.replace_nodes_and_values(graph, node, [], [ones], [mask], ones.outputs)


def simplify_nodes(model: ir.Model) -> None:
    """Say a few nodes more simply, in place.

    Inputs without effect go: the region of Resize, empty tensors of Concat. GlobalLpPool, which onnxruntime no longer
    runs, is an LpPool over everything.

    Args:
        model: a model with static shapes.
    """
    for node in model.graph:
        if node.domain == "" and node.op_type == "GlobalLpPool" and node.inputs[0] is not None:
            _pool_everything(node, node.inputs[0].shape)
        if node.domain == "" and node.op_type == "Concat":
            _drop_empty(node)
        mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
        if node.domain == "" and node.op_type == "Resize" and len(node.inputs) > 1 and mode != "tf_crop_and_resize":
            node.replace_input_with(1, None)


def _pool_everything(node: ir.Node, shape: ir.Shape | None) -> None:
    if shape is not None:
        node.op_type = "LpPool"
        node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [int(dim) for dim in shape.numpy()[2:]])


def _drop_empty(node: ir.Node) -> None:
    full = [v for v in node.inputs if v is None or v.shape is None or 0 not in v.shape.dims]
    if 0 < len(full) < len(node.inputs):
        for index, value in enumerate(full):
            node.replace_input_with(index, value)
        node.resize_inputs(len(full))


def name_nodes(model: ir.Model) -> None:
    """Give nameless nodes the name of their first output and make all names unique, in place.

    Names of graph inputs, graph outputs and of nodes that have one stay. Outputs that nothing uses may stay nameless:
    in ONNX, that leaves them out.
    """
    graph = model.graph
    values = _Names({str(value.name) for value in (*graph.inputs, *graph.outputs)})
    values.keep.update(graph.inputs, graph.outputs)
    nodes = _Names(set())
    for value in list(graph.initializers.values()):
        value.name = values.unique(value, value.name)
    for node in graph.all_nodes():
        for inner in (attribute for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH):
            for value in inner.as_graph().inputs:
                value.name = values.unique(value, value.name)
        for value in node.outputs:
            used = bool(value.uses()) or value.is_graph_output()
            value.name = values.unique(value, value.name or (node.name if used else ""))
        first = next((value.name for value in node.outputs if value.name), None)
        node.name = nodes.unique(node, node.name or first or node.op_type)


class _Names:
    """Names that are taken, and who may keep one of them."""

    def __init__(self, taken: set[str]) -> None:
        self.taken = taken
        self.keep: set[ir.Value | ir.Node] = set()

    def unique(self, owner: ir.Value | ir.Node, wanted: str | None) -> str:
        """The wanted name, with a number behind it if it is taken; the empty name is free to all."""
        if not wanted or owner in self.keep:
            return wanted or ""
        name, number = wanted, 0
        while name in self.taken:
            number += 1
            name = f"{wanted}_{number}"
        self.taken.add(name)
        return name
