# SPDX-License-Identifier: Apache-2.0
"""prune-nm: of each m neighbouring inputs of an output channel, keep the n with the highest scores.

2:4 is what sparse matrix units execute (Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021).
"""

from dataclasses import dataclass
from typing import ClassVar

from sparsec.compiler.errors import RecipeError
from sparsec.compiler.layers import Layer
from sparsec.compiler.pattern import NM
from sparsec.passes.column_sweep import MaskRule
from sparsec.passes.pruning import PruneWeights


@dataclass(frozen=True)
class PruneNM(PruneWeights):
    """Convolutions of one group, Gemm and MatMul whose input axis is a multiple of m.

    Attributes:
        n: Inputs kept of each m.
        m: Neighbouring inputs that are looked at together.
        width: Inputs that go or stay together: 1, or 2 for pairs.

    Raises:
        RecipeError: Unless 1 <= n < m.
    """

    name: ClassVar[str] = "prune-nm"
    n: int = 2
    m: int = 4
    width: int = 1

    def __post_init__(self) -> None:
        NM(self.n, self.m, self.width)
        if self.update == "greedy":
            msg = f"Pass '{self.name}': option 'update' is 'greedy', which knows no runs; expected none, sweep, refit."
            raise RecipeError(msg)

    def pattern(self, layer: Layer) -> NM:
        """See the class."""
        return NM(self.n, self.m, self.width)

    def share(self, layer: Layer) -> float:
        """See the class."""
        return self.n / self.m

    def rule(self, layer: Layer) -> MaskRule:
        """Each run is decided when its first column is due."""
        pattern = self.pattern(layer)
        return MaskRule(self.m * self.width, lambda scores, start: pattern.project(scores, self.n / self.m))

    def obstacle(self, layer: Layer) -> str:
        """Why this pattern does not fit a layer; empty if it does."""
        inputs, run = layer.matrix().shape[1], self.m * self.width
        return f"its input axis has {inputs} elements, not a multiple of m={run}" if inputs % run else ""
