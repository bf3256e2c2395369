# SPDX-License-Identifier: Apache-2.0
"""Between the model in memory and plain ONNX: quantized weights as codes with DequantizeLinear, and back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from sparsec.compiler.encoding import EncodedTensor, Quant, from_matrix
from sparsec.compiler.errors import ModelError
from sparsec.compiler.graph import free_name, value_names
from sparsec.compiler.pattern import Array
from sparsec.compiler.qdq_weights import METADATA, read_bias, read_weight, with_reshape

__all__ = ["METADATA", "from_qdq", "to_onnx"]

_LEAST_OPSET = 13
GROUPS_OPSET = 21
"""The first opset whose DequantizeLinear knows groups (block_size)."""


def to_onnx(model: ir.Model) -> onnx.ModelProto:
    """The model as plain ONNX, which any consumer of ONNX runs.

    Each quantized `EncodedTensor` becomes an initializer of int8 codes (uint8 where asymmetric), its float32 scales,
    its zero points, and a DequantizeLinear that yields the same values; other encoded weights become dense float32.
    So do groups in an opset older than 21, which cannot say them. The model given stays as it is.

    Raises:
        ModelError: If quantized weights meet an opset older than 13.
    """
    copy = model.clone()
    taken = value_names(copy.graph)
    for value in list(copy.graph.initializers.values()):
        tensor = value.const_value
        if isinstance(tensor, EncodedTensor) and tensor.codes is not None and _sayable(copy.graph, tensor):
            _dequantize(copy.graph, value, tensor, taken)
    return ir.to_proto(copy)


def from_qdq(model: ir.Model) -> ir.Model:
    """Turn DequantizeLinear over constants back into initializers, in place.

    int8 weights of layers (and uint8 ones with zero point 128) become `EncodedTensor` with a scale per channel,
    one scale for the whole tensor being repeated; int32 biases become float32. What `to_onnx` wrote with groups or
    zero points is read back as it was. Other asymmetric weights, and DequantizeLinear of anything else, stay.

    Returns:
        The same model.
    """
    for node in list(model.graph):
        if node.op_type == "DequantizeLinear" and node.domain in ("", "ai.onnx") and _is_constant(node):
            nodes = with_reshape(node)
            tensor = read_bias(node) or read_weight(nodes)
            if tensor is not None:
                _replace(model.graph, nodes, tensor)
    return model


def _sayable(graph: ir.Graph, tensor: EncodedTensor) -> bool:
    """Whether an opset's DequantizeLinear can say a tensor's groups; what is too old even for channels is not asked."""
    grouped = tensor.encoding.quant is not None and tensor.encoding.quant.group > 0
    return not grouped or graph.opset_imports.get("", GROUPS_OPSET) >= GROUPS_OPSET


def _dequantize(graph: ir.Graph, value: ir.Value, tensor: EncodedTensor, taken: set[str]) -> None:
    if graph.opset_imports.get("", _LEAST_OPSET) < _LEAST_OPSET:
        msg = (
            f"Weight '{value.name}' is quantized: the model has opset {graph.opset_imports['']}, expected 13 or newer."
        )
        raise ModelError(msg)
    assert value.name is not None
    name, nodes = value.name, _decoder(graph, value.name, tensor, taken)
    for node in nodes:
        node.metadata_props[METADATA] = str(tensor.encoding)
    output = nodes[-1].outputs[0]
    output.shape, output.dtype = value.shape, ir.DataType.FLOAT
    value.replace_all_uses_with(output, replace_graph_outputs=True)
    del graph.initializers[name]
    value.name, output.name = free_name(f"{name}.encoded", taken), name
    graph.insert_before(graph[0], nodes)


def _decoder(graph: ir.Graph, name: str, tensor: EncodedTensor, taken: set[str]) -> list[ir.Node]:
    """DequantizeLinear over a tensor's arrays; groups that run over several axes need a Reshape behind it."""
    quant, scales, codes = tensor.encoding.quant, tensor.scales, tensor.codes
    assert quant is not None
    assert scales is not None
    assert codes is not None
    attributes = _LAYOUTS[quant.granularity](tensor)
    flat = quant.group > 0 and codes.ndim > 2
    place = _placing(tensor)
    arrays = {"codes": tensor.matrix(codes) if flat else codes, "scales": place(scales)}
    if tensor.zero_points is not None:
        arrays["zero_points"] = place(tensor.zero_points)
    types = dict.fromkeys(("codes", "zero_points"), _code_type(graph, quant))
    names = {role: free_name(f"{name}.{role}", taken) for role in arrays}
    inputs = [_initializer(graph, names[role], array, types.get(role)) for role, array in arrays.items()]
    nodes = [ir.node("DequantizeLinear", inputs, attributes, name=f"{name}.dequantize")]
    if flat:
        nodes[0].outputs[0].name = free_name(f"{name}.matrix", taken)
        shape = _initializer(graph, free_name(f"{name}.shape", taken), np.array(codes.shape, np.int64))
        nodes.append(ir.node("Reshape", [nodes[0].outputs[0], shape], name=f"{name}.reshape"))
    return nodes


