# SPDX-License-Identifier: Apache-2.0
"""awq: scale up the weights that meet large activations, so that rounding to few bits hurts them less.

s_j = mean|x_j|^rho, normalized by the root of its greatest times its least, rho the best of 0, 1/20, ..., 19/20 by the
squared error of the layers' outputs when W diag(s) is rounded to groups (Lin et al., "AWQ: Activation-aware Weight
Quantization for LLM Compression and Acceleration", 2024). The error is computed from second moments of the input, as a
share of each layer's output, and summed over the layers that read it, where the paper runs the block around them. An
exact rewrite (`folds.scale_folds`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsec.compiler.encoding import Quant
from sparsec.compiler.errors import RecipeError
from sparsec.compiler.pass_manager import LayerRecord, Pass, PassContext, PassResult
from sparsec.compiler.pattern import Array
from sparsec.compiler.statistics import LayerStatistics
from sparsec.passes.column_sweep import output_error
from sparsec.passes.folds.scale_folds import Fold, measured_folds
from sparsec.passes.weight_grids import fit

_STEPS = 20
_ROWS = 128
"""So many output channels of each layer, evenly spaced, are tried; each counts for itself in the error."""
_LEAST = 1e-4
"""Factors are at least this before they are normalized."""


@dataclass(frozen=True)
class Awq(Pass):
    """Layers whose input's channels can be scaled for free: behind a normalization, or an earlier layer.

    Attributes:
        bits: Of the weights that `quantize` will make.
        group: Inputs that will share a scale; 0 for one scale an output channel.
        symmetric: Whether 0 will lie in the middle of the codes.
        ignore: Layers to leave alone, by name or glob; so are those that read the same value.
        min_samples: Fewer calibration samples are an error.

    Raises:
        RecipeError: If an option is out of range.
    """

    name: ClassVar[str] = "awq"
    exact: ClassVar[bool] = True
    stage: ClassVar[str] = "prepare"
    requires: ClassVar[tuple[str, ...]] = ("calibration", "static-shapes")
    bits: int = 4
    group: int = 64
    symmetric: bool = False
    ignore: tuple[str, ...] = ()
    min_samples: int = 8

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            msg = f"Pass '{self.name}': option 'bits' is {self.bits}, expected 2 to 8."
            raise RecipeError(msg)
        if self.group < 0 or not (self.group or self.symmetric):
            msg = (
                f"Pass '{self.name}': option 'group' is {self.group}, expected at least 1 "
                "(or 0, one scale an output channel, with symmetric=true)."
            )
            raise RecipeError(msg)

    def least_samples(self) -> int:
        """See `Pass.least_samples`."""
        return self.min_samples

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """See the module."""
        folds, records = measured_folds(self, model, context, self.ignore, hessian=True)
        for number, (fold, statistics) in enumerate(folds):
            records += self._fold(model.graph, fold, statistics)
            context.reporter(self.name, number + 1, len(folds))
        return PassResult(model, any(not record.skipped for record in records), tuple(records))

    def _fold(self, graph: ir.Graph, fold: Fold, statistics: LayerStatistics) -> list[LayerRecord]:
        quant = Quant(self.bits, "group" if self.group else "channel", self.symmetric, self.group)
        errors = [(self._error(fold, scales, statistics, quant), scales) for scales in candidates(fold, statistics)]
        least, best = min(errors, key=lambda pair: pair[0])
        gain = f"; rounding error {least / max(errors[0][0], 1e-30):.0%} of what it was"
        records = fold.apply(self, graph, best)
        return [
            LayerRecord(record.layer, record.note + ("" if record.skipped else gain), record.skipped)
            for record in records
        ]

    def _error(self, fold: Fold, scales: Array, statistics: LayerStatistics, quant: Quant) -> float:
        """Squared error of the readers' outputs, a share of each, if weights are scaled, rounded, and scaled back."""
        total = 0.0
        for layer in fold.readers:
            wide, matrix = scales.repeat(layer.taps), _some_rows(layer.matrix()).astype(np.float64)
            rounded = fit(matrix * wide, quant).rounded(matrix * wide) / wide
            whole = output_error(matrix, statistics.hessian)
            total += output_error(rounded - matrix, statistics.hessian) / max(whole, 1e-30)
        return total


def _some_rows(matrix: Array) -> Array:
    chosen = np.linspace(0, len(matrix) - 1, min(_ROWS, len(matrix))).astype(int)
    return np.asarray(matrix[chosen])


def candidates(fold: Fold, statistics: LayerStatistics) -> Iterator[Array]:
    """The factors tried, float64 ``[channels]``, all 1 first; 1 for a channel that is always 0."""
    means = statistics.absolutes.reshape(fold.channels, -1).mean(axis=1) / max(1, statistics.rows)
    live = means > 0
    for step in range(_STEPS):
        scales = np.maximum(np.where(live, means, 1.0) ** (step / _STEPS), _LEAST)
        root = np.sqrt(scales[live].max() * scales[live].min()) if live.any() else 1.0
        yield np.where(live, scales / root, 1.0)
