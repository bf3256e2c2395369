# SPDX-License-Identifier: Apache-2.0
"""prune-kernels: fine-grained kernel sparsity, with a unit of its own for each kind of operator.

In the style of SparseByteNN (Xu et al., "SparseByteNN: A Novel Mobile Inference Acceleration Framework Based on
Fine-Grained Group Sparsity", 2023): `rows` neighbouring output channels share which inputs they read, so vector lanes
stay full. The unit of a 1x1 convolution or a matrix product is `rows` x `cols` weights; that of a larger convolution
holds the whole kernels of `rows` output and `cols` input channels. Depthwise convolutions, the first convolution and
the classifier stay dense: they are a small part of the work and a large part of the accuracy.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from sparsec.compiler.layers import Layer
from sparsec.compiler.pattern import Block
from sparsec.passes.pruning import PruneToDensity


@dataclass(frozen=True)
class PruneKernels(PruneToDensity):
    """Convolutions of one group, Gemm and MatMul, but the first and the last layer.

    Attributes:
        rows: Output channels in a unit.
        cols: Input channels in a unit.
        ends: Whether layers that read an input of the model, or make an output of it, are pruned too.

    Raises:
        RecipeError: If an option is out of range.
    """

    name: ClassVar[str] = "prune-kernels"
    rows: int = 4
    cols: int = 1
    ends: bool = False

    def __post_init__(self) -> None:
        Block(self.rows, self.cols)
        super().__post_init__()

    def pattern(self, layer: Layer) -> Block:
        """Whole kernels of `rows` x `cols` channels: the weight's columns are in the order channel, tap."""
        return Block(self.rows, self.cols * layer.taps)

    def obstacle(self, layer: Layer) -> str:
        """Why this pattern does not fit a layer; empty if it does."""
        out, inputs = layer.matrix().shape
        unit = self.pattern(layer)
        if out < unit.rows or inputs < unit.cols:
            return f"its {out}x{inputs} weight is smaller than a unit of {unit.rows}x{unit.cols}"
        return "" if self.ends else _end(layer)


def _end(layer: Layer) -> str:
    """Why a layer is an end of the network; empty if it is none."""
    if _reaches(layer.node.inputs[0], backwards=True):
        return "it reads an input of the model; set ends=true to prune it"
    if _reaches(layer.node.outputs[0], backwards=False):
        return "it makes an output of the model; set ends=true to prune it"
    return ""


_THIN = {
    *("Add", "Cast", "Clip", "DequantizeLinear", "Flatten", "Identity", "LogSoftmax", "Mul", "Pad", "QuantizeLinear"),
    *("Relu", "Reshape", "Sigmoid", "Softmax", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
}
"""Operators that may stand between an end of the network and its first or last layer."""


def _reaches(value: ir.Value | None, *, backwards: bool) -> bool:
    """Whether a value is an input (or output) of the model, with nothing but thin operators of one operand between."""
    while value is not None:
        if value.is_graph_input() if backwards else value.is_graph_output():
            return True
        node = value.producer() if backwards else _only_reader(value)
        if node is None or node.op_type not in _THIN:
            return False
        computed = [operand for operand in node.inputs if operand is not None and operand.const_value is None]
        if len(computed) != 1:
            return False
        value = computed[0] if backwards else node.outputs[0]
    return False


def _only_reader(value: ir.Value) -> ir.Node | None:
    readers = {node for node, _ in value.uses()}
    return next(iter(readers)) if len(readers) == 1 else None
