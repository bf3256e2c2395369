# SPDX-License-Identifier: Apache-2.0
"""smooth-quant: move outliers of activations into weights, channel by channel, before both are quantized.

s_j = max|x_j|^alpha / max|W_:j|^(1 - alpha), the maximum taken over all layers that read x (Xiao et al., "SmoothQuant:
Accurate and Efficient Post-Training Quantization for Large Language Models", 2023). An exact rewrite, see
`folds.scale_folds`.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsec.compiler.errors import RecipeError
from sparsec.compiler.pass_manager import Pass, PassContext, PassResult
from sparsec.compiler.pattern import Array
from sparsec.compiler.statistics import LayerStatistics
from sparsec.passes.folds.scale_folds import Fold, measured_folds

_LEAST = 1e-5
"""Peaks are taken to be at least this."""


@dataclass(frozen=True)
class SmoothQuant(Pass):
    """Layers whose input's channels can be scaled for free: behind a normalization, or an earlier layer.

    Attributes:
        alpha: 0 leaves all difficulty to the activations, 1 moves it into the weights.
        ignore: Layers to leave alone, by name or glob; so are those that read the same value.
        min_samples: Fewer calibration samples are an error.

    Raises:
        RecipeError: If an option is out of range.
    """

    name: ClassVar[str] = "smooth-quant"
    exact: ClassVar[bool] = True
    stage: ClassVar[str] = "prepare"
    requires: ClassVar[tuple[str, ...]] = ("calibration", "static-shapes")
    alpha: float = 0.5
    ignore: tuple[str, ...] = ()
    min_samples: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            msg = f"Pass '{self.name}': option 'alpha' is {self.alpha:g}, expected 0 to 1."
            raise RecipeError(msg)

    def least_samples(self) -> int:
        """See `Pass.least_samples`."""
        return self.min_samples

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """See the module."""
        folds, records = measured_folds(self, model, context, self.ignore)
        for fold, statistics in folds:
            records += fold.apply(self, model.graph, smooth(fold, statistics, self.alpha))
        return PassResult(model, any(not record.skipped for record in records), tuple(records))


def smooth(fold: Fold, statistics: LayerStatistics, alpha: float) -> Array:
    """The factors of a fold, float64 ``[channels]``; 1 for a channel that is always 0 or that no weight reads."""
    peaks = statistics.peaks.reshape(fold.channels, -1).max(axis=1)
    weights = np.max([np.abs(columns).max(axis=(0, 2)) for columns in fold.columns()], axis=0)
    live = (peaks > 0) & (weights > 0)
    scales = np.maximum(peaks, _LEAST) ** alpha / np.maximum(weights, _LEAST) ** (1 - alpha)
    return np.where(live, scales, 1.0)
