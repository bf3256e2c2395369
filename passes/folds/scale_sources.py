# SPDX-License-Identifier: Apache-2.0
"""Where a value's channels can be divided: the constants found by walking back from it.

The walk passes operators that commute with positive factors per channel, and ends at a layer, a normalization or a
constant product. Each value on the way must have one reader.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from sparsec.compiler.encoding import EncodedTensor
from sparsec.compiler.graph import attribute, constant_of, free_name, shape_of, value_names
from sparsec.compiler.layers import Layer, find_layer, layer_name
from sparsec.compiler.pattern import Array


@dataclass(frozen=True, slots=True)
class Channels:
    """Which axes of a value count its channels.

    Attributes:
        axes: Most significant first; several where heads and their dimensions are apart.
        shape: The value's shape.
    """

    axes: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def along(cls, axis: int, shape: tuple[int, ...]) -> "Channels":
        """One axis holds all channels."""
        return cls((axis,), shape)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides of the axes."""
        return tuple(self.shape[axis] for axis in self.axes)

    def spread(self, factors: Array) -> Array:
        """Factors ``[channels]`` in a shape that broadcasts with the value."""
        order = np.argsort(self.axes)
        sides = [self.shape[axis] if axis in self.axes else 1 for axis in range(len(self.shape))]
        return np.asarray(factors.reshape(self.sizes).transpose(order).reshape(sides))

    def within(self, shape: tuple[int, ...]) -> bool:
        """Whether a value of this shape has the channels at the same axes, without broadcasting."""
        same = len(shape) == len(self.shape)
        return same and all(shape[axis] == self.shape[axis] for axis in self.axes)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A constant that takes the division: input `index` of `node`, which broadcasts against `channels`.

    For a layer, `channels` counts its output channels, and the constant is its weight or bias.
    """

    node: ir.Node
    index: int
    channels: Channels

    @property
    def title(self) -> str:
        """The node's name and operator, for records."""
        return f"'{layer_name(self.node)}' ({self.node.op_type})"

    def divide(self, graph: ir.Graph, factors: Array) -> None:
        """Divide the constant by `factors`, float32 ``[channels]``."""
        value = self.node.inputs[self.index]
        layer = find_layer(self.node) if self.index == 1 else None
        assert value is not None
        if isinstance(layer, Layer):
            self._set(graph, value, layer.restore(layer.matrix() / factors[:, None]), layer.encoded)
            return
        constant = constant_of(value)
        assert constant is not None
        quotient = constant / self.channels.spread(factors)
        while quotient.ndim > max(constant.ndim, 1) and quotient.shape[0] == 1:
            quotient = quotient[0]
        self._set(graph, value, quotient.astype(np.float32), None)

    def _set(self, graph: ir.Graph, value: ir.Value, array: Array, encoded: EncodedTensor | None) -> None:
        """Change the constant in place, or give the node one of its own where others read it too."""
        shared = len(value.uses()) > 1 or value.is_graph_output()
        name = free_name(f"{layer_name(self.node)}.scaled", value_names(graph)) if shared else str(value.name)
        tensor: ir.TensorProtocol = ir.tensor(array, name=name)
        if encoded is not None:
            tensor = EncodedTensor(name, encoded.encoding, encoded.mask, encoded.axis, values=array)
        if not shared:
            value.const_value, value.shape = tensor, ir.Shape(array.shape)
            return
        made = ir.val(name, const_value=tensor)
        graph.register_initializer(made)
        self.node.replace_input_with(self.index, made)


Found = list[Source] | str
"""The constants that take the division, or the reason why none can."""


def trace(value: ir.Value, channels: Channels) -> Found:
    """Walk back from a value to the constants that its channels can be divided through."""
    node = value.producer()
    if node is None:
        return f"its input comes straight from '{value.name}'"
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if rule is None:
        return f"its input comes through '{layer_name(node)}' ({node.op_type}), which scales do not pass"
    return rule(node, channels)


def _through(node: ir.Node, index: int, channels: Channels) -> Found:
    """Go on with one operand, if this node alone reads it."""
    value = node.inputs[index]
    assert value is not None
    if len(value.uses()) > 1 or value.is_graph_output():
        other = next((user for user, _ in value.uses() if user is not node), None)
        what = f"'{layer_name(other)}' ({other.op_type})" if other else "others"
        return f"'{value.name}', which its input is made of, is also read by {what}"
    return trace(value, Channels(channels.axes, shape_of(value)))


def _same(node: ir.Node, channels: Channels) -> Found:
    """f(x / s) = f(x) / s for each element."""
    return _through(node, 0, channels)


def _pool(node: ir.Node, channels: Channels) -> Found:
    """Each channel is pooled by itself."""
    return _through(node, 0, channels) if channels.axes == (1,) else _unclear(node)


def _normalization(node: ir.Node, channels: Channels) -> Found:
    """A gain, and by choice a bias, for each channel."""
    rank = len(channels.shape)
    gain = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if channels.axes != (rank - 1,) or attribute(node, "axis", -1) % rank != rank - 1 or gain is None:
        return _unclear(node)
    if bias is not None and constant_of(bias) is None:
        return _unclear(node)
    return [Source(node, index, channels) for index in (1, 2)[: 1 if bias is None else 2]]


