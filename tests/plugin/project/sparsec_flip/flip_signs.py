# SPDX-License-Identifier: Apache-2.0
"""flip-signs: a layer's weight and the result's sign are both negated, which changes no output."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from sparsec.compiler.layers import Layer, layers
from sparsec.compiler.pass_manager import LayerRecord, Pass, PassContext, PassResult


@dataclass(frozen=True)
class FlipSigns(Pass):
    """Negate the first layers.

    Attributes:
        count: How many.
    """

    name: ClassVar[str] = "flip-signs"
    count: int = 1

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """See the module."""
        chosen = list(layers(model))[: self.count]
        for layer in chosen:
            _flip(model.graph, layer)
        records = tuple(LayerRecord(layer.name, "sign flipped") for layer in chosen)
        return PassResult(model, bool(chosen), records)


def _flip(graph: ir.Graph, layer: Layer) -> None:
    layer.weight.const_value = ir.tensor(-layer.tensor.numpy(), name=layer.weight.name)
    result = layer.node.outputs[0]
    negation = ir.node("Neg", [result], name=f"{layer.name}.flip")
    negation.outputs[0].name = f"{result.name}.flipped"
    negation.outputs[0].shape, negation.outputs[0].type = result.shape, result.type
    result.replace_all_uses_with(negation.outputs[0])
    negation.replace_input_with(0, result)
    graph.insert_after(layer.node, negation)
