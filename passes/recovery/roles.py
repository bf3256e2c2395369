# SPDX-License-Identifier: Apache-2.0
"""Finds what of a model can be trained: weights, biases, normalizations, and the grids of quantized activations."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from sparsec.compiler.encoding import EncodedTensor
from sparsec.compiler.graph import constant_of, scalar_of, shape_of, source_of
from sparsec.compiler.layers import layer_name, matches
from sparsec.passes.ranges import LEVELS
from sparsec.passes.recovery.trainables import Grid, Masked, OnGrid, Plain, Trainable

_WEIGHTS: Mapping[str, int] = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
"""Operator -> axis of its weight's output channels (input 1); a Gemm with transB has 0."""
_VECTORS: Mapping[str, tuple[int, ...]] = {
    "Conv": (2,),
    "ConvTranspose": (2,),
    "Gemm": (2,),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "InstanceNormalization": (1, 2),
    "BatchNormalization": (1, 2),
}
"""Operator -> inputs that are biases, gains or shifts."""


def find_trainables(model: ir.Model, train: str, ignore: tuple[str, ...] = ()) -> list[Trainable]:
    """All that can be trained, each initializer once, in graph order.

    Args:
        model: The compressed model.
        train: ``weights``: all; ``scales``: no weight, and of quantized weights the scales alone.
        ignore: Names or globs of layers to leave alone.
    """
    found: dict[str, Trainable] = {}
    for node in model.graph:
        if not matches(layer_name(node), ignore):
            for trainable in _of_node(node, train == "scales"):
                if not any(name in found for name in trainable.names):
                    found.update(dict.fromkeys(trainable.names, trainable))
    frozen = {str(v.name) for node in model.graph if matches(layer_name(node), ignore) for v in node.inputs if v}
    kept = [t for t in dict.fromkeys(found.values()) if not frozen.intersection(t.names)]
    return kept


def _of_node(node: ir.Node, scales_only: bool) -> Iterator[Trainable]:
    if node.domain not in ("", "ai.onnx"):
        return
    weight = node.inputs[1] if node.op_type in _WEIGHTS and len(node.inputs) > 1 else None
    if weight is not None and _owned(weight) and len(shape_of(weight)) >= 2:
        yield from _weight(node, weight, scales_only)
    vectors = [node.inputs[index] for index in _VECTORS.get(node.op_type, ()) if index < len(node.inputs)]
    vectors += _operands(node) if node.op_type in ("Add", "Mul") else []
    yield from (Plain(value) for value in vectors if value is not None and _owned(value))
    if node.op_type == "QuantizeLinear":
        yield from _grid(node)


def _weight(node: ir.Node, weight: ir.Value, scales_only: bool) -> Iterator[Trainable]:
    tensor = weight.const_value
    if isinstance(tensor, EncodedTensor) and tensor.encoding.quant is not None:
        yield OnGrid(weight, tensor, scales_only)
    elif scales_only:
        return
    elif isinstance(tensor, EncodedTensor):
        yield Masked(weight, tensor)
    else:
        transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
        yield Plain(weight, 0 if transposed else _WEIGHTS[node.op_type])


def _owned(value: ir.Value) -> bool:
    """Whether this is a float32 initializer that is neither an input nor an output of the model."""
    constant = constant_of(value)
    outside = value.is_graph_output() or value.is_graph_input()
    return constant is not None and constant.dtype == np.float32 and constant.size > 0 and not outside


def _operands(node: ir.Node) -> list[ir.Value]:
    """A constant vector over the channels, as a bias or gain written out is: ``[C]``, or ``[C, 1, 1]``."""
    result = node.outputs[0].shape
    if result is None or len(result) < 2:
        return []
    sides = shape_of(node.outputs[0])
    forms = {(sides[-1],), (1, sides[-1]), (1, 1, sides[-1])}
    forms |= {(sides[1], 1, 1), (1, sides[1], 1, 1)} if len(sides) == 4 else set()
    constants = [value for value in node.inputs if constant_of(value) is not None]
    return [v for v in constants if v is not None and shape_of(v) in forms and np.prod(shape_of(v)) > 1]


def _grid(quantize: ir.Node) -> Iterator[Trainable]:
    """The grid of a Clip, QuantizeLinear and DequantizeLinear, as `quantize` puts before a layer."""
    clip = source_of(quantize.inputs[0], "Clip")
    if clip is None or len(clip.inputs) < 3 or len(quantize.inputs) < 3:
        return
    scale, zero = quantize.inputs[1], scalar_of(quantize.inputs[2])
    low, high = clip.inputs[1], clip.inputs[2]
    if scale is None or zero is None or low is None or high is None or scalar_of(scale) is None:
        return
    size, ends = np.float32(scalar_of(scale)), (scalar_of(low), scalar_of(high))
    wanted = float(np.float32(-zero) * size), float(np.float32(LEVELS - zero) * size)
    readers = {user for user, _ in quantize.outputs[0].uses()} | {quantize}
    private = {user for user, _ in scale.uses()} <= readers and all(len(v.uses()) == 1 for v in (low, high))
    if private and ends == wanted and all(map(_owned, (scale, low, high))):
        yield Grid(scale, int(zero), low, high)
