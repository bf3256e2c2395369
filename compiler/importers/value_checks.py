# SPDX-License-Identifier: Apache-2.0
"""What shape inference lets pass although no execution can be right: counts, groups, constant indices."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.compiler.errors import ModelError

_Array = np.ndarray[Any, Any]


def check_values(model: ir.Model) -> None:
    """Check what depends on shapes and on constant inputs, where a kernel could read or write out of bounds.

    Args:
        model: a model with static shapes.

    Raises:
        ModelError: a node cannot be executed.
    """
    for node in model.graph:
        found = complaint(node)
        if found is not None:
            msg = f"Operator {node.op_type!r}, node {node.name!r}: {found}."
            raise ModelError(msg)


def complaint(node: ir.Node) -> str | None:
    """What makes a node impossible to execute, as the end of a sentence; None if nothing is found."""
    rule = _RULES.get(node.op_type) if node.domain == "" else None
    values = [value for value in (*node.inputs, *node.outputs) if value is not None and value.name]
    if rule is None or any(value.shape is None or not value.shape.is_static() for value in values):
        return None
    return rule(node)


def _dims(value: ir.Value | None) -> list[int]:
    return [] if value is None or value.shape is None else [int(dim) for dim in value.shape.numpy()]


def _array(node: ir.Node, index: int) -> _Array | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _reshape(node: ir.Node) -> str | None:
    before, after = _dims(node.inputs[0]), _dims(node.outputs[0])
    if math.prod(before) == math.prod(after):
        return None
    return f"cannot turn the shape {before} into {after}; both need as many elements"


def _grouped(node: ir.Node) -> str | None:
    channels, weight = _dims(node.inputs[0])[1], _dims(node.inputs[1])
    group = node.attributes.get_int("group", 1)
    split, whole = (weight[0], weight[1] * group) if node.op_type == "ConvTranspose" else (weight[1] * group, weight[0])
    if group >= 1 and channels == split and channels % group == 0 and whole % (group or 1) in (0, whole):
        return None
    return f"has {channels} input channels, {group} groups and a weight of shape {weight}, which do not fit"


def _division(node: ir.Node) -> str | None:
    divisor = _array(node, 1)
    zero = divisor is not None and divisor.dtype.kind in "iu" and not divisor.all()
    return "divides integers by a constant zero" if zero else None


def _gather(node: ir.Node) -> str | None:
    indices, dims = _array(node, 1), _dims(node.inputs[0])
    axis = node.attributes.get_int("axis", 0)
    if indices is None or not indices.size:
        return None
    if not dims or not -len(dims) <= axis < len(dims):
        return f"has the axis {axis} for the shape {dims}"
    return _out_of_range(indices, dims[axis])


def _gather_nd(node: ir.Node) -> str | None:
    indices, dims = _array(node, 1), _dims(node.inputs[0])
    batch = node.attributes.get_int("batch_dims", 0)
    if indices is None or not indices.size:
        return None
    limits = dims[batch : batch + indices.shape[-1]]
    columns = [_out_of_range(indices[..., i], limit) for i, limit in enumerate(limits)]
    return next((column for column in columns if column is not None), None)


def _out_of_range(indices: _Array, size: int) -> str | None:
    if indices.min() >= -size and indices.max() < size:
        return None
    return f"has constant indices from {indices.min()} to {indices.max()}, where {size} elements are"


def _range(node: ir.Node) -> str | None:
    ends = [_array(node, index) for index in range(3)]
    if any(end is None or end.size != 1 for end in ends):
        return None
    start, limit, delta = (end.item() for end in ends if end is not None)
    expected = (limit - start) / delta if delta else math.inf
    if math.isfinite(expected) and abs(max(math.ceil(expected), 0) - _dims(node.outputs[0])[0]) <= 1:
        return None
    return f"goes from {start} to {limit} by steps of {delta}, which is no length"


def _prelu(node: ir.Node) -> str | None:
    shape, slope = (_dims(value) for value in node.inputs)
    if len(slope) <= len(shape) and all(b in (1, a) for a, b in zip(shape[::-1], slope[::-1], strict=False)):
        return None
    return f"has a slope of shape {slope}, which does not broadcast to {shape}"


_RULES: dict[str, Callable[[ir.Node], str | None]] = {
    "Conv": _grouped,
    "ConvInteger": _grouped,
    "ConvTranspose": _grouped,
    "Div": _division,
    "Gather": _gather,
    "GatherElements": _gather,
    "GatherND": _gather_nd,
    "Mod": _division,
    "PRelu": _prelu,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterElements": _gather,
    "ScatterND": _gather_nd,
}
