# SPDX-License-Identifier: Apache-2.0
"""Survey: what a model is made of. Parameters, zeros by pattern, multiply-accumulates, layer by layer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
import onnx_ir as ir

from sparsec.compiler.encoding import EncodedTensor, classify
from sparsec.compiler.graph import attribute, shape_of
from sparsec.compiler.layers import Layer, find_layer, layer_name
from sparsec.compiler.tokens import DOMAIN, MATCH, MERGE


@dataclass(frozen=True, slots=True)
class LayerSurvey:
    """One node that multiplies and adds.

    Attributes:
        name: ONNX name.
        op: ONNX operator.
        shape: Of the constant weight; empty without one.
        parameters: Elements of the constant weight.
        macs: Multiply-accumulates of one run, zeros included.
        pattern: Of the weight's zeros, such as ``block(4x4)``; ``dense`` without any.
        density: Share of the weight's elements that are not zero; 1.0 without a weight.
        bits: Bits of one stored weight: 32, or those of its quantization; 0 without a weight.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    parameters: int
    macs: int
    pattern: str
    density: float
    bits: int


@dataclass(frozen=True, slots=True)
class Survey:
    """A whole model.

    Attributes:
        layers: Nodes that multiply and add, in graph order.
        parameters: Elements of all initializers.
        weight_bytes: What the initializers take: dense ones as they are, encoded ones with indices and scales.
    """

    layers: tuple[LayerSurvey, ...]
    parameters: int
    weight_bytes: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run, zeros included."""
        return sum(layer.macs for layer in self.layers)

    @property
    def zeros(self) -> float:
        """Share of zeros in the weights of all layers; 0.0 without any."""
        weights = sum(layer.parameters for layer in self.layers)
        return sum(layer.parameters * (1 - layer.density) for layer in self.layers) / max(1, weights)


def survey(model: ir.Model) -> Survey:
    """Survey a normalised model (see `importers`).

    Raises:
        ModelError: If a shape is not known.
    """
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    return Survey(
        tuple(map(_layer, _multiplying(model))),
        sum(tensor.size for tensor in tensors),
        sum(map(_stored_bytes, tensors)),
    )


def multiply_accumulates(model: ir.Model) -> int:
    """Multiply-accumulates of one run, zeros included; `survey` has the same number, and looks at all weights.

    Raises:
        ModelError: If a shape is not known.
    """
    return sum(MACS[node.op_type](node) for node in _multiplying(model))


def _multiplying(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type in MACS and node.domain in ("", "ai.onnx", DOMAIN)]


def _layer(node: ir.Node) -> LayerSurvey:
    found, name = find_layer(node), layer_name(node)
    if not isinstance(found, Layer):
        return LayerSurvey(name, node.op_type, (), 0, MACS[node.op_type](node), "dense", 1.0, 0)
    matrix, encoded = found.matrix(), found.encoded
    density = float(np.count_nonzero(matrix) / max(1, matrix.size))
    pattern = encoded.encoding.pattern if encoded else classify(matrix)[0]
    bits = encoded.encoding.quant.bits if encoded and encoded.encoding.quant else 32
    macs = MACS[node.op_type](node)
    return LayerSurvey(name, node.op_type, found.shape, matrix.size, macs, str(pattern), density, bits)


def _stored_bytes(tensor: ir.TensorProtocol) -> int:
    return ceil(tensor.storage_bits / 8) if isinstance(tensor, EncodedTensor) else tensor.nbytes


def _shape(node: ir.Node, index: int) -> tuple[int, ...]:
    value = node.inputs[index]
    assert value is not None
    return shape_of(value)


def _product(node: ir.Node) -> int:
    """Rows x columns x inner, whatever the batch."""
    inner = _shape(node, 0)[0 if attribute(node, "transA", 0) else -1]
    return prod(shape_of(node.outputs[0])) * inner


def _convolution(node: ir.Node) -> int:
    """Each output element takes one filter: ``[out, in / group, *kernel]``."""
    return prod(shape_of(node.outputs[0])) * prod(_shape(node, 1)[1:])


def _transposed_convolution(node: ir.Node) -> int:
    """Each input element feeds one filter: ``[in, out / group, *kernel]``."""
    return prod(_shape(node, 0)) * prod(_shape(node, 1)[1:])


def _recurrent(node: ir.Node) -> int:
    """Each step multiplies W ``[directions, gates * hidden, in]`` and R ``[directions, gates * hidden, hidden]``."""
    steps_and_batch = prod(_shape(node, 0)[:2])
    return steps_and_batch * (prod(_shape(node, 1)) + prod(_shape(node, 2)))


def _match(node: ir.Node) -> int:
    """Each token at an even place is compared with all at odd ones."""
    batch, tokens, depth = _shape(node, 0)
    return batch * (tokens - tokens // 2) * (tokens // 2) * depth


def _merge(node: ir.Node) -> int:
    """Each element is weighted and added once."""
    return prod(_shape(node, 0))


MACS: Mapping[str, Callable[[ir.Node], int]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _product,
    "MatMul": _product,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    MATCH: _match,
    MERGE: _merge,
}
"""Operators that multiply and add, and how often: multiply-accumulates of one node."""