_LAYOUTS: Mapping[str, Callable[[EncodedTensor], dict[str, int]]] = {
    "tensor": lambda tensor: {},
    "channel": lambda tensor: {"axis": tensor.axis},
    "group": lambda tensor: {"axis": 1 - tensor.axis, "block_size": tensor.encoding.quant.group},  # type: ignore[union-attr]
}
"""Granularity -> attributes of DequantizeLinear; groups run over the axis that is not the output channels'."""


def _placing(tensor: EncodedTensor) -> Callable[[Array], Array]:
    """How scales and zero points are laid out: a scalar per tensor, along the output channels' axis, or in a grid."""
    if tensor.encoding.quant is not None and tensor.encoding.quant.group:
        return lambda shared: from_matrix(shared, _grid(shared, tensor.axis), tensor.axis)
    return lambda shared: shared.reshape(()) if shared.shape == (1,) else shared


def _grid(shared: Array, axis: int) -> tuple[int, int]:
    return (shared.shape[0], shared.shape[1]) if axis == 0 else (shared.shape[1], shared.shape[0])


def _code_type(graph: ir.Graph, quant: Quant) -> ir.DataType:
    """Four-bit types where they suffice and the opset has them."""
    narrow = quant.bits <= 4 and graph.opset_imports.get("", GROUPS_OPSET) >= GROUPS_OPSET
    return _CODE_TYPES[quant.symmetric, narrow]


_CODE_TYPES: Mapping[tuple[bool, bool], ir.DataType] = {
    (True, True): ir.DataType.INT4,
    (True, False): ir.DataType.INT8,
    (False, True): ir.DataType.UINT4,
    (False, False): ir.DataType.UINT8,
}
"""(symmetric, four bits suffice) -> type of the codes."""


def _initializer(graph: ir.Graph, name: str, array: Any, dtype: ir.DataType | None = None) -> ir.Value:
    typed = np.ascontiguousarray(array) if dtype is None else array.astype(dtype.numpy())
    value = ir.val(name, const_value=ir.tensor(typed, name=name))
    graph.register_initializer(value)
    return value


def _is_constant(node: ir.Node) -> bool:
    return all(v is None or v.const_value is not None for v in node.inputs) and not node.outputs[0].is_graph_output()


def _replace(graph: ir.Graph, nodes: Sequence[ir.Node], tensor: Any) -> None:
    """Put an initializer in the place of nodes over constants, the last of which yields it."""
    output = nodes[-1].outputs[0]
    assert output.name is not None
    name = output.name
    output.name = f"{name}.dequantized"
    tensor.name = name
    value = ir.val(name, const_value=tensor)
    output.replace_all_uses_with(value)
    operands = [operand for node in nodes for operand in node.inputs if operand is not None and not operand.producer()]
    graph.remove(nodes, safe=True)
    graph.register_initializer(value)
    for operand in operands:
        if operand.is_initializer() and not operand.uses() and not operand.is_graph_output():
            graph.initializers.pop(str(operand.name), None)
