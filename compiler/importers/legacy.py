# SPDX-License-Identifier: Apache-2.0
"""Operators whose meaning changed between opsets while ONNX's converter only changes their spelling."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from sparsec.compiler.errors import UnsupportedError

LEGACY = {"GroupNormalization": 21, "Hardmax": 13, "PRelu": 7, "Resize": 11, "Upsample": 11}
"""By operator: the first opset in which it means what it means today."""


def modernise(model: ir.Model, legacy: Mapping[str, str]) -> None:
    """Say in today's words what old operators meant, in place.

    Args:
        model: a model after ONNX's converter.
        legacy: operator type before conversion by the name of the node's first output.

    Raises:
        UnsupportedError: one operator of today cannot say it.
    """
    rules = {"GroupNormalization": _group_normalization, "Hardmax": _hardmax, "PRelu": _prelu, "Resize": _resize}
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


def _group_normalization(node: ir.Node) -> None:
    """Before opset 21, scale and bias were those of the groups: an InstanceNormalization over the groups."""
    source, scale, bias = node.inputs
    groups, epsilon = node.attributes["num_groups"].as_int(), node.attributes.get_float("epsilon", 1e-5)
    grouped = ir.Tensor(np.array([0, groups, -1], np.int64), name="value")
    target = ir.node("Constant", [], {"value": grouped})
    shape = ir.node("Shape", [source])
    flat = ir.node("Reshape", [source, target.outputs[0]])
    inputs = [flat.outputs[0], scale, bias]
    normal = ir.node("InstanceNormalization", inputs, {"epsilon": epsilon}, name=node.name)
    back = ir.node("Reshape", [normal.outputs[0], shape.outputs[0]])
    _replace(node, [target, shape, flat, normal, back])


def _replace(node: ir.Node, made: list[ir.Node]) -> None:
    if node.graph is not None:
        ir.convenience.replace_nodes_and_values(node.graph, node, [node], made, node.outputs, made[-1].outputs)


def _prelu(node: ir.Node) -> None:
    """Before opset 7, a slope of one dimension belonged to the channels."""
    source, slope = node.inputs
    rank = None if source is None or source.shape is None else len(source.shape)
    if slope is None or slope.shape is None or len(slope.shape) != 1 or not rank or rank < 3 or node.graph is None:
        return
    aligned = ir.Tensor(np.array([-1, *[1] * (rank - 2)], np.int64), name="value")
    target = ir.node("Constant", [], {"value": aligned})
    shaped = ir.node("Reshape", [slope, target.outputs[0]])
    node.graph.insert_before(node, [target, shaped])
    node.replace_input_with(1, shaped.outputs[0])


def _hardmax(node: ir.Node) -> None:
    """Before opset 13, all dimensions from the axis on were one."""
    source = node.inputs[0]
    shape = ir.node("Shape", [source])
    flat = ir.node("Flatten", [source], {"axis": node.attributes.get_int("axis", 1)})
    last = ir.node("Hardmax", [flat.outputs[0]], {"axis": -1}, name=node.name)
    back = ir.node("Reshape", [last.outputs[0], shape.outputs[0]])
    _replace(node, [shape, flat, last, back])
