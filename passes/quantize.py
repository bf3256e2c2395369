# SPDX-License-Identifier: Apache-2.0
"""quantize: int8 weights per output channel and 7-bit activations, both fixed at compile time.

A layer's weight becomes an `EncodedTensor` with int8 codes. Each value that a layer reads gets one pair of
QuantizeLinear and DequantizeLinear, which all its readers share, with codes 0..127 in uint8; a Clip before the
pair keeps ONNX's own 8-bit rounding inside these codes, unless a Clip that is already there does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from sparsec.compiler.calibration import observe
from sparsec.compiler.encoding import EncodedTensor, Encoding, Quant, classify
from sparsec.compiler.errors import RecipeError
from sparsec.compiler.graph import scalar_of, source_of
from sparsec.compiler.layers import Layer, layer_name
from sparsec.compiler.pass_manager import LayerRecord, Pass, PassContext, PassResult
from sparsec.compiler.pattern import Array
from sparsec.passes.bias_correction import correct_biases
from sparsec.passes.ranges import CHOICES, Grid
from sparsec.passes.selection import choose_layers

_LEAST_OPSET = 13
_ROOMY = 1.25
"""A Clip that is already there sets the range if it is at most this much wider than what calibration saw."""


@dataclass(frozen=True)
class Quantize(Pass):
    """Conv (depthwise too), Gemm and MatMul with a constant weight; everything between them stays float32.

    Attributes:
        bits: 8, of weights.
        range: How an activation's range follows from calibration: ``minmax``, ``percentile`` (all but one in ten
            thousand at either end) or ``mse`` (least squared error).
        ignore: Layers to leave in float32, by name or glob.
        min_samples: Fewer calibration samples are an error.
        correct_bias: Whether the mean error of each layer is taken out of its bias (see `bias_correction`).

    Raises:
        RecipeError: If an option is out of range.
    """

    name: ClassVar[str] = "quantize"
    stage: ClassVar[str] = "quantize"
    requires: ClassVar[tuple[str, ...]] = ("calibration", "static-shapes")
    bits: int = 8
    range: Literal["minmax", "percentile", "mse"] = "minmax"
    ignore: tuple[str, ...] = ()
    min_samples: int = 8
    correct_bias: bool = True

    def __post_init__(self) -> None:
        if self.bits != 8:
            msg = f"Pass '{self.name}': option 'bits' is {self.bits}, expected 8."
            raise RecipeError(msg)

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """See the module."""
        chosen, skipped = choose_layers(self, model, self.ignore)
        layers = [layer for layer in chosen if not _quantized(layer)]
        records = [LayerRecord(layer.name, "it is already quantized", True) for layer in chosen if _quantized(layer)]
        if layers:
            self._check(model, layers[0], context)
            original = model.clone()
            self._quantize_activations(model, layers, context)
            records += [LayerRecord(layer.name, _encode(layer)) for layer in layers]
            if self.correct_bias and context.calibration is not None:
                names = [layer_name(node) for node in _readers(layers)]
                correct_biases(original, model, names, context.calibration, context.reporter)
        return PassResult(model, bool(layers), (*records, *skipped))

    def _check(self, model: ir.Model, first: Layer, context: PassContext) -> None:
        opset = model.graph.opset_imports.get("", 0)
        if opset < _LEAST_OPSET:
            raise self.failure(first.name, f"the model has opset {opset}, expected {_LEAST_OPSET} or newer.")
        assert context.calibration is not None
        context.calibration.check(model, self.min_samples)

    def _quantize_activations(self, model: ir.Model, layers: Sequence[Layer], context: PassContext) -> None:
        assert context.calibration is not None
        values = {str(value.name): value for value in _operands(layers)}
        histogram = self.range != "minmax"
        seen = observe(model, context.calibration, list(values), histogram=histogram, reporter=context.reporter)
        for name, value in values.items():
            quantize_value(model.graph, value, CHOICES[self.range](seen[name]))


def _quantized(layer: Layer) -> bool:
    return layer.encoded is not None and layer.encoded.encoding.quant is not None


def _readers(layers: Sequence[Layer]) -> list[ir.Node]:
    """The layers' nodes, with those that share their weights."""
    return [user for layer in layers for user, _ in layer.weight.uses()]


