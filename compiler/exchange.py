# SPDX-License-Identifier: Apache-2.0
"""Between the model in memory and plain ONNX: quantized weights as int8 with DequantizeLinear, and back."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from sparsec.compiler.encoding import EncodedTensor, Encoding, Quant, as_matrix, classify, from_matrix
from sparsec.compiler.errors import ModelError, RecipeError
from sparsec.compiler.layers import weight_axis
from sparsec.compiler.pattern import Array, Pattern

METADATA = "sparsec.encoding"
"""Key of the DequantizeLinear node's metadata that holds the encoding's text form."""
_LEAST_OPSET = 13


def to_onnx(model: ir.Model) -> onnx.ModelProto:
    """The model as plain ONNX, which any consumer of ONNX runs.

    Each quantized `EncodedTensor` (per tensor or channel) becomes an int8 initializer, its float32 scales and a
    DequantizeLinear that yields the same values; other encoded weights become dense float32. The model given
    stays as it is.

    Raises:
        ModelError: If quantized weights meet an opset older than 13.
    """
    copy = model.clone()
    for value in list(copy.graph.initializers.values()):
        tensor = value.const_value
        if isinstance(tensor, EncodedTensor) and tensor.codes is not None and not _grouped(tensor):
            _dequantize(copy.graph, value, tensor)
    return ir.to_proto(copy)


def from_qdq(model: ir.Model) -> ir.Model:
    """Turn DequantizeLinear over constants back into initializers, in place.

    int8 weights of layers (and uint8 ones with zero point 128) become `EncodedTensor` with a scale per channel,
    one scale for the whole tensor being repeated; int32 biases become float32. Asymmetric weights, and
    DequantizeLinear of anything else, stay.

    Returns:
        The same model.
    """
    for node in list(model.graph):
        if node.op_type == "DequantizeLinear" and node.domain in ("", "ai.onnx") and _is_constant(node):
            tensor = _bias(node) or _weight(node)
            if tensor is not None:
                _replace(model.graph, node, tensor)
    return model


def _grouped(tensor: EncodedTensor) -> bool:
    return tensor.encoding.quant is not None and tensor.encoding.quant.group > 0


def _dequantize(graph: ir.Graph, value: ir.Value, tensor: EncodedTensor) -> None:
    if graph.opset_imports.get("", _LEAST_OPSET) < _LEAST_OPSET:
        msg = (
            f"Weight '{value.name}' is quantized: the model has opset {graph.opset_imports['']}, expected 13 or newer."
        )
        raise ModelError(msg)
    assert tensor.scales is not None
    assert value.name is not None
    name, per_tensor = value.name, tensor.scales.shape == (1,)
    scales = tensor.scales.reshape(()) if per_tensor else tensor.scales
    inputs = [
        _initializer(graph, f"{name}.codes", tensor.codes),
        _initializer(graph, f"{name}.scales", scales),
    ]
    attributes = {} if per_tensor else {"axis": tensor.axis}
    node = ir.node("DequantizeLinear", inputs, attributes, name=f"{name}.dequantize")
    node.metadata_props[METADATA] = str(tensor.encoding)
    node.outputs[0].shape, node.outputs[0].dtype = value.shape, ir.DataType.FLOAT
    value.replace_all_uses_with(node.outputs[0], replace_graph_outputs=True)
    del graph.initializers[name]
    value.name, node.outputs[0].name = f"{name}.encoded", name
    graph.insert_before(graph[0], node)


def _initializer(graph: ir.Graph, name: str, array: Any) -> ir.Value:
    while name in graph.initializers:
        name += "_"
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value


def _is_constant(node: ir.Node) -> bool:
    return all(v is None or v.const_value is not None for v in node.inputs) and not node.outputs[0].is_graph_output()


def _arrays(node: ir.Node) -> tuple[Array, Array, Array]:
    """Codes, scales and zero points of a DequantizeLinear over constants."""
    codes, scales, *zero = [v.const_value.numpy() for v in node.inputs if v is not None and v.const_value is not None]
    return codes, scales, zero[0] if zero else np.zeros_like(scales, dtype=codes.dtype)


def _bias(node: ir.Node) -> ir.TensorProtocol | None:
    codes, scales, zero = _arrays(node)
    if codes.dtype != np.int32 or codes.ndim > 1 or zero.any() or scales.dtype != np.float32:
        return None
    return ir.tensor(codes.astype(np.float32) * scales)


def _weight(node: ir.Node) -> EncodedTensor | None:
    codes, scales, zero = _arrays(node)
    middle = {np.dtype(np.int8): 0, np.dtype(np.uint8): 128}.get(codes.dtype)
    axes = {weight_axis(user) if index == 1 else None for user, index in node.outputs[0].uses()}
    axis = axes.pop() if len(axes) == 1 else None
    if axis is None or middle is None or codes.ndim < 2 or (zero != middle).any():
        return None
    along = node.attributes.get_int("axis", 1) % codes.ndim == axis and scales.shape == (codes.shape[axis],)
    if not (scales.size == 1 or along) or scales.dtype != np.float32 or not (scales > 0).all():
        return None
    plain = (codes.astype(np.int16) - middle).astype(np.int8)
    matrix = as_matrix(plain, axis)
    pattern = _pattern(node, matrix)
    mask = from_matrix(pattern.cover(matrix != 0), codes.shape, axis)
    wide = np.broadcast_to(scales.reshape(-1), codes.shape[axis])
    return EncodedTensor(None, Encoding(pattern, Quant(8, "channel")), mask, axis, codes=plain, scales=wide)


def _pattern(node: ir.Node, matrix: Array) -> Pattern:
    """The pattern that the node's metadata names if the zeros fit it, else the one they show."""
    text = node.metadata_props.get(METADATA)
    try:
        pattern = Encoding.parse(text).pattern if text else None
    except RecipeError:
        pattern = None
    fits = pattern is not None and pattern.check(pattern.cover(matrix != 0))
    return pattern if pattern is not None and fits else classify(matrix)[0]


def _replace(graph: ir.Graph, node: ir.Node, tensor: Any) -> None:
    output = node.outputs[0]
    assert output.name is not None
    name = output.name
    output.name = f"{name}.dequantized"
    tensor.name = name
    value = ir.val(name, const_value=tensor)
    output.replace_all_uses_with(value)
    operands = [operand for operand in node.inputs if operand is not None]
    graph.remove(node, safe=True)
    graph.register_initializer(value)
    for operand in operands:
        if operand.is_initializer() and not operand.uses() and not operand.is_graph_output():
            graph.initializers.pop(str(operand.name))
