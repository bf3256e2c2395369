# SPDX-License-Identifier: Apache-2.0
"""Uses of ONNX operators that the fallback refuses before TVM sees them, and why."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.compiler.graph import attribute, shape_of

Array = NDArray[Any]
Check = Callable[[ir.Node, Sequence[Array | None]], str]
"""Why this use of an operator is refused; empty if it is not."""

DATA_DEPENDENT = ("NonZero", "Unique", "Compress", "NonMaxSuppression", "StringNormalizer", "TfIdfVectorizer")
OTHERWISE_DEFINED = ("Attention", "CastLike", "RMSNormalization")
"""Operators of which TVM has another idea than ONNX, whose definition as a function of others is used instead."""


def _batch_norm(node: ir.Node, constants: Sequence[Array | None]) -> str:
    del constants
    return "'training_mode' is set; export the model for inference." if attribute(node, "training_mode", 0) else ""


def _dropout(node: ir.Node, constants: Sequence[Array | None]) -> str:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return ""
    training = constants[2]
    off = training is not None and not training.any()
    return "" if off else "it may be in training mode; export the model for inference."


def _max_unpool(node: ir.Node, constants: Sequence[Array | None]) -> str:
    del constants
    return "its output's shape is given." if len(node.inputs) > 2 and node.inputs[2] is not None else ""


def _resize(node: ir.Node, constants: Sequence[Array | None]) -> str:
    if attribute(node, "antialias", 0):
        return "'antialias' is set."
    scales, source = constants[2] if len(constants) > 2 else None, node.inputs[0]
    if scales is None or not scales.size or source is None:
        return ""
    axes = attribute(node, "axes", None) or range(len(scales))
    sizes = [shape_of(source)[axis] * float(scale) for axis, scale in zip(axes, scales, strict=True)]
    uneven = any(abs(size - round(size)) > _EVEN * size for size in sizes)
    return "a scale does not give a whole number of elements; give 'sizes' instead." if uneven else ""


def _roi_align(node: ir.Node, constants: Sequence[Array | None]) -> str:
    del constants
    return "its mode is 'max'." if attribute(node, "mode", "avg") == "max" else ""


def _space_to_depth(node: ir.Node, constants: Sequence[Array | None]) -> str:
    del constants
    return "its mode is not 'DCR'." if attribute(node, "mode", "DCR") != "DCR" else ""


_EVEN = 1e-6
"""Relative error of a scale that float32 rounded."""
KNOWN_WRONG: Mapping[str, Check] = {
    "BatchNormalization": _batch_norm,
    "Dropout": _dropout,
    "MaxUnpool": _max_unpool,
    "Resize": _resize,
    "RoiAlign": _roi_align,
    "SpaceToDepth": _space_to_depth,
}
"""By operator: uses that TVM's front end accepts and computes wrongly, found with ONNX's own test cases."""


def refusal(node: ir.Node, constants: Sequence[Array | None]) -> str:
    """Why a node is refused, as a sentence; empty if TVM may try it."""
    if node.domain not in ("", "ai.onnx"):
        return f"it is of the domain '{node.domain}'."
    if node.op_type in DATA_DEPENDENT:
        return "the shape of its result depends on the data."
    if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
        return "it runs a graph of its own."
    check = KNOWN_WRONG.get(node.op_type)
    return check(node, constants) if check else ""
