# SPDX-License-Identifier: Apache-2.0
"""Which version of an operator an opset has, and whether two opsets spell an operator alike."""

import onnx
from onnx import defs


def since(node: onnx.NodeProto, version: int) -> int | None:
    """The opset that introduced a node's operator in the form of a version; None if that has no such operator."""
    if node.domain not in ("", "ai.onnx") or not defs.has(node.op_type, version, ""):
        return None
    schema = defs.get_schema(node.op_type, version, "")
    return None if schema.deprecated else int(schema.since_version)


def same_form(node: onnx.NodeProto, version: int, wanted: int) -> bool:
    """Whether a node may keep its spelling, because its parameters and defaults are the same in both versions."""
    theirs, ours = since(node, version), since(node, wanted)
    if theirs is None or ours is None:
        return theirs == ours
    return theirs == ours or _form(node.op_type, theirs) == _form(node.op_type, ours)


def _form(op_type: str, version: int) -> tuple[object, ...]:
    schema = defs.get_schema(op_type, version, "")
    attributes = sorted(
        (name, str(a.type), a.required, a.default_value.SerializeToString(deterministic=True))
        for name, a in schema.attributes.items()
    )
    inputs, outputs = ([(p.name, str(p.option)) for p in side] for side in (schema.inputs, schema.outputs))
    return attributes, inputs, outputs
