# SPDX-License-Identifier: Apache-2.0
"""ONNX's definition of a single node, where its own inliner gives up: optional inputs left out before others."""

from collections.abc import Collection
from typing import Any

import onnx
from onnx import defs

from sparsec.compiler.importers.forms import same_form
from sparsec.compiler.importers.limits import OPSET

_DOMAIN = "sparsec.definitions"
_WIDENED = ("Range",)
"""Operators in definitions that newer opsets only gave more types."""
_Id = tuple[str, str]


def call_definitions(model: onnx.ModelProto, targets: Collection[str]) -> list[_Id]:
    """Let nodes that leave out an input call a local function that defines them, in place.

    Args:
        model: a model of opset OPSET with the types of its values, default attributes spelled out.
        targets: operator types of ONNX's own domain.

    Returns:
        The domain and name of each function that was added to the model.
    """
    types = _types(model.graph)
    made: list[_Id] = []
    for node in model.graph.node:
        if node.domain == "" and node.op_type in targets and "" in node.input:
            definition = _definition(node, types)
            if definition is not None:
                definition.domain, definition.name = _DOMAIN, f"{node.op_type}_{len(made)}"
                node.domain, node.op_type = definition.domain, definition.name
                model.functions.append(definition)
                made.append((definition.domain, definition.name))
    if made:
        model.opset_import.add(domain=_DOMAIN, version=1)
    return made


def _definition(node: onnx.NodeProto, types: dict[str, onnx.TypeProto]) -> onnx.FunctionProto | None:
    """What a node means given its types; None where no definition depends on them."""
    schema: Any = defs.get_schema(node.op_type, OPSET, "")
    versions = [version for version in schema.context_dependent_function_opset_versions if version <= OPSET]
    if not versions:
        return None
    given = [types.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
    text = schema.get_context_dependent_function_with_opset_version(versions[-1], node.SerializeToString(), given)
    definition: onnx.FunctionProto = onnx.FunctionProto.FromString(text)
    if not all(node.op_type in _WIDENED or same_form(node, versions[-1], OPSET) for node in definition.node):
        return None
    del definition.opset_import[:]
    definition.opset_import.add(domain="", version=OPSET)
    return definition


def _types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    known = {info.name: info.type for info in (*graph.input, *graph.value_info, *graph.output)}
    for tensor in graph.initializer:
        known[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    return known
