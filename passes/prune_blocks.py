# SPDX-License-Identifier: Apache-2.0
"""prune-blocks: keep the share `density` of a layer's rows x cols weight blocks that have the highest scores."""

from dataclasses import dataclass
from typing import ClassVar

from sparsec.compiler.layers import Layer
from sparsec.compiler.pattern import Block
from sparsec.passes.pruning import PruneToDensity


@dataclass(frozen=True)
class PruneBlocks(PruneToDensity):
    """Blocks over the weight as ``[out, in]``, each layer by itself.

    1x1 convolutions, Gemm and MatMul are pruned; larger kernels only with `spatial`, depthwise and grouped
    convolutions never.

    Attributes:
        rows: Output channels in a block.
        cols: Inputs in a block.
        spatial: Whether convolutions with kernels over 1x1 are pruned too.

    Raises:
        RecipeError: If an option is out of range.
    """

    name: ClassVar[str] = "prune-blocks"
    rows: int = 4
    cols: int = 4
    spatial: bool = False

    def __post_init__(self) -> None:
        Block(self.rows, self.cols)
        super().__post_init__()

    def pattern(self, layer: Layer) -> Block:
        """See the class."""
        return Block(self.rows, self.cols)

    def obstacle(self, layer: Layer) -> str:
        """Why this pattern does not fit a layer; empty if it does."""
        out, inputs = layer.matrix().shape
        if layer.taps > 1 and not self.spatial:
            return "its kernel is larger than 1x1; set spatial=true to prune it"
        small = out < self.rows or inputs < self.cols
        return f"its {out}x{inputs} weight is smaller than a block" if small else ""
