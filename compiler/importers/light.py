# SPDX-License-Identifier: Apache-2.0
"""A model without its large weights, for ONNX's C++ code, which takes and returns serialized bytes."""

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_ir as ir

from sparsec.compiler.importers.limits import SMALL_WEIGHT_ELEMENTS


@contextmanager
def _weights_as_inputs(model: ir.Model) -> Iterator[dict[str, ir.TensorProtocol]]:
    """Turn large weights into trailing graph inputs, and put everything back on the way out."""
    graph = model.graph
    order = list(graph.initializers.values())
    large = [v for v in order if v.const_value is not None and v.const_value.size > SMALL_WEIGHT_ELEMENTS]
    inputs = list(graph.inputs)
    tensors = {str(v.name): v.const_value for v in order if v.const_value is not None}
    try:
        for value in large:
            graph.initializers.pop(str(value.name))
            graph.inputs.append(_typed(value))
        yield tensors
    finally:
        graph.inputs.clear()
        graph.inputs.extend(inputs)
        graph.initializers.clear()
        for value in order:
            graph.register_initializer(value)


def _typed(value: ir.Value) -> ir.Value:
    """The value with its tensor's type and shape where it has none of its own, which an input needs."""
    tensor = value.const_value
    assert tensor is not None
    if value.type is None:
        value.type = ir.TensorType(tensor.dtype)
    if value.shape is None:
        value.shape = ir.Shape(tensor.shape.numpy())
    return value


def light_proto(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """Serialize a model without its large weights.

    Args:
        model: any model; left as it was.

    Returns:
        The model's proto, in which each large weight is a graph input behind the true ones, and all
        weights by name.
    """
    with _weights_as_inputs(model) as tensors:
        return ir.to_proto(model), tensors


def restore_weights(proto: onnx.ModelProto, tensors: dict[str, ir.TensorProtocol]) -> ir.Model:
    """Undo :func:`light_proto` on what C++ code made of the proto.

    Args:
        proto: a model in which large weights are graph inputs.
        tensors: all weights by name; an encoded one stays the object it is.

    Returns:
        A model of its own; it shares the weights' memory.
    """
    model = ir.from_proto(proto)
    inputs = list(model.graph.inputs)
    model.graph.inputs.clear()
    for value in [*inputs, *model.graph.initializers.values()]:
        if value.name in tensors:
            value.const_value = tensors[value.name]
            model.graph.register_initializer(value)
        elif not value.is_initializer():
            model.graph.inputs.append(value)
    return model
