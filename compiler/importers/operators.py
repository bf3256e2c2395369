# SPDX-License-Identifier: Apache-2.0
"""Is each node an operator that ONNX defines, with as many inputs and with the attributes it may have?"""

from typing import Any

import onnx
from onnx import defs

from sparsec.compiler.errors import ModelError, UnsupportedError
from sparsec.compiler.importers.walk import nodes_in

_Versions = dict[str, int]


def check_operators(model: onnx.ModelProto) -> None:
    """Compare all nodes with the definitions of their operators.

    Args:
        model: a parsed model.

    Raises:
        ModelError: a node has too few or too many inputs or outputs, or an attribute it must not or does not have.
        UnsupportedError: an operator is neither ONNX's nor a local function.
    """
    local = {(function.domain, function.name) for function in model.functions}
    if len(local) != len(model.functions):
        msg = "The model defines a function twice."
        raise ModelError(msg)
    for nodes, versions in (
        (model.graph.node, _versions(model)),
        *((function.node, _versions(function)) for function in model.functions),
    ):
        for node in nodes_in(nodes):
            if (node.domain, node.op_type) not in local:
                _check_node(node, versions)


def _versions(body: onnx.ModelProto | onnx.FunctionProto) -> _Versions:
    return {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in body.opset_import}


def _check_node(node: onnx.NodeProto, versions: _Versions) -> None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    name = f"{domain}.{node.op_type}" if domain else node.op_type
    where = f"Operator {name!r}, node {node.name!r}"
    version = versions.get(domain)
    if version is None or not defs.has(node.op_type, version, domain):
        found = "the model imports no such operator set" if version is None else f"ONNX has none in version {version}"
        msg = f"{where}: is unknown; {found}."
        raise UnsupportedError(msg)
    schema = defs.get_schema(node.op_type, version, domain)
    _check_counts(where, node, schema)
    _check_attributes(where, node, schema)
    _check_split(where, node)


def _check_counts(where: str, node: onnx.NodeProto, schema: defs.OpSchema) -> None:
    for role, names, low, high in (
        ("inputs", node.input, schema.min_input, schema.max_input),
        ("outputs", node.output, schema.min_output, schema.max_output),
    ):
        if not low <= len(names) <= high:
            msg = f"{where}: has {len(names)} {role}; {low} to {high} were expected."
            raise ModelError(msg)
    for parameter, found in zip(schema.inputs, node.input, strict=False):
        if not found and parameter.option == defs.OpSchema.FormalParameterOption.Single:
            msg = f"{where}: its input {parameter.name!r} is missing."
            raise ModelError(msg)


def _check_split(where: str, node: onnx.NodeProto) -> None:
    """ONNX's inference makes as many shapes as a Split's attribute says, not as many as it has outputs."""
    for attribute in node.attribute:
        if node.op_type == "Split" and attribute.name == "num_outputs" and attribute.i != len(node.output):
            msg = f"{where}: has {len(node.output)} outputs, but 'num_outputs' is {attribute.i}."
            raise ModelError(msg)


def _check_text(where: str, attribute: onnx.AttributeProto) -> None:
    try:
        for text in (attribute.s, *attribute.strings):
            text.decode()
    except UnicodeDecodeError as error:
        msg = f"{where}: its attribute {attribute.name!r} is no UTF-8 text."
        raise ModelError(msg) from error


def _check_attributes(where: str, node: onnx.NodeProto, schema: defs.OpSchema) -> None:
    known: dict[str, Any] = dict(schema.attributes)
    present = {attribute.name for attribute in node.attribute}
    if len(present) != len(node.attribute):
        msg = f"{where}: has an attribute twice."
        raise ModelError(msg)
    for attribute in node.attribute:
        if attribute.name not in known:
            msg = f"{where}: has the unknown attribute {attribute.name!r}."
            raise ModelError(msg)
        if attribute.type != int(known[attribute.name].type.value):
            msg = f"{where}: its attribute {attribute.name!r} is of the wrong type."
            raise ModelError(msg)
        _check_text(where, attribute)
    for name, expected in known.items():
        if expected.required and name not in present:
            msg = f"{where}: its attribute {name!r} is missing."
            raise ModelError(msg)
