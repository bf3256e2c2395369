# SPDX-License-Identifier: Apache-2.0
"""quantize: weights as integers, per output channel or per group of inputs, and by choice 7-bit activations.

A layer's weight becomes an `EncodedTensor`. Its grids are found by `weight_grids`; its codes by rounding each weight
to the nearest (``rtn``), or by GPTQ (Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", 2022), where later columns make up for the error of earlier ones. Each value that a layer
reads gets one pair of QuantizeLinear and DequantizeLinear (see `quantize_activations`), unless ``act=none``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir

from sparsec.compiler.calibration import observe
from sparsec.compiler.encoding import EncodedTensor, Quant, classify
from sparsec.compiler.errors import RecipeError
from sparsec.compiler.graph import source_of
from sparsec.compiler.layers import Layer, layer_name
from sparsec.compiler.pass_manager import LayerRecord, Pass, PassContext, PassResult
from sparsec.compiler.pattern import Mask, Pattern
from sparsec.compiler.statistics import LayerStatistics, collect
from sparsec.passes.bias_correction import correct_biases
from sparsec.passes.column_sweep import MaskRule, output_error, sweep
from sparsec.passes.quantize_activations import quantize_value
from sparsec.passes.ranges import CHOICES
from sparsec.passes.selection import choose_layers
from sparsec.passes.weight_grids import GridQuantizer, Range, encode, fit

_LEAST_OPSET = 13
_MOST_GROUP = 4096


@dataclass(frozen=True)
class Quantize(Pass):
    """Conv (depthwise too), Gemm and MatMul with a constant weight; everything between them stays float32.

    Attributes:
        bits: Of weights, 2 to 8.
        group: Inputs that share a scale; 0 for one scale an output channel. A last, shorter group is one too.
        symmetric: Whether 0 lies in the middle of the codes; groups may be asymmetric.
        method: ``rtn``, or ``gptq``, which needs calibration data; grouped convolutions are always rounded.
        weight_range: ``minmax``, ``percentile`` (all but one weight in a thousand at either end) or ``mse``.
        act: ``uint7`` quantizes what the layers read; ``none`` leaves it in float32.
        range: How an activation's range follows from calibration: ``minmax``, ``percentile`` (all but one in ten
            thousand at either end) or ``mse`` (least squared error).
        only: Layers to work on, by name or glob; empty for all.
        ignore: Layers to leave in float32, by name or glob.
        min_samples: Fewer calibration samples are an error.
        correct_bias: Whether the mean error of each layer is taken out of its bias, where there is calibration data
            (see `bias_correction`).

    Raises:
        RecipeError: If an option is out of range.
    """

    name: ClassVar[str] = "quantize"
    stage: ClassVar[str] = "quantize"
    bits: int = 8
    group: int = 0
    symmetric: bool = True
    method: Literal["rtn", "gptq"] = "rtn"
    weight_range: Range = "minmax"
    act: Literal["uint7", "none"] = "uint7"
    range: Literal["minmax", "percentile", "mse"] = "minmax"
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    min_samples: int = 8
    correct_bias: bool = True

    def __post_init__(self) -> None:
        wrong = {
            f"option 'bits' is {self.bits}, expected 2 to 8": not 2 <= self.bits <= 8,
            f"option 'group' is {self.group}, expected 0 (a scale an output channel) to {_MOST_GROUP}": (
                not 0 <= self.group <= _MOST_GROUP
            ),
            "option 'symmetric' is false, expected true unless 'group' is given": not (self.symmetric or self.group),
        }
        for message, holds in wrong.items():
            if holds:
                raise RecipeError(f"Pass '{self.name}': {message}.")  # noqa: EM102

    def needs(self) -> tuple[str, ...]:
        """Calibration data for activations and for GPTQ."""
        measures = self.act != "none" or self.method == "gptq"
        return ("calibration", "static-shapes") if measures else ()

    def least_samples(self) -> int:
        """See `Pass.least_samples`."""
        return self.min_samples if self.needs() else 0

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """See the module."""
        found, skipped = choose_layers(self, model, self.ignore, self.only)
        reasons = {layer.name: self._reason(layer) for layer in found}
        layers = [layer for layer in found if not reasons[layer.name]]
        records = [LayerRecord(name, reason, True) for name, reason in reasons.items() if reason]
        if layers:
            self._check(model, layers[0], context)
            original = model.clone()
            known = self._statistics(model, layers, context)
            if self.act != "none":
                self._quantize_activations(model, layers, context)
            records += [self._encode(layer, known.get(layer.name)) for layer in layers]
            if self.correct_bias and context.calibration is not None:
                names = [layer_name(node) for node in _readers(layers)]
                correct_biases(original, model, names, context.calibration, context.reporter)
        return PassResult(model, bool(layers), (*records, *skipped))

    def _reason(self, layer: Layer) -> str:
        """Why a layer is left alone; empty if it is quantized."""
        inputs = layer.matrix().shape[1]
        if layer.encoded is not None and layer.encoded.encoding.quant is not None:
            return "it is already quantized"
        return f"it has {inputs} inputs, fewer than a group of {self.group}" if inputs < self.group else ""

    def _check(self, model: ir.Model, first: Layer, context: PassContext) -> None:
        opset = model.graph.opset_imports.get("", 0)
        if opset < _LEAST_OPSET:
            raise self.failure(first.name, f"the model has opset {opset}, expected {_LEAST_OPSET} or newer.")
        if context.calibration is not None:
            context.calibration.check(model, self.min_samples if self.needs() else 1)
            context.calibration.check_varied()

    def _statistics(
        self, model: ir.Model, layers: Sequence[Layer], context: PassContext
    ) -> Mapping[str, LayerStatistics]:
        if self.method == "rtn":
            return {}
        assert context.calibration is not None
        whole = [layer for layer in layers if layer.groups == 1]
        return collect(model, context.calibration, whole, hessian=True, reporter=context.reporter)

    def _quantize_activations(self, model: ir.Model, layers: Sequence[Layer], context: PassContext) -> None:
        assert context.calibration is not None
        values = {str(value.name): value for value in _operands(layers)}
        histogram = self.range != "minmax"
        seen = observe(model, context.calibration, list(values), histogram=histogram, reporter=context.reporter)
        for name, value in values.items():
            quantize_value(model.graph, value, CHOICES[self.range](seen[name]))

    def _encode(self, layer: Layer, statistics: LayerStatistics | None) -> LayerRecord:
        """Quantize a layer's weight in place; says what it became."""
        quant = Quant(self.bits, "group" if self.group else "channel", self.symmetric, self.group)
        pattern, mask = _structure(layer)
        before = layer.matrix()
        if statistics is None:
            encoding = encode(layer, fit(before, quant, mask, self.weight_range), before, pattern, mask)
            return LayerRecord(layer.name, str(encoding) + self._cost(layer))
        quantizer = GridQuantizer(quant, self.weight_range)
        swept = sweep(before, statistics.hessian, MaskRule.settled(mask), quantizer)
        encoding = encode(layer, quantizer.grids, swept.values, pattern, mask)
        error, whole = (output_error(array, statistics.hessian) for array in (layer.matrix() - before, before))
        return LayerRecord(
            layer.name, f"{encoding}{self._cost(layer)}, output error {error / max(whole, 1e-30):.3%} of its energy"
        )

    def _cost(self, layer: Layer) -> str:
        tensor = layer.tensor
        grouped = self.group > 0 and isinstance(tensor, EncodedTensor)
        return f", {tensor.bits_per_weight:.2f} bits a weight" if grouped else ""


def _structure(layer: Layer) -> tuple[Pattern, Mask]:
    """The pattern and mask ``[out, in]`` of the zeros that a weight already has."""
    if layer.encoded is not None:
        return layer.encoded.encoding.pattern, layer.encoded.matrix(layer.mask)
    pattern = classify(layer.matrix())[0]
    return pattern, pattern.cover(layer.matrix() != 0)


def _readers(layers: Sequence[Layer]) -> list[ir.Node]:
    """The layers' nodes, with those that share their weights."""
    return [user for layer in layers for user, _ in layer.weight.uses()]


def _operands(layers: Sequence[Layer]) -> list[ir.Value]:
    """What the layers read, each value once, without those that are dequantized codes already."""
    values = dict.fromkeys(node.inputs[0] for node in _readers(layers))
    return [v for v in values if v is not None and source_of(v, "DequantizeLinear") is None]
