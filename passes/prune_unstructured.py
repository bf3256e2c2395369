# SPDX-License-Identifier: Apache-2.0
"""prune-unstructured: keep the share `density` of a layer's weights that have the highest scores, wherever they are."""

from dataclasses import dataclass
from typing import ClassVar

from sparsec.compiler.layers import Layer
from sparsec.compiler.pattern import Unstructured
from sparsec.passes.column_sweep import MaskRule
from sparsec.passes.pruning import PruneToDensity

_DECIDED_TOGETHER = 128


@dataclass(frozen=True)
class PruneUnstructured(PruneToDensity):
    """Convolutions of one group, Gemm and MatMul; with `score` ``hessian`` and an update this is SparseGPT.

    Raises:
        RecipeError: If an option is out of range.
    """

    name: ClassVar[str] = "prune-unstructured"

    def pattern(self, layer: Layer) -> Unstructured:
        """See the class."""
        return Unstructured()

    def rule(self, layer: Layer) -> MaskRule:
        """128 columns are decided together, as SparseGPT does."""
        return MaskRule(_DECIDED_TOGETHER, lambda scores, start: self.project(layer, scores))

    def obstacle(self, layer: Layer) -> str:
        """Any layer fits."""
        return ""
