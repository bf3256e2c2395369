# SPDX-License-Identifier: Apache-2.0
"""Scale folds: exact rewrites that move a factor per channel from what layers read into their weights.

Layers compute W x. For any s > 0 that is (W diag(s)) (x / s), and the division disappears into whatever made x: the
gain and bias of a normalization, the output channels of an earlier layer, or a constant product. Found by walking back
from x through operators that commute with positive factors per channel. SmoothQuant and AWQ differ only in s.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.compiler.encoding import EncodedTensor
from sparsec.compiler.graph import attribute, shape_of
from sparsec.compiler.layers import Layer, layer_name
from sparsec.compiler.pass_manager import LayerRecord, Pass, PassContext
from sparsec.compiler.pattern import Array
from sparsec.compiler.statistics import LayerStatistics, collect
from sparsec.passes.folds.scale_sources import Channels, Source, trace
from sparsec.passes.selection import choose_layers

METADATA = "sparsec.scaled"
"""Key of a layer's metadata: the pass that has scaled its inputs."""
_ALIKE = 1e-3
"""Factors that differ from 1 by less are not worth a rewrite."""


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """A value whose channels can be scaled for free.

    Attributes:
        value: What the layers read.
        readers: All that read it, layers with one group.
        sources: The constants that take the division.
    """

    value: ir.Value
    readers: tuple[Layer, ...]
    sources: tuple[Source, ...]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.readers[0].matrix().shape[1]) // self.readers[0].taps

    def columns(self) -> list[Array]:
        """The readers' weights as ``[out, channels, taps]``."""
        return [layer.matrix().reshape(-1, self.channels, layer.taps) for layer in self.readers]

    def apply(self, step: Pass, graph: ir.Graph, scales: Array) -> list[LayerRecord]:
        """Multiply the readers' columns by `scales`, float64 ``[channels]``, and divide the sources by them.

        Returns:
            A record for each reader; scales that are all 1 change nothing.
        """
        factors = scales.astype(np.float32)
        if np.abs(factors - 1).max() < _ALIKE:
            return [LayerRecord(layer.name, "no scale helps it", skipped=True) for layer in self.readers]
        for source in self.sources:
            source.divide(graph, factors)
        for layer in self.readers:
            store(layer, layer.matrix() * factors.repeat(layer.taps))
            layer.node.metadata_props[METADATA] = step.name
        span = f"{factors.min():.3g} to {factors.max():.3g}"
        made_by = ", ".join(dict.fromkeys(source.title for source in self.sources))
        return [LayerRecord(layer.name, f"inputs scaled by {span}, folded into {made_by}") for layer in self.readers]


def find_folds(step: Pass, model: ir.Model, ignore: tuple[str, ...]) -> tuple[list[Fold], list[LayerRecord]]:
    """The folds of a model, and a record with the reason for each layer that has none.

    Raises:
        PassError: If a name in `ignore` is no layer of the model.
    """
    layers, skipped = choose_layers(step, model, ignore)
    folds: list[Fold] = []
    values = dict.fromkeys(layer.node.inputs[0] for layer in layers)
    for value in values:
        assert value is not None
        readers = tuple(layer for layer in layers if layer.node.inputs[0] is value)
        found = _done(step, readers) or _fold(value, readers)
        if isinstance(found, Fold):
            folds.append(found)
        else:
            skipped += [LayerRecord(layer.name, found, skipped=True) for layer in readers]
    return folds, skipped


def measured_folds(
    step: Pass, model: ir.Model, context: PassContext, ignore: tuple[str, ...], *, hessian: bool = False
) -> tuple[list[tuple[Fold, LayerStatistics]], list[LayerRecord]]:
    """The folds of a model, each with what its first reader reads on the samples, and the records of `find_folds`.

    Raises:
        PassError: As `find_folds`.
        DataError: If the samples are too few for the pass, all the same, or do not fit the model.
    """
    folds, records = find_folds(step, model, ignore)
    assert context.calibration is not None
    context.calibration.check(model, step.least_samples())
    context.calibration.check_varied()
    seen = [fold.readers[0] for fold in folds]
    known = collect(model, context.calibration, seen, hessian=hessian, reporter=context.reporter) if folds else {}
    return [(fold, known[fold.readers[0].name]) for fold in folds], records


def store(layer: Layer, matrix: Array) -> None:
    """Give a float32 layer another matrix ``[out, in]``, with the zeros it had."""
    array, encoded = layer.restore(matrix.astype(np.float32)), layer.encoded
    if encoded is None:
        layer.weight.const_value = ir.tensor(array, name=layer.weight.name)
    else:
        layer.weight.const_value = EncodedTensor(
            layer.weight.name, encoded.encoding, encoded.mask, encoded.axis, values=array
        )


def _fold(value: ir.Value, readers: Sequence[Layer]) -> Fold | str:
    """The fold of a value, or why there is none."""
    for reason in (_obstacle(value, readers), *map(_unfit, readers)):
        if reason:
            return reason
    axes = {_channel_axis(layer) for layer in readers}
    if len(axes) > 1 or None in axes:
        return f"its input '{value.name}' is read along other axes too"
    (axis,) = axes
    assert axis is not None
    rank = len(shape_of(value))
    found = trace(value, Channels.along(axis % rank, shape_of(value)))
    return found if isinstance(found, str) else Fold(value, tuple(readers), tuple(found))


def _done(step: Pass, readers: Sequence[Layer]) -> str:
    """Why a second run leaves the layers alone; empty in the first."""
    done = any(layer.node.metadata_props.get(METADATA) == step.name for layer in readers)
    return f"its inputs are already scaled by '{step.name}'" if done else ""


def _obstacle(value: ir.Value, readers: Sequence[Layer]) -> str:
    """Why the value itself cannot be scaled."""
    nodes = {layer.node for layer in readers}
    other = next((node for node, index in value.uses() if node not in nodes or index != 0), None)
    if other is not None:
        return f"its input '{value.name}' is also read by '{layer_name(other)}' ({other.op_type})"
    return f"its input '{value.name}' is an output of the model" if value.is_graph_output() else ""


def _unfit(layer: Layer) -> str:
    """Why a layer's weight cannot take the factors."""
    if layer.encoded is not None and layer.encoded.encoding.quant is not None:
        return "its weight is already quantized; fold scales before 'quantize'"
    if layer.groups > 1:
        return "it is a grouped convolution"
    return "its weight serves several layers" if len(layer.weight.uses()) > 1 else ""


def _channel_axis(layer: Layer) -> int | None:
    """The axis of its input that a layer sums over."""
    if layer.node.op_type == "Conv":
        return 1
    return None if attribute(layer.node, "transA", 0) else -1
