# SPDX-License-Identifier: Apache-2.0
"""Write a network down as ONNX: one call a layer, each under the name that its weights carry."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import ShapeInferencePass

OPSET = 18


class GraphBuilder:
    """Collects the nodes of one graph; every method that adds a node returns the node's output.

    A layer's name is the prefix of its weights' names: layer ``head.fc`` reads ``head.fc.weight``, ``head.fc.bias``.

    Args:
        name: The graph's name.
        weights: float32 arrays by name.
    """

    def __init__(self, name: str, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self._graph = ir.Graph([], [], nodes=[], name=name, opset_imports={"": OPSET})
        self._weights = weights

    def input(self, name: str, shape: Sequence[int | str], dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        """Add an input of the graph."""
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self._graph.inputs.append(value)
        return value

    def constant(self, name: str, array: NDArray[Any] | np.generic) -> ir.Value:
        """The initializer `name` with the values of `array`, added at its first use."""
        if name not in self._graph.initializers:
            tensor = ir.tensor(np.asarray(array, order="C"), name=name)
            shape, kind = ir.Shape(array.shape), ir.TensorType(tensor.dtype)
            self._graph.register_initializer(ir.Value(name=name, shape=shape, type=kind, const_value=tensor))
        return self._graph.initializers[name]

    def array(self, name: str) -> NDArray[np.float32]:
        """The trained values `name`, without adding them to the graph."""
        return self._weights[name]

    def weight(self, name: str) -> ir.Value:
        """The trained tensor `name` as an initializer."""
        return self.constant(name, self._weights[name])

    def node(self, op: str, name: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        """Add a node with one output, which is called `name` as the node is."""
        node = ir.node(op, inputs, attributes=attributes, name=name)
        node.outputs[0].name = name
        self._graph.append(node)
        return node.outputs[0]

    def conv(
        self, name: str, x: ir.Value, *, stride: int = 1, pads: Sequence[int] = (0, 0, 0, 0), group: int = 1
    ) -> ir.Value:
        """A 2-D convolution with the tensors ``name.weight`` and, where there is one, ``name.bias``.

        Args:
            name: Name of the layer.
            x: Activations ``[1, C, H, W]``.
            stride: In both directions.
            pads: Top, left, bottom, right, in pixels.
            group: Number of groups.
        """
        inputs = [x, self.weight(f"{name}.weight")]
        if f"{name}.bias" in self._weights:
            inputs.append(self.weight(f"{name}.bias"))
        kernel = list(self._weights[f"{name}.weight"].shape[2:])
        return self.node("Conv", name, inputs, kernel_shape=kernel, strides=[stride] * 2, pads=list(pads), group=group)

    def depthwise(self, name: str, x: ir.Value, *, stride: int = 1, pads: Sequence[int]) -> ir.Value:
        """A convolution that filters each channel by itself; see `conv`."""
        return self.conv(name, x, stride=stride, pads=pads, group=len(self._weights[f"{name}.weight"]))

    def batch_norm(self, name: str, x: ir.Value, epsilon: float) -> ir.Value:
        """Batch normalization over axis 1 with the running statistics."""
        tensors = (self.weight(f"{name}.{part}") for part in ("weight", "bias", "running_mean", "running_var"))
        return self.node("BatchNormalization", name, [x, *tensors], epsilon=epsilon)

    def linear(self, name: str, x: ir.Value) -> ir.Value:
        """A fully connected layer: ``x @ name.weight.T + name.bias`` for ``x`` of shape ``[rows, in]``."""
        return self.node("Gemm", name, [x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")], transB=1)

    def matmul_add(self, name: str, x: ir.Value) -> ir.Value:
        """A fully connected layer for `x` of shape ``[..., in]``; the graph holds its weight transposed, [in, out]."""
        return self.node("Add", f"{name}.add", [self.matmul(name, x), self.weight(f"{name}.bias")])

    def matmul(self, name: str, x: ir.Value) -> ir.Value:
        """`matmul_add` for a layer without a bias."""
        return self.node("MatMul", name, [x, self.constant(f"{name}.weight", self._weights[f"{name}.weight"].T)])

    def relu6(self, name: str, x: ir.Value) -> ir.Value:
        """Clip to [0, 6]."""
        bounds = [self.constant(bound, np.float32(value)) for bound, value in (("zero", 0), ("six", 6))]
        return self.node("Clip", name, [x, *bounds])

    def model(self, **outputs: ir.Value) -> ir.Model:
        """The finished model, its outputs renamed, all shapes inferred."""
        for name, value in outputs.items():
            value.name = name
            self._graph.outputs.append(value)
        model = ir.Model(self._graph, ir_version=10, producer_name="sparsec.models")
        return ShapeInferencePass()(model).model
