# SPDX-License-Identifier: Apache-2.0
"""Types and shapes, one node at a time: each node is looked at before ONNX's C++ code infers its outputs.

That code trusts attributes that count dimensions, and over a whole graph it follows vectors element by element; one
node at a time, with constants folded on the way, neither is needed.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import onnx
import onnx_ir as ir
from onnx import defs, shape_inference

from sparsec.compiler.errors import ModelError
from sparsec.compiler.importers.limits import SMALL_WEIGHT_ELEMENTS
from sparsec.compiler.importers.shape_rules import complete_shapes

_Types = dict[str, onnx.TypeProto]
_AXES = frozenset(("axes", "axis", "batch_axis", "batch_dims", "time_axis"))
"""Attributes that count dimensions of the first input."""

_FREE_AXIS = frozenset(
    ("ConcatFromSequence", "DequantizeLinear", "Flatten", "OneHot", "QuantizeLinear", "SplitToSequence", "Unsqueeze")
)
"""Operators whose axis may lie beyond the dimensions of their first input, or is ignored."""


def infer_nodes(nodes: Iterable[ir.Node], model: ir.Model, *, strict: bool = True) -> None:
    """Infer the outputs of nodes in their order, in place; what cannot be known stays as it was.

    Args:
        nodes: nodes of one graph, each behind those whose outputs it reads.
        model: the model they are in.
        strict: whether a node that contradicts its inputs is an error.

    Raises:
        ModelError: an attribute counts dimensions that are not there, or, if strict, a contradiction.
    """
    for node in nodes:
        infer_node(node, model, strict=strict)


def infer_node(node: ir.Node, model: ir.Model, *, strict: bool = True) -> None:
    """Infer the outputs of one node, see :func:`infer_nodes`."""
    _check_axes(node)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            infer_nodes(attribute.as_graph(), model, strict=False)
    for value in node.inputs:
        if value is not None and value.const_value is not None and (value.type is None or value.shape is None):
            value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(value.const_value.shape.numpy())
    types = {str(value.name): _type_proto(value) for value in _reads(node)}
    if all(value is None or not value.name or str(value.name) in types for value in node.inputs):
        try:
            _assign(node, _infer(node, model, types))
        except Exception as error:
            if strict:
                msg = f"Operator {node.op_type!r}, node {node.name!r}: contradicts its inputs. {_reason(error)}"
                raise ModelError(msg) from error
    complete_shapes(node)


def _reason(error: Exception) -> str:
    text = re.sub(r"\[\w+Error\] |Inference error\(s\): |\(op_type:[^)]*\): ", "", " ".join(str(error).split()))
    return f"ONNX says: {text[:300]}"


def _reads(node: ir.Node) -> list[ir.Value]:
    """Values of known type that a node or the graphs inside it read."""
    found = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            inner = attribute.as_graph()
            found += [value for user in inner.all_nodes() for value in user.inputs if value is not None]
            found += list(inner.outputs)
    return [value for value in found if value.type is not None and value.name]


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    assert value.type is not None
    proto = ir.serde.serialize_type(value.type)
    if value.shape is not None:
        ir.serde.serialize_shape_into(proto, value.shape)
    return proto


def _infer(node: ir.Node, model: ir.Model, types: _Types) -> _Types:
    imports = [onnx.OperatorSetIdProto(domain=d, version=v) for d, v in model.opset_imports.items()]
    proto = ir.serde.serialize_node(node)
    function = model.functions.get(node.op_identifier())
    if function is not None:
        inputs = [types.get(name, onnx.TypeProto()) for name in proto.input]
        found = shape_inference.infer_function_output_types(
            ir.serde.serialize_function(function), inputs, list(proto.attribute)
        )
        return dict(zip(proto.output, found, strict=False))
    version = model.opset_imports.get(node.domain)
    if version is None or not defs.has(node.op_type, version, node.domain):
        return {}
    schema: Any = defs.get_schema(node.op_type, version, node.domain)
    if not schema.has_type_and_shape_inference_function:
        return {}
    return shape_inference.infer_node_outputs(schema, proto, types, _constants(node), None, imports, model.ir_version)


def _constants(node: ir.Node) -> dict[str, onnx.TensorProto]:
    """The small constant inputs of a node, which decide about shapes."""
    small = [
        value
        for value in node.inputs
        if value is not None and value.const_value is not None and value.const_value.size <= SMALL_WEIGHT_ELEMENTS
    ]
    return {
        str(value.name): ir.serde.serialize_tensor(value.const_value)
        for value in small
        if value.const_value is not None
    }


def _assign(node: ir.Node, types: Mapping[str, onnx.TypeProto]) -> None:
    for value in node.outputs:
        proto = types.get(value.name or "")
        if proto is None or not value.name or proto.WhichOneof("value") is None:
            continue
        value.type = ir.serde.deserialize_type_proto_for_type(proto)
        shape = ir.serde.deserialize_type_proto_for_shape(proto)
        value.shape = shape if shape is not None else value.shape


def _check_axes(node: ir.Node) -> None:
    source = node.inputs[0] if node.inputs else None
    if node.domain != "" or source is None or source.shape is None:
        return
    rank = len(source.shape)
    for name, attribute in node.attributes.items():
        if name not in _AXES or node.op_type in _FREE_AXIS or attribute.is_ref():
            continue
        low = -rank if name.startswith("ax") else 0
        items = [attribute.as_int()] if attribute.type == ir.AttributeType.INT else attribute.as_ints()
        if not all(low <= item < max(rank, 1) for item in items):
            msg = (
                f"Operator {node.op_type!r}, node {node.name!r}: its {name!r} is {attribute.value}, but its first "
                f"input has {rank} dimensions."
            )
            raise ModelError(msg)
