# SPDX-License-Identifier: Apache-2.0
"""Output shapes that ONNX's inference does not find."""

from collections.abc import Callable

import onnx_ir as ir

from sparsec.compiler.importers.constants import integers
from sparsec.compiler.tokens import set_shapes

_Shapes = list[list[int]]


def complete_shapes(node: ir.Node) -> None:
    """Set the shapes of outputs that inference left open and a rule here knows, in place.

    Args:
        node: a node after shape inference.
    """
    set_shapes(node)
    open_outputs = [v for v in node.outputs if v.name and v.shape is None]
    rule = _RULES.get(node.op_type) if node.domain == "" and open_outputs else None
    shapes = rule(node) if rule is not None else None
    for value, dims in zip(node.outputs, shapes or [], strict=False):
        kind = value.type or _type_of(node)
        if value.name and value.shape is None and kind is not None:
            value.type, value.shape = kind, ir.Shape(dims)


def _type_of(node: ir.Node) -> ir.TypeProtocol | None:
    return node.inputs[0].type if node.inputs[0] is not None else None


def _recurrent(node: ir.Node) -> _Shapes | None:
    """RNN, GRU and LSTM whose first output is left out: Y, then Y_h and Y_c alike."""
    source, weight = (_dims(node, 0), _dims(node, 2))
    if source is None or weight is None or len(source) != 3 or len(weight) != 3:
        return None
    directions, hidden = weight[0], weight[2]
    if node.attributes.get_int("layout", 0) == 1:
        batch, steps = source[0], source[1]
        return [[batch, steps, directions, hidden], *[[batch, directions, hidden]] * 2]
    steps, batch = source[0], source[1]
    return [[steps, directions, batch, hidden], *[[directions, batch, hidden]] * 2]


def _unpool(node: ir.Node) -> _Shapes | None:
    """MaxUnpool with its output shape given as a constant."""
    shape = integers(node, 2)
    return None if shape is None else [shape]


def _mel(node: ir.Node) -> _Shapes | None:
    bands, length = integers(node, 0), integers(node, 1)
    return None if bands is None or length is None else [[int(length[0]) // 2 + 1, int(bands[0])]]


def _same(node: ir.Node) -> _Shapes | None:
    dims = _dims(node, 0)
    return None if dims is None else [dims]


_RULES: dict[str, Callable[[ir.Node], _Shapes | None]] = {
    "GRU": _recurrent,
    "GroupNormalization": _same,
    "LSTM": _recurrent,
    "MaxUnpool": _unpool,
    "MeanVarianceNormalization": _same,
    "MelWeightMatrix": _mel,
    "RNN": _recurrent,
}


def _dims(node: ir.Node, index: int) -> list[int] | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return [int(dim) for dim in value.shape.numpy()]
