# SPDX-License-Identifier: Apache-2.0
"""Layers: the nodes with a constant weight matrix, and that weight as ``[out, in]`` whatever its storage order."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.compiler.encoding import EncodedTensor, as_matrix, from_matrix
from sparsec.compiler.errors import UnsupportedError
from sparsec.compiler.pattern import Array, Mask

KINDS = ("Conv", "Gemm", "MatMul")
"""Operators whose second input is a weight."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A Conv, Gemm or MatMul with a constant weight.

    Attributes:
        node: The node.
        weight: The initializer.
        axis: The axis of output channels in the stored weight.
    """

    node: ir.Node
    weight: ir.Value
    axis: int

    @property
    def name(self) -> str:
        """The ONNX name, by which recipes and reports speak of it."""
        return layer_name(self.node)

    @property
    def tensor(self) -> Any:
        """The weight's tensor; an `EncodedTensor` once a pass has compressed it."""
        return self.weight.const_value

    @property
    def shape(self) -> tuple[int, ...]:
        """The stored shape."""
        return tuple(int(side) for side in self.tensor.shape)

    @property
    def encoded(self) -> EncodedTensor | None:
        """The tensor if it is encoded."""
        return self.tensor if isinstance(self.tensor, EncodedTensor) else None

    @property
    def groups(self) -> int:
        """Groups of a convolution, else 1."""
        return self.node.attributes.get_int("group", 1) if self.node.op_type == "Conv" else 1

    @property
    def taps(self) -> int:
        """Kernel positions of a convolution (1 for pointwise), else 1."""
        return prod(self.shape[2:]) if self.node.op_type == "Conv" else 1

    @property
    def mask(self) -> Mask:
        """The stored elements in the weight's shape; all True where nothing was pruned."""
        return self.encoded.mask if self.encoded else np.ones(self.shape, bool)

    def matrix(self) -> Array:
        """The dense weight as ``[out, in]``."""
        return as_matrix(self.tensor.numpy(), self.axis)

    def restore(self, matrix: Array) -> Array:
        """Put ``[out, in]`` back into the stored shape."""
        return from_matrix(matrix, self.shape, self.axis)


def layer_name(node: ir.Node) -> str:
    """A node's name, or that of its first output where it has none."""
    return node.name or node.outputs[0].name or node.op_type


def find_layer(node: ir.Node) -> Layer | str | None:
    """The layer of a node; a reason (str) where a Conv, Gemm or MatMul is none; None for other operators."""
    if weight_axis(node) is None:
        return None
    data, weight = node.inputs[0], node.inputs[1]
    if data is None or data.const_value is not None:
        return "its first operand is constant"
    if weight is None or weight.const_value is None or not weight.is_initializer() or weight.is_graph_input():
        return "its second operand is computed at run time"
    if weight.const_value.dtype != ir.DataType.FLOAT:
        return f"its weight is {weight.const_value.dtype}, not float32"
    axis, rank = weight_axis(node), len(weight.const_value.shape)
    if axis is None or rank < 2 or (rank > 2 and node.op_type != "Conv"):
        return "its weight is not a matrix"
    return Layer(node, weight, axis)


def weight_axis(node: ir.Node) -> int | None:
    """The axis of output channels in the second input of a Conv, Gemm or MatMul; None for other operators."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in KINDS:
        return None
    return 0 if node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1 else 1


def layers(model: ir.Model) -> Iterator[Layer]:
    """All layers of the main graph, in graph order."""
    for node in model.graph:
        found = find_layer(node)
        if isinstance(found, Layer):
            yield found


def refuse_empty(model: ir.Model) -> None:
    """Refuse a layer whose weight has no element: no kernel computes with one.

    Raises:
        UnsupportedError: Naming the first such node.
    """
    for layer in layers(model):
        if not prod(layer.shape):
            sides = "x".join(map(str, layer.shape))
            msg = (
                f"Node '{layer.name}' ({layer.node.op_type}): its weight '{layer.weight.name}' has the shape {sides}, "
                "and so no element; expected at least one. Take the node out of the model."
            )
            raise UnsupportedError(msg)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a layer's name equals one of the patterns, or fits it as a glob (``*``, ``?``, ``[...]``)."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)
