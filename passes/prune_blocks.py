# SPDX-License-Identifier: Apache-2.0
"""prune-blocks: keep the share `density` of a layer's rows x cols weight blocks that have the highest scores."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from sparsec.compiler.encoding import Block, EncodedTensor, Encoding
from sparsec.compiler.errors import RecipeError
from sparsec.compiler.layers import Layer, layer_name
from sparsec.compiler.pass_manager import LayerRecord, Pass, PassContext, PassResult
from sparsec.passes.bias_correction import correct_biases
from sparsec.passes.selection import choose_layers


@dataclass(frozen=True)
class PruneBlocks(Pass):
    """Blocks over the weight as ``[out, in]``, each layer by itself.

    1x1 convolutions, Gemm and MatMul are pruned; larger kernels only with `spatial`, depthwise and grouped
    convolutions never.

    Attributes:
        rows: Output channels in a block.
        cols: Inputs in a block.
        density: Share of the blocks kept, in (0, 1].
        score: ``magnitude``: the sum of absolute values in the block.
        ignore: Layers to leave alone, by name or glob.
        min_weights: Smaller layers are left alone.
        spatial: Whether convolutions with kernels over 1x1 are pruned too.
        correct_bias: Whether the mean error of each layer is taken out of its bias, where there is calibration data
            (see `bias_correction`).

    Raises:
        RecipeError: If an option is out of range.
    """

    name: ClassVar[str] = "prune-blocks"
    stage: ClassVar[str] = "prune"
    rows: int = 4
    cols: int = 4
    density: float = 0.5
    score: Literal["magnitude"] = "magnitude"
    ignore: tuple[str, ...] = ()
    min_weights: int = 4096
    spatial: bool = False
    correct_bias: bool = True

    def __post_init__(self) -> None:
        Block(self.rows, self.cols)
        if not 0 < self.density <= 1:
            msg = f"Pass '{self.name}': option 'density' is {self.density:g}, expected more than 0 and at most 1."
            raise RecipeError(msg)

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """See the module."""
        layers, skipped = choose_layers(self, model, self.ignore)
        reasons = {layer.name: self._obstacle(layer) for layer in layers}
        chosen = [layer for layer in layers if not reasons[layer.name]]
        original = model.clone()
        records = [LayerRecord(layer.name, self._prune(layer)) for layer in chosen]
        records += [LayerRecord(name, reason, skipped=True) for name, reason in reasons.items() if reason]
        if self.correct_bias and context.calibration is not None and chosen:
            context.calibration.check(model)
            names = [layer_name(user) for layer in chosen for user, _ in layer.weight.uses()]
            correct_biases(original, model, names, context.calibration, context.reporter)
        return PassResult(model, bool(chosen), (*records, *skipped))

    def _obstacle(self, layer: Layer) -> str:
        """Why a layer is left alone; empty if it is pruned."""
        out, inputs = layer.matrix().shape
        reasons = {
            "the weight is already quantized; prune before 'quantize'": _quantized(layer),
            "it is a grouped convolution": layer.groups > 1,
            "its kernel is larger than 1x1; set spatial=true to prune it": layer.taps > 1 and not self.spatial,
            f"it has {out * inputs} weights, fewer than min_weights={self.min_weights}": out * inputs
            < self.min_weights,
            f"its {out}x{inputs} weight is smaller than a block": out < self.rows or inputs < self.cols,
            f"it is already {self._pattern} at this density": self._done(layer),
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    @property
    def _pattern(self) -> Block:
        return Block(self.rows, self.cols)

    def _done(self, layer: Layer) -> bool:
        encoded, pattern = layer.encoded, self._pattern
        if encoded is None or encoded.encoding.pattern != pattern:
            return False
        blocks = pattern.blocks(encoded.matrix(encoded.mask))
        return int(blocks.sum()) <= max(1, round(self.density * blocks.size))

    def _prune(self, layer: Layer) -> str:
        matrix = layer.matrix()
        mask = self._pattern.project(np.abs(matrix), self.density)
        values = layer.restore(np.where(mask, matrix, np.float32(0)))
        layer.weight.const_value = EncodedTensor(
            layer.weight.name, Encoding(self._pattern), layer.restore(mask), layer.axis, values=values
        )
        energy = float(np.square(matrix[mask], dtype=np.float64).sum() / max(np.square(matrix).sum(), 1e-30))
        return f"{self._pattern} at density {mask.mean():.3f}, {energy:.1%} of the weights' energy kept"


def _quantized(layer: Layer) -> bool:
    return layer.encoded is not None and layer.encoded.encoding.quant is not None
