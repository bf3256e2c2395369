# SPDX-License-Identifier: Apache-2.0
"""What the passes that prune weights under a pattern share: scores, densities by layer, compensation, records."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from sparsec.compiler.encoding import EncodedTensor, Encoding
from sparsec.compiler.errors import RecipeError
from sparsec.compiler.layers import Layer, layer_name, matches
from sparsec.compiler.pass_manager import LayerRecord, Pass, PassContext, PassResult
from sparsec.compiler.pattern import Array, Block, Mask, Pattern
from sparsec.compiler.statistics import LayerStatistics, collect
from sparsec.passes.bias_correction import correct_biases, has_bias
from sparsec.passes.column_sweep import MaskRule, output_error, refit, sweep
from sparsec.passes.greedy_blocks import greedy_mask
from sparsec.passes.scores import Score, scores
from sparsec.passes.selection import check_names, choose_layers

Update = Literal["none", "sweep", "refit", "greedy"]
LEAST_SAMPLES = 8


@dataclass(frozen=True)
class PruneWeights(Pass):
    """A pass that zeroes weights under a pattern, each layer by itself.

    Attributes:
        score: ``magnitude``, or with calibration data ``wanda``, ``ria``, ``hessian``; see `scores`.
        update: How the surviving weights make up for what is lost: ``none``; ``sweep``, column by column as
            SparseGPT does, which also chooses the mask on the way where the pattern allows; ``refit``, the exact
            least squares on the mask that the sweep or the score has chosen; ``greedy``, units go one after the other,
            each time the one that is missed least once the others have made up for it (see `greedy_blocks`), whatever
            the score, then ``refit``. All need calibration data.
        only: Layers to work on, by name or glob; empty for all.
        ignore: Layers to leave alone, by name or glob.
        min_weights: Smaller layers are left alone.
        correct_bias: Whether an update moves the layer's bias too, so that the mean of its output keeps (see
            `bias_correction`).

    Raises:
        RecipeError: If an option is out of range.
    """

    stage: ClassVar[str] = "prune"
    score: Score = "magnitude"
    update: Update = "none"
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    min_weights: int = 4096
    correct_bias: bool = True

    @abstractmethod
    def pattern(self, layer: Layer) -> Pattern:
        """The pattern of a layer's zeros."""

    @abstractmethod
    def share(self, layer: Layer) -> float:
        """The share of units that a layer keeps."""

    @abstractmethod
    def obstacle(self, layer: Layer) -> str:
        """Why this pattern does not fit a layer; empty if it does."""

    def project(self, layer: Layer, found: Array) -> Mask:
        """The mask that keeps a layer's highest scores ``[out, in]``."""
        return self.pattern(layer).project(found, self.share(layer))

    def rule(self, layer: Layer) -> MaskRule | None:
        """How a sweep chooses the mask on the way; None where the whole layer's scores decide beforehand."""
        return None

    def needs(self) -> tuple[str, ...]:
        """Calibration data for all scores but magnitude, and for updates."""
        return ("calibration", "static-shapes") if self._measures else ()

    def least_samples(self) -> int:
        """See `Pass.least_samples`."""
        return LEAST_SAMPLES if self._measures else 0

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """See the class."""
        layers, skipped = choose_layers(self, model, self.ignore, self.only)
        check_names(self, "densities", tuple(self.by_layer), [layer.name for layer in layers])
        reasons = {layer.name: self._reason(layer) for layer in layers}
        chosen = [layer for layer in layers if not reasons[layer.name]]
        original = model.clone()
        known = self._statistics(model, chosen, context)
        records = []
        for number, layer in enumerate(chosen):
            records.append(LayerRecord(layer.name, self._prune(layer, known.get(layer.name))))
            context.reporter(self.name, number + 1, len(chosen))
        records += [LayerRecord(name, reason, skipped=True) for name, reason in reasons.items() if reason]
        if self.correct_bias and self.update != "none" and context.calibration is not None and chosen:
            names = [layer_name(user) for layer in chosen for user, _ in layer.weight.uses()]
            correct_biases(original, model, names, context.calibration, context.reporter)
        return PassResult(model, bool(chosen), (*records, *skipped))

    @property
    def by_layer(self) -> Mapping[str, float]:
        """Densities of single layers, by name or glob."""
        return {}

    @property
    def _measures(self) -> bool:
        return self.score != "magnitude" or self.update != "none"

    def _statistics(self, model: ir.Model, layers: list[Layer], context: PassContext) -> Mapping[str, LayerStatistics]:
        if not (self._measures and layers):
            return {}
        assert context.calibration is not None
        context.calibration.check(model, LEAST_SAMPLES)
        hessian = self.score == "hessian" or self.update != "none"
        return collect(model, context.calibration, layers, hessian=hessian, reporter=context.reporter)

    def _reason(self, layer: Layer) -> str:
        """Why a layer is left alone; empty if it is pruned."""
        out, inputs = layer.matrix().shape
        if layer.encoded is not None and layer.encoded.encoding.quant is not None:
            return "the weight is already quantized; prune before 'quantize'"
        if layer.groups > 1:
            return "it is a grouped convolution"
        if reason := self.obstacle(layer):
            return reason
        if out * inputs < self.min_weights:
            return f"it has {out * inputs} weights, fewer than min_weights={self.min_weights}"
        return f"it is already {self.pattern(layer)} at this density" if self._done(layer) else ""

    def _done(self, layer: Layer) -> bool:
        encoded, pattern = layer.encoded, self.pattern(layer)
        if encoded is None or encoded.encoding.pattern != pattern:
            return False
        wanted = self.project(layer, np.ones(layer.matrix().shape))
        return units(pattern, encoded.matrix(encoded.mask)) <= units(pattern, wanted)

    @property
    def competition(self) -> str:
        """Where units compete: in the ``layer``, or in each ``row`` of them."""
        return "layer"

    def _chosen(self, layer: Layer, statistics: LayerStatistics | None) -> Mask:
        """The mask by the layer's scores, or unit by unit."""
        if self.update != "greedy" or statistics is None:
            return self.project(layer, scores(self.score, layer.matrix(), statistics))
        pattern = self.pattern(layer)
        block = pattern if isinstance(pattern, Block) else Block(1, 1)
        hessian = self._hessian(layer, statistics)
        return greedy_mask(layer.matrix(), hessian, block, self.share(layer), self.competition)

    def _prune(self, layer: Layer, statistics: LayerStatistics | None) -> str:
        matrix, pattern = layer.matrix(), self.pattern(layer)
        mask = self._chosen(layer, statistics)
        values = np.where(mask, matrix, np.float32(0))
        if statistics is not None and self.update != "none":
            values, mask = self._updated(layer, mask, statistics)
        left = self._left(layer, values, mask, statistics)
        layer.weight.const_value = EncodedTensor(
            layer.weight.name, Encoding(pattern), layer.restore(mask), layer.axis, values=layer.restore(values)
        )
        return f"{pattern} at density {mask.mean():.3f}, {left}"

    def _left(self, layer: Layer, values: Array, mask: Mask, statistics: LayerStatistics | None) -> str:
        """What is left, in words: of the weights' energy, or of the layer's output where its input is known."""
        matrix = layer.matrix().astype(np.float64)
        if statistics is None or statistics.products is None:
            return (
                f"{np.square(matrix[mask]).sum() / max(np.square(matrix).sum(), 1e-30):.1%} of the weights' energy kept"
            )
        hessian = self._hessian(layer, statistics) if self.update != "none" else statistics.hessian
        error, whole = output_error(matrix - values, hessian), output_error(matrix, hessian)
        return f"output error {error / max(whole, 1e-30):.2%} of the output's energy"

    def _hessian(self, layer: Layer, statistics: LayerStatistics) -> Array:
        """Of the layer's output error; centred where the bias follows."""
        return statistics.centred_hessian if self.correct_bias and has_bias(layer) else statistics.hessian

    def _updated(self, layer: Layer, mask: Mask, statistics: LayerStatistics) -> tuple[Array, Mask]:
        matrix, hessian = layer.matrix(), self._hessian(layer, statistics)
        adaptive = self.rule(layer) if self.score == "hessian" and self.update != "greedy" else None
        if adaptive or self.update == "sweep":
            swept = sweep(matrix, hessian, adaptive or MaskRule.settled(mask))
            values, mask = swept.values, swept.mask
        if self.update in ("refit", "greedy"):
            values = refit(matrix, hessian, mask)
        return values.astype(np.float32), mask