def _layer(node: ir.Node, channels: Channels) -> Found:
    """An earlier layer: its output channels, its bias."""
    layer, rank = find_layer(node), len(channels.shape)
    axis = 1 if node.op_type == "Conv" else rank - 1
    if not isinstance(layer, Layer):
        return _product(node, channels) if node.op_type == "MatMul" else _unclear(node)
    if layer.encoded is not None and layer.encoded.encoding.quant is not None:
        return f"its input comes from '{layer.name}', whose weight is quantized"
    if channels.axes != (axis,) or layer.shape[layer.axis] != channels.shape[axis]:
        return _unclear(node)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and constant_of(bias) is None:
        return _unclear(node)
    sources = [Source(node, 1, channels)]
    placed = Channels.along(0, (channels.shape[axis],)) if node.op_type == "Conv" else channels
    return sources if bias is None else [*sources, Source(node, 2, placed)]


def _product(node: ir.Node, channels: Channels) -> Found:
    """A product of two computed values, as of attention weights and values: its columns are the second's."""
    second = node.inputs[1]
    last = len(channels.shape) - 1
    if last not in channels.axes or second is None or second.const_value is not None:
        return _unclear(node)
    if not channels.within(shape_of(second)) or last - 1 in channels.axes:
        return _unclear(node)
    return _through(node, 1, channels)


def _sum(node: ir.Node, channels: Channels) -> Found:
    """A constant summand is divided too."""
    index = _constant_operand(node)
    if index is None or not _fits_through(node, 1 - index, channels):
        return _unclear(node)
    found = _through(node, 1 - index, channels)
    return found if isinstance(found, str) else [*found, Source(node, index, channels)]


def _multiplication(node: ir.Node, channels: Channels) -> Found:
    """A constant gain takes the division; a number is passed by; of two computed factors one takes it."""
    index = _constant_operand(node)
    if index is None:
        return _either(node, channels)
    if not _fits_through(node, 1 - index, channels):
        return _unclear(node)
    gain = constant_of(node.inputs[index])
    assert gain is not None
    return _through(node, 1 - index, channels) if gain.size == 1 else [Source(node, index, channels)]


def _either(node: ir.Node, channels: Channels) -> Found:
    """The first factor that can be divided, tried from the last on, where gated layers have the linear one."""
    found: Found = _unclear(node)
    for index in (1, 0):
        if _fits_through(node, index, channels):
            found = _through(node, index, channels)
            if not isinstance(found, str):
                return found
    return found


def _division(node: ir.Node, channels: Channels) -> Found:
    """By a constant."""
    divisor = constant_of(node.inputs[1])
    if divisor is None or not _fits_through(node, 0, channels):
        return _unclear(node)
    return _through(node, 0, channels)


def _transpose(node: ir.Node, channels: Channels) -> Found:
    rank = len(channels.shape)
    order = attribute(node, "perm", None) or tuple(reversed(range(rank)))
    return _through(node, 0, Channels(tuple(order[axis] for axis in channels.axes), channels.shape))


def _reshape(node: ir.Node, channels: Channels) -> Found:
    """Channels that lie side by side stay so; the axes before and after hold as many elements as before."""
    assert node.inputs[0] is not None
    first, last = channels.axes[0], channels.axes[-1]
    before = shape_of(node.inputs[0])
    if channels.axes != tuple(range(first, last + 1)):
        return _unclear(node)
    ahead, wanted = prod(channels.shape[:first]), prod(channels.sizes)
    runs = [
        (end - start, start, end)
        for start in range(len(before))
        for end in range(start + 1, len(before) + 1)
        if prod(before[:start]) == ahead and prod(before[start:end]) == wanted
    ]
    if not runs:
        return _unclear(node)
    _, start, end = min(runs)
    return _through(node, 0, Channels(tuple(range(start, end)), before))


def _constant_operand(node: ir.Node) -> int | None:
    """Which of two operands is a constant."""
    return next((index for index in (0, 1) if constant_of(node.inputs[index]) is not None), None)


def _fits_through(node: ir.Node, index: int, channels: Channels) -> bool:
    """Whether an operand has the result's channels, so that the other one only broadcasts along."""
    value = node.inputs[index]
    return value is not None and constant_of(value) is None and channels.within(shape_of(value))


def _unclear(node: ir.Node) -> str:
    return f"its input comes through '{layer_name(node)}' ({node.op_type}), whose channels scales cannot follow"


_RULES: Mapping[str, Callable[[ir.Node, Channels], Found]] = {
    **dict.fromkeys(("Identity", "LeakyRelu", "Relu"), _same),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "MaxPool"), _pool),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _normalization),
    **dict.fromkeys(("Conv", "Gemm", "MatMul"), _layer),
    **dict.fromkeys(("Add", "Sub"), _sum),
    "Div": _division,
    "Mul": _multiplication,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
    "Transpose": _transpose,
}
"""Operators that scales pass, or end at."""
