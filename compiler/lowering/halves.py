# SPDX-License-Identifier: Apache-2.0
"""Float16 models are computed in float32, rounded where float16 leaves the graph or meets a node that is about types.

No target has float16 kernels; onnxruntime does the same on the CPU.
"""

import numpy as np
import onnx_ir as ir

_TYPED_BY_ATTRIBUTE = ("to", "dtype", "output_dtype")
_ABOUT_TYPES = frozenset(("BitCast", "CastLike", "DequantizeLinear", "QuantizeLinear"))
_WIDE, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def widened(model: ir.Model) -> ir.Model:
    """Let nodes compute float16 values as float32; what the model itself rounds to float16 in between, too.

    Args:
        model: An imported model whose nodes are in order.

    Returns:
        Another model that shares the weights; the model itself if nothing is to be widened.
    """
    half = any(value is not None and _is_half(value) for node in model.graph for value in (*node.inputs, *node.outputs))
    if not half:
        return model
    copy = model.clone()
    _widen(copy.graph)
    return copy


def _widen(graph: ir.Graph) -> None:
    twins: dict[ir.Value, ir.Value] = {}
    widened: list[ir.Value] = []
    for node in list(graph):
        if _widenable(node):
            for index, value in enumerate(node.inputs):
                if value is not None and _is_half(value):
                    node.replace_input_with(index, _twin(graph, value, twins))
            for value in node.outputs:
                if _is_half(value):
                    value.type = ir.TensorType(_WIDE)
                    widened.append(value)
    for value in widened:
        _narrow(graph, value)


def _is_half(value: ir.Value) -> bool:
    return value.dtype == _HALF


def _widenable(node: ir.Node) -> bool:
    typed = node.op_type in _ABOUT_TYPES or any(name in node.attributes for name in _TYPED_BY_ATTRIBUTE)
    return node.domain == "" and not typed


def _twin(graph: ir.Graph, value: ir.Value, twins: dict[ir.Value, ir.Value]) -> ir.Value:
    """A float16 value as float32."""
    if value not in twins:
        unrounded = _unrounded(value)
        if unrounded is not None:
            twins[value] = unrounded
        else:
            twins[value] = _constant(graph, value) if value.is_initializer() else _cast(graph, value, _WIDE)
    return twins[value]


def _unrounded(value: ir.Value) -> ir.Value | None:
    """The float32 value that a float16 one was rounded from."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.domain == "" and node.op_type == "Cast" else None
    return source if source is not None and source.dtype == _WIDE else None


def _constant(graph: ir.Graph, value: ir.Value) -> ir.Value:
    assert value.const_value is not None
    tensor = ir.Tensor(value.const_value.numpy().astype(np.float32), name=f"{value.name}/wide")
    twin = ir.Value(name=tensor.name, shape=value.shape, type=ir.TensorType(_WIDE), const_value=tensor)
    graph.register_initializer(twin)
    return twin


def _cast(graph: ir.Graph, value: ir.Value, kind: ir.DataType) -> ir.Value:
    node = ir.node("Cast", [value], {"to": int(kind)}, name=f"{value.name}/{kind.name.lower()}")
    made, producer = node.outputs[0], value.producer()
    made.name, made.shape, made.type = node.name, value.shape, ir.TensorType(kind)
    if producer is not None:
        graph.insert_after(producer, node)
    else:
        graph.insert_before(graph[0], node)
    return made


def _narrow(graph: ir.Graph, value: ir.Value) -> None:
    """Round a widened value for those who want float16: nodes about types, the caller."""
    users = [(node, index) for node, index in value.uses() if not _widenable(node)]
    if not users and not value.is_graph_output():
        return
    for node, index in [(node, index) for node, index in users if _casts_up(node)]:
        if not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(value)
            users.remove((node, index))
            graph.remove(node, safe=True)
    if not users and not value.is_graph_output():
        return
    narrow = _cast(graph, value, _HALF)
    for node, index in users:
        node.replace_input_with(index, narrow)
    if value.is_graph_output():
        value.name, narrow.name = f"{value.name}/wide", value.name
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = narrow


def _casts_up(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type == "Cast" and node.attributes.get_int("to", 0) == int(_WIDE)