@dataclass(frozen=True)
class PruneToDensity(PruneWeights):
    """A pass under a pattern of any density.

    Attributes:
        density: Share of the units kept, in (0, 1].
        scope: Where units compete: in the whole ``layer``, or in each ``row`` of them, as in Wanda.
        densities: Densities of single layers, ``LAYER=NUMBER`` each, a name or glob before the ``=``; the first that
            fits counts.
    """

    density: float = 0.5
    scope: Literal["layer", "row"] = "layer"
    densities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            msg = f"Pass '{self.name}': option 'density' is {self.density:g}, expected more than 0 and at most 1."
            raise RecipeError(msg)
        for text in self.densities:
            if _density_of(text) is None:
                msg = (
                    f"Pass '{self.name}': option 'densities' holds '{text}', expected LAYER=NUMBER with a number of "
                    "more than 0 and at most 1."
                )
                raise RecipeError(msg)

    @property
    def by_layer(self) -> Mapping[str, float]:
        """Densities of single layers, by name or glob."""
        return {text.rpartition("=")[0]: _density_of(text) or 1.0 for text in self.densities}

    @property
    def competition(self) -> str:
        """See the class."""
        return self.scope

    def project(self, layer: Layer, found: Array) -> Mask:
        """The mask that keeps a layer's highest scores ``[out, in]``, within the scope."""
        pattern, share = self.pattern(layer), self.share(layer)
        if self.scope == "layer":
            return pattern.project(found, share)
        rows = pattern.rows if isinstance(pattern, Block) else 1
        return np.vstack([pattern.project(found[at : at + rows], share) for at in range(0, len(found), rows)])

    def share(self, layer: Layer) -> float:
        """See the class."""
        found = (density for name, density in self.by_layer.items() if matches(layer.name, (name,)))
        return next(found, self.density)


def _density_of(text: str) -> float | None:
    name, _, number = text.rpartition("=")
    try:
        density = float(number)
    except ValueError:
        return None
    return density if name and 0 < density <= 1 else None


def units(pattern: Pattern, mask: Mask) -> int:
    """How many units of a pattern a mask stores: blocks, or elements."""
    return int(pattern.blocks(mask).sum() if isinstance(pattern, Block) else mask.sum())
