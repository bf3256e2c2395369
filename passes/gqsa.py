# SPDX-License-Identifier: Apache-2.0
"""gqsa: groups of inputs go, and those that stay share a scale and a zero point, solved together.

In the style of Zeng et al., "GQSA: Group Quantization and Sparsity for Accelerating Large Language Model Inference",
2024: the unit that is pruned is the unit that is quantized, G weights in a row. The groups that matter least go; then
one sweep over the columns rounds what stays and lets later columns make up for the loss of groups and for rounding
alike. The paper's two trainings are `recover{method=reconstruct}` (BQPO) and `recover{method=distill}` (E2E-OQP).
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from sparsec.compiler.encoding import EncodedTensor, Encoding, Quant
from sparsec.compiler.errors import RecipeError
from sparsec.compiler.layers import Layer
from sparsec.compiler.pattern import Array, Block, Dense, Mask, Pattern
from sparsec.compiler.statistics import LayerStatistics
from sparsec.passes.column_sweep import MaskRule, output_error, refit, sweep
from sparsec.passes.pruning import PruneToDensity, Update
from sparsec.passes.scores import Score, scores
from sparsec.passes.weight_grids import GridQuantizer, Grids, Range, encode, fit

FLOAT_BITS = 16
"""So many bits mean no quantization: groups are pruned and stay float32."""
_MOST_GROUP = 4096
_TINY = 1e-30
"""Lifts the scores of what is left over those of what is gone."""


@dataclass(frozen=True)
class Gqsa(PruneToDensity):
    """1x1 convolutions, Gemm and MatMul whose inputs are a multiple of the group.

    Attributes:
        group: Weights in a group, along the inputs.
        bits: Of the weights that stay, 2 to 8 (asymmetric); 16 leaves them in float32.
        weight_range: ``minmax``, ``percentile`` or ``mse``; see `weight_grids`.
        score: Of a group: the sum over its weights; see `scores`.
        rounds: Groups go in so many equal parts; before each, the weights that are left are swept and scored anew.
        update: ``none``: round to the nearest; ``sweep``: column by column; ``refit``: least squares on the mask
            first, then the sweep.
        damping: Share of each input's mean square that is added to it in the Hessian. Groups go all at once, so that an
            input can stand in for its likes less than the Hessian alone makes believe; 0 trusts it.
        scope: ``layer`` lets rows keep unlike numbers of groups; ``row`` keeps as many in each.

    Raises:
        RecipeError: If an option is out of range.
    """

    name: ClassVar[str] = "gqsa"
    stage: ClassVar[str] = "prune-and-quantize"
    score: Score = "hessian"
    update: Update = "sweep"
    group: int = 16
    bits: int = 4
    weight_range: Range = "minmax"
    damping: float = 0.2
    rounds: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (2 <= self.bits <= 8 or self.bits == FLOAT_BITS):
            msg = f"Pass '{self.name}': option 'bits' is {self.bits}, expected 2 to 8, or {FLOAT_BITS} for float32."
            raise RecipeError(msg)
        if not 1 <= self.group <= _MOST_GROUP:
            msg = f"Pass '{self.name}': option 'group' is {self.group}, expected 1 to {_MOST_GROUP}."
            raise RecipeError(msg)
        if self.rounds < 1:
            msg = f"Pass '{self.name}': option 'rounds' is {self.rounds}, expected at least 1."
            raise RecipeError(msg)
        if self.damping < 0:
            msg = f"Pass '{self.name}': option 'damping' is {self.damping:g}, expected at least 0."
            raise RecipeError(msg)

    def pattern(self, layer: Layer) -> Pattern:
        """See `PruneWeights.pattern`."""
        return Block(1, self.group)

    def obstacle(self, layer: Layer) -> str:
        """See `PruneWeights.obstacle`."""
        inputs = layer.matrix().shape[1]
        if layer.taps > 1:
            return "its kernel is larger than 1x1"
        if self.bits == FLOAT_BITS and self.share(layer) == 1:
            return "nothing is asked of it: density 1 in float32"
        fits = inputs % self.group == 0
        return "" if fits else f"the input axis has {inputs} elements, not a multiple of group={self.group}"

    def _reason(self, layer: Layer) -> str:
        if layer.encoded is not None and layer.encoded.encoding.quant is not None:
            return "it is already quantized"
        return super()._reason(layer)

    def _prune(self, layer: Layer, statistics: LayerStatistics | None) -> str:
        matrix, careful = layer.matrix(), _damped(statistics, self.damping)
        mask = self._chosen(layer, careful) if self.update == "greedy" else self._mask(layer, matrix, careful)
        values, grids = self._solve(matrix, mask, careful)
        encoding = self._store(layer, values, grids, mask)
        return self._note(layer, encoding, matrix, mask, statistics)

    def _mask(self, layer: Layer, matrix: Array, statistics: LayerStatistics | None) -> Mask:
        """The groups that stay, chosen in rounds; all at once where nothing makes up for those that go."""
        share = self.share(layer)
        rounds = self.rounds if statistics is not None and self.update != "none" and share < 1 else 1
        mask, values = np.ones(matrix.shape, bool), matrix
        for left in range(rounds - 1, -1, -1):
            part = replace(self, density=share + (1 - share) * left / rounds, densities=())
            mask = part.project(layer, np.where(mask, scores(self.score, values, statistics) + _TINY, 0.0))
            if left:
                assert statistics is not None
                values = sweep(matrix, statistics.hessian, MaskRule.settled(mask)).values
        return mask

    def _solve(self, matrix: Array, mask: Mask, statistics: LayerStatistics | None) -> tuple[Array, Grids | None]:
        """The values on the mask, and their grids; None for float32."""
        quant = None if self.bits == FLOAT_BITS else Quant(self.bits, "group", symmetric=False, group=self.group)
        if statistics is None or self.update == "none":
            kept = np.where(mask, matrix, 0.0)
            return kept, fit(kept, quant, mask, self.weight_range) if quant else None
        hessian = statistics.hessian
        start = refit(matrix, hessian, mask) if self.update in ("refit", "greedy") else matrix
        if quant is None:
            refitted = self.update in ("refit", "greedy")
            swept = start if refitted else sweep(start, hessian, MaskRule.settled(mask)).values
            return swept, None
        quantizer = GridQuantizer(quant, self.weight_range)
        return sweep(start, hessian, MaskRule.settled(mask), quantizer).values, quantizer.grids

    def _store(self, layer: Layer, values: Array, grids: Grids | None, mask: Mask) -> Encoding:
        pattern: Pattern = Dense() if mask.all() else self.pattern(layer)
        if grids is not None:
            return encode(layer, grids, values, pattern, mask)
        encoding, stored = Encoding(pattern), np.where(mask, values, 0.0).astype(np.float32)
        layer.weight.const_value = EncodedTensor(
            layer.weight.name, encoding, layer.restore(mask), layer.axis, values=layer.restore(stored)
        )
        return encoding

    def _note(
        self, layer: Layer, encoding: Encoding, before: Array, mask: Mask, statistics: LayerStatistics | None
    ) -> str:
        assert layer.encoded is not None
        note = (
            f"{encoding} at density {mask.mean():.3f}, {layer.encoded.bits_per_weight:.2f} bits a weight, "
            f"load imbalance {imbalance(mask, self.group):.2f}"
        )
        if statistics is None or statistics.products is None:
            return note
        change, hessian = layer.matrix().astype(np.float64) - before, statistics.hessian
        whole = max(output_error(before.astype(np.float64), hessian), 1e-30)
        return f"{note}, output error {output_error(change, hessian) / whole:.2%} of the output's energy"


def _damped(statistics: LayerStatistics | None, damping: float) -> LayerStatistics | None:
    """The statistics with second moments to be trusted by so much less."""
    if statistics is None or statistics.products is None:
        return statistics
    return replace(statistics, products=statistics.products + np.diag(damping * np.diag(statistics.products)))


def imbalance(mask: Mask, group: int) -> float:
    """The fullest row's number of stored groups over the mean of all rows: how much work split by rows would wait."""
    counts = Block(1, group).blocks(mask).sum(axis=1)
    return float(counts.max() / max(counts.mean(), 1e-30))
