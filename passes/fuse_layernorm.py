# SPDX-License-Identifier: Apache-2.0
"""fuse-layernorm: a layer normalization spelled out in means, squares and a root becomes one LayerNormalization.

The form is d = x - mean(x); y = d / sqrt(mean(d * d) + epsilon), over the last axis, then by choice a product with
a constant and a sum with a constant, each one number per element of that axis. Division may be a product with the
reciprocal, and d may be computed twice.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from sparsec.compiler.graph import (
    attribute,
    constant_of,
    free_name,
    only_consumer,
    scalar_of,
    shape_of,
    source_of,
    value_names,
)
from sparsec.compiler.layers import layer_name
from sparsec.compiler.pass_manager import LayerRecord, Pass, PassContext, PassResult

_LEAST_OPSET = 17


@dataclass(frozen=True)
class FuseLayernorm(Pass):
    """The new node keeps the name of the division."""

    name: ClassVar[str] = "fuse-layernorm"
    exact: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """See the module."""
        if model.graph.opset_imports.get("", 0) < _LEAST_OPSET:
            return PassResult(model, changed=False)
        found = [match for node in list(model.graph) if (match := _match(node)) is not None]
        records = [LayerRecord(layer_name(match.division), "fused into LayerNormalization") for match in found]
        for match in found:
            _rewrite(model.graph, match)
        if found:
            common.RemoveUnusedNodesPass()(model)
        return PassResult(model, bool(found), tuple(records))


@dataclass(frozen=True, slots=True)
class _Match:
    """The value normalized, the division, epsilon, and the nodes that scale and shift (None where absent)."""

    x: ir.Value
    division: ir.Node
    epsilon: float
    scale: ir.Node | None
    shift: ir.Node | None

    @property
    def result(self) -> ir.Value:
        return (self.shift or self.scale or self.division).outputs[0]


def _match(node: ir.Node) -> _Match | None:
    """The whole form, from its division on; None if the node is not one."""
    parts = _quotient(node)
    if parts is None:
        return None
    deviation, root = parts
    x = _centered(deviation)
    variance = source_of(root.inputs[0], "Add")
    if x is None or variance is None or x.dtype != ir.DataType.FLOAT:
        return None
    mean, epsilon = _with_constant(variance)
    if mean is None or epsilon is None or epsilon < 0 or _squared_input(mean) is not x:
        return None
    scale = _affine(node.outputs[0], "Mul", shape_of(x)[-1])
    shift = _affine(scale.outputs[0] if scale else node.outputs[0], "Add", shape_of(x)[-1])
    return _Match(x, node, epsilon, scale, shift)


def _quotient(node: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """Deviation and Sqrt node of ``d / sqrt(v)`` or ``d * (1 / sqrt(v))``."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("Div", "Mul"):
        return None
    for left, right in ((0, 1), (1, 0))[: 1 if node.op_type == "Div" else 2]:
        divisor = node.inputs[right]
        if node.op_type == "Mul":
            reciprocal = source_of(divisor, "Reciprocal")
            divisor = reciprocal.inputs[0] if reciprocal else None
        root, deviation = source_of(divisor, "Sqrt"), node.inputs[left]
        if root is not None and deviation is not None:
            return deviation, root
    return None


def _centered(value: ir.Value | None) -> ir.Value | None:
    """The operand x of ``x - mean(x)``."""
    difference = source_of(value, "Sub")
    x = difference.inputs[0] if difference else None
    mean = _last_mean(difference.inputs[1]) if difference else None
    return x if x is not None and mean is x else None


def _squared_input(value: ir.Value) -> ir.Value | None:
    """The operand x of ``mean((x - mean(x)) ** 2)``."""
    square = source_of(_last_mean(value), "Pow", "Mul")
    if square is None:
        return None
    twice = scalar_of(square.inputs[1]) == 2 if square.op_type == "Pow" else square.inputs[0] is square.inputs[1]
    return _centered(square.inputs[0]) if twice else None


def _last_mean(value: ir.Value | None) -> ir.Value | None:
    """What a ReduceMean over the last axis alone, keeping it, reads."""
    node = source_of(value, "ReduceMean")
    if node is None or node.inputs[0] is None or node.inputs[0].shape is None or attribute(node, "keepdims", 1) != 1:
        return None
    given = constant_of(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes")
    axes = [] if given is None else [int(axis) for axis in np.ravel(given)]
    return node.inputs[0] if axes in ([-1], [len(node.inputs[0].shape) - 1]) else None


def _with_constant(node: ir.Node) -> tuple[ir.Value | None, float | None]:
    """The operand that is computed, and the number that is added to it."""
    for value, other in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        if (number := scalar_of(other)) is not None:
            return value, number
    return None, None


def _affine(value: ir.Value, op_type: str, length: int) -> ir.Node | None:
    """The only reader of a value, if it combines it with a constant vector of this length."""
    node = only_consumer(value)
    if node is None or node.op_type != op_type or node.domain not in ("", "ai.onnx"):
        return None
    constants = [constant_of(other) for other in node.inputs if other is not value]
    return node if len(constants) == 1 and constants[0] is not None and constants[0].shape == (length,) else None


def _rewrite(graph: ir.Graph, match: _Match) -> None:
    result, length, name = match.result, shape_of(match.x)[-1], layer_name(match.division)
    inputs = [match.x, _vector(graph, match.scale, f"{name}.scale", length)]
    if match.shift is not None:
        inputs.append(_vector(graph, match.shift, f"{name}.bias", length))
    attributes = {"axis": -1, "epsilon": match.epsilon}
    fused = ir.node("LayerNormalization", inputs, attributes, name=name)
    output = fused.outputs[0]
    output.shape, output.type = result.shape, result.type
    match.division.name = f"{name}.replaced"
    producer = result.producer()
    assert producer is not None
    graph.insert_after(producer, fused)
    result.replace_all_uses_with(output, replace_graph_outputs=True)
    final, result.name = result.name, f"{result.name}.replaced"
    output.name = final


def _vector(graph: ir.Graph, node: ir.Node | None, name: str, length: int) -> ir.Value:
    """The constant operand of a scaling or shifting node; ones where there is no node."""
    if node is not None:
        return next(v for v in node.inputs if v is not None and constant_of(v) is not None)
    name = free_name(name, value_names(graph))
    value = ir.val(name, const_value=ir.tensor(np.ones(length, np.float32), name=name))
    graph.register_initializer(value)
    return value
