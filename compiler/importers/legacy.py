# SPDX-License-Identifier: Apache-2.0
"""Operators whose meaning changed between opsets while ONNX's converter only changes their spelling."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from sparsec.compiler.errors import UnsupportedError

LEGACY = {"Upsample": 11, "Resize": 11, "Hardmax": 13}
"""By operator: the first opset in which it means what it means today."""


def modernise(model: ir.Model, legacy: Mapping[str, str]) -> None:
    """Say in today's words what old operators meant, in place.

    Args:
        model: a model after ONNX's converter.
        legacy: operator type before conversion by the name of the node's first output.

    Raises:
        UnsupportedError: one operator of today cannot say it.
    """
    rules = {"Resize": _resize, "Hardmax": _hardmax}
    for node in list(model.graph.all_nodes()):
        if node.outputs and node.outputs[0].name in legacy and node.op_type in rules:
            rules[node.op_type](node)


def _resize(node: ir.Node) -> None:
    """Before opset 11, positions were scaled from the corner; nearest rounded down, or up when shrinking."""
    node.attributes["coordinate_transformation_mode"] = ir.AttrString("coordinate_transformation_mode", "asymmetric")
    scales = node.inputs[2].const_value if len(node.inputs) > 2 and node.inputs[2] is not None else None
    values = scales.numpy() if scales is not None else np.ones(1)
    if (values < 1).any() and (values > 1).any() and node.attributes.get_string("mode", "nearest") == "nearest":
        msg = f"Operator 'Resize', node {node.name!r}: grows and shrinks at once by the rules before opset 11."
        raise UnsupportedError(msg)
    rounding = "ceil" if (values < 1).any() else "floor"
    node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", rounding)


def _hardmax(node: ir.Node) -> None:
    """Before opset 13, all dimensions from the axis on were one."""
    axis = node.attributes.get_int("axis", 1)
    source, graph = node.inputs[0], node.graph
    if source is None or graph is None:
        return
    shape = ir.node("Shape", [source])
    flat = ir.node("Flatten", [source], {"axis": axis})
    last = ir.node("Hardmax", [flat.outputs[0]], {"axis": -1}, name=node.name)
    back = ir.node("Reshape", [last.outputs[0], shape.outputs[0]])
    made = [shape, flat, last, back]
    ir.convenience.replace_nodes_and_values(graph, node, [node], made, node.outputs, back.outputs)
