# SPDX-License-Identifier: Apache-2.0
"""Does each node get the types that its operator is defined for?"""

from collections.abc import Iterator, Sequence

import onnx_ir as ir
from onnx import defs

from sparsec.compiler.errors import ModelError


def check_types(model: ir.Model) -> None:
    """Compare the types of all inputs and outputs with the operators' definitions.

    Args:
        model: a model whose main graph's values all have a type.

    Raises:
        ModelError: a type is none of those allowed, or two that must agree differ.
    """
    for node in model.graph:
        version = model.opset_imports.get(node.domain)
        if version is not None and defs.has(node.op_type, version, node.domain):
            _check_node(node, defs.get_schema(node.op_type, version, node.domain))


def _check_node(node: ir.Node, schema: defs.OpSchema) -> None:
    bound: dict[str, str] = {}
    pairs = [*_pairs(node.inputs, schema.inputs), *_pairs(node.outputs, schema.outputs)]
    for value, parameter in pairs:
        found = str(value.dtype.name).lower() if value.dtype is not None else "unknown"
        text = f"tensor({found})"
        if text not in parameter.types:
            allowed = ", ".join(sorted(parameter.types))
            msg = (
                f"Operator {node.op_type!r}, node {node.name!r}: {parameter.name!r} ({value.name!r}) has the type "
                f"{found}; allowed are {allowed}."
            )
            raise ModelError(msg)
        if parameter.is_homogeneous and bound.setdefault(parameter.type_str, text) != text:
            msg = (
                f"Operator {node.op_type!r}, node {node.name!r}: {parameter.name!r} ({value.name!r}) has the "
                f"type {text}, where {bound[parameter.type_str]} was expected."
            )
            raise ModelError(msg)


def _pairs(
    values: Sequence[ir.Value | None], parameters: Sequence[defs.OpSchema.FormalParameter]
) -> Iterator[tuple[ir.Value, defs.OpSchema.FormalParameter]]:
    """Each value with its formal parameter; the last parameter takes the rest if it is variadic."""
    for index, value in enumerate(values):
        if value is not None and value.name and parameters:
            yield value, parameters[min(index, len(parameters) - 1)]
