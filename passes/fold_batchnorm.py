# SPDX-License-Identifier: Apache-2.0
"""fold-batchnorm: BatchNormalization disappears into the weights of the layer before it.

With f = scale / sqrt(variance + epsilon), BN(W x + b) = (f W) x + (f (b - mean) + shift): exact but for rounding,
which is done once, from float64.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsec.compiler.encoding import EncodedTensor
from sparsec.compiler.graph import attribute, constant_of, free_name, only_consumer, source_of, value_names
from sparsec.compiler.layers import layer_name, weight_axis
from sparsec.compiler.pass_manager import LayerRecord, Pass, PassContext, PassResult
from sparsec.compiler.pattern import Array


@dataclass(frozen=True)
class FoldBatchnorm(Pass):
    """Fold into Conv, ConvTranspose and Gemm wherever nothing else reads the layer's result."""

    name: ClassVar[str] = "fold-batchnorm"
    exact: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """See the module."""
        records = []
        for node in list(model.graph):
            if node.op_type == "BatchNormalization" and node.domain in ("", "ai.onnx"):
                reason = _obstacle(node)
                records.append(LayerRecord(layer_name(node), reason or _fold(model.graph, node), bool(reason)))
        return PassResult(model, any(not record.skipped for record in records), tuple(records))


def _obstacle(node: ir.Node) -> str:
    """Why a BatchNormalization cannot be folded; empty if it can."""
    layer = source_of(node.inputs[0], "Conv", "ConvTranspose", "Gemm")
    if layer is None:
        return "no convolution or Gemm comes before it"
    if only_consumer(layer.outputs[0]) is not node:
        return f"the result of '{layer_name(layer)}' is used elsewhere too"
    if attribute(node, "training_mode", 0) or any(output.uses() for output in node.outputs[1:]):
        return "it is in training mode"
    if any(constant_of(value) is None for value in (*node.inputs[1:], layer.inputs[1])):
        return "its parameters, or the layer's weight, are computed at run time"
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    if bias is not None and constant_of(bias) is None:
        return f"the bias of '{layer_name(layer)}' is computed at run time"
    tensor = layer.inputs[1].const_value if layer.inputs[1] else None
    return "the weight is already quantized" if isinstance(tensor, EncodedTensor) and tensor.encoding.quant else ""


def _fold(graph: ir.Graph, node: ir.Node) -> str:
    layer = source_of(node.inputs[0], "Conv", "ConvTranspose", "Gemm")
    assert layer is not None
    scale, shift, mean, variance = (_double(value) for value in node.inputs[1:5])
    factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    bias = _bias(layer)
    _set_input(graph, layer, 2, factor * (bias - mean) + shift, "bias")
    _set_input(graph, layer, 1, _double(layer.inputs[1]) * _along_outputs(layer, factor), "weight")
    if layer.op_type == "Gemm":
        layer.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    _bypass(graph, node, layer.outputs[0])
    return f"folded into '{layer_name(layer)}'"


def _double(value: ir.Value | None) -> Array:
    array = constant_of(value)
    assert array is not None
    return array.astype(np.float64)


def _bias(layer: ir.Node) -> Array:
    value = layer.inputs[2] if len(layer.inputs) > 2 else None
    beta = attribute(layer, "beta", 1.0) if layer.op_type == "Gemm" else 1.0
    return beta * _double(value) if value is not None else np.zeros(())


def _along_outputs(layer: ir.Node, factor: Array) -> Array:
    """The factor, one an output channel, in a shape that multiplies the stored weight."""
    weight = layer.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    return _SHAPES[layer.op_type](layer, factor, weight.const_value.numpy().shape)


def _transposed(layer: ir.Node, factor: Array, shape: tuple[int, ...]) -> Array:
    """ConvTranspose stores ``[in, out / groups, ...]``: each group's inputs meet that group's factors."""
    groups = attribute(layer, "group", 1)
    rows = factor.reshape(groups, 1, shape[1]).repeat(shape[0] // groups, axis=1)
    return rows.reshape(shape[0], shape[1], *(1,) * (len(shape) - 2))


def _plain(layer: ir.Node, factor: Array, shape: tuple[int, ...]) -> Array:
    sides = [1] * len(shape)
    sides[weight_axis(layer) or 0] = -1
    return factor.reshape(sides)


_SHAPES: Mapping[str, Callable[[ir.Node, Array, tuple[int, ...]], Array]] = {
    "Conv": _plain,
    "Gemm": _plain,
    "ConvTranspose": _transposed,
}


def _set_input(graph: ir.Graph, layer: ir.Node, index: int, array: Array, role: str) -> None:
    """Give the layer a new constant; one that others share is left to them."""
    if len(layer.inputs) <= index:
        layer.resize_inputs(index + 1)
    old = layer.inputs[index]
    if old is not None and old.name is not None and len(old.uses()) == 1:
        old.const_value = _tensor(old, array.astype(np.float32))
        old.shape = ir.Shape(array.shape)
        return
    name = free_name(f"{layer_name(layer)}.{role}", value_names(graph))
    value = ir.val(name, const_value=ir.tensor(array.astype(np.float32), name=name))
    graph.register_initializer(value)
    layer.replace_input_with(index, value)


def _tensor(old: ir.Value, array: Array) -> ir.TensorProtocol:
    """The new values under the old name, and under the old pattern where the weight was pruned."""
    before = old.const_value
    if isinstance(before, EncodedTensor):
        return EncodedTensor(old.name, before.encoding, before.mask, before.axis, values=array)
    return ir.tensor(array, name=old.name)


def _bypass(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Remove a node: what read its first output reads `value`, which takes a graph output's name."""
    output = node.outputs[0]
    name, is_output = output.name, output.is_graph_output()
    output.replace_all_uses_with(value, replace_graph_outputs=True)
    parameters = [v for v in node.inputs[1:] if v is not None]
    graph.remove(node, safe=True)
    if is_output:
        output.name, value.name = None, name
    for parameter in parameters:
        if parameter.is_initializer() and not parameter.uses() and not parameter.is_graph_output():
            graph.initializers.pop(str(parameter.name))