def _operands(layers: Sequence[Layer]) -> list[ir.Value]:
    """What the layers read, each value once, without those that are dequantized codes already."""
    values = dict.fromkeys(node.inputs[0] for node in _readers(layers))
    return [v for v in values if v is not None and source_of(v, "DequantizeLinear") is None]


def quantize_value(graph: ir.Graph, value: ir.Value, ends: tuple[float, float]) -> None:
    """Put a value onto a grid of 7-bit codes: all that read it now read the dequantized codes.

    Graph outputs stay as they are.

    Args:
        graph: The graph that owns the value.
        value: A float32 value.
        ends: Least and greatest number that the codes have to reach.
    """
    grid, clips = _grid(value, ends)
    maker = _Maker(graph, value)
    readers = list(value.uses())
    scale, zero = maker.scalar("scale", grid.scale), maker.scalar("zero_point", np.uint8(grid.zero_point))
    source = value
    if clips:
        source = maker.node("Clip", [value, maker.scalar("low", grid.low), maker.scalar("high", grid.high)], "clip")
    codes = maker.node("QuantizeLinear", [source, scale, zero], "codes")
    result = maker.node("DequantizeLinear", [codes, scale, zero], "dequantized")
    for node, index in readers:
        node.replace_input_with(index, result)
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], maker.nodes)
    else:
        graph.insert_after(producer, maker.nodes)


def _grid(value: ir.Value, ends: tuple[float, float]) -> tuple[Grid, bool]:
    """The grid, and whether a Clip is needed: not after one whose bounds are close to the range seen."""
    clip = source_of(value, "Clip")
    bounds = [scalar_of(bound) for bound in clip.inputs[1:3]] if clip else []
    low, high = bounds if len(bounds) == 2 else (None, None)
    if low is not None and high is not None and high > low:
        grid = Grid.over(low, high)
        if grid.holds(low, high) and high - low <= _ROOMY * (max(ends[1], 0.0) - min(ends[0], 0.0)):
            return grid, False
    return Grid.over(*ends), True


@dataclass(slots=True)
class _Maker:
    """Makes the nodes and constants around one value, named after it."""

    graph: ir.Graph
    value: ir.Value
    nodes: list[ir.Node] = field(default_factory=list)

    def scalar(self, role: str, number: np.generic) -> ir.Value:
        name = f"{self.value.name}.{role}"
        while name in self.graph.initializers:
            name += "_"
        made = ir.val(name, const_value=ir.tensor(np.asarray(number), name=name))
        self.graph.register_initializer(made)
        return made

    def node(self, op_type: str, inputs: Sequence[ir.Value], role: str) -> ir.Value:
        node = ir.node(op_type, inputs, name=f"{self.value.name}.{_VERBS[op_type]}")
        output = node.outputs[0]
        output.name, output.shape = f"{self.value.name}.{role}", self.value.shape
        output.type = ir.TensorType(ir.DataType.UINT8 if role == "codes" else ir.DataType.FLOAT)
        self.nodes.append(node)
        return output


_VERBS = {"Clip": "clip", "QuantizeLinear": "quantize", "DequantizeLinear": "dequantize"}


def _encode(layer: Layer) -> str:
    """Quantize a layer's weight in place; says what it became."""
    pattern = layer.encoded.encoding.pattern if layer.encoded else classify(layer.matrix())[0]
    mask = layer.encoded.mask if layer.encoded else layer.restore(pattern.cover(layer.matrix() != 0))
    codes, scales = quantize_channels(layer.matrix())
    encoding = Encoding(pattern, Quant(8, "channel"))
    layer.weight.const_value = EncodedTensor(
        layer.weight.name, encoding, mask, layer.axis, codes=layer.restore(codes), scales=scales
    )
    return str(encoding)


def quantize_channels(matrix: Array) -> tuple[Array, Array]:
    """Symmetric int8, one scale a row, round half to even.

    Args:
        matrix: float32 ``[out, in]``.

    Returns:
        Codes int8 ``[out, in]`` in -127..127, and scales float32 ``[out]``, 1 for a row of zeros.
    """
    peaks = np.abs(matrix).max(axis=1).astype(np.float32)
    scales = np.maximum(peaks / np.float32(127), np.finfo(np.float32).tiny)
    scales = np.where(peaks > 0, scales, np.float32(1)).astype(np.float32)
    return np.clip(np.rint(matrix / scales[:, None]), -127, 127).astype(np.int8), scales
