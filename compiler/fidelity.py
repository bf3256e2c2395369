# SPDX-License-Identifier: Apache-2.0
"""Fidelity: how far a changed model is from its original on real inputs, and whether something in it has died.

Two models run side by side, sample by sample; outputs become sums (`comparison`), and layers are watched through one
number each, the sum of absolute values, which the graph itself computes. So memory does not grow with the samples.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.comparison import EXACT_DB, Comparison, Tally, compare
from sparsec.compiler.errors import PassError
from sparsec.compiler.exchange import to_onnx
from sparsec.compiler.layers import KINDS, layer_name
from sparsec.compiler.output_scores import token_scores
from sparsec.compiler.pattern import Array

__all__ = ["EXACT_DB", "Comparison", "Reference", "Vitals", "check_collapse", "compare", "measure"]

_STILL = 1e-4
"""An output is constant if it varies between samples by less than this share of the reference's variation."""
_KEPT_BYTES = 1 << 28
"""The reference's outputs are kept if all of them fit into this; else they are computed again for each comparison."""
_WATCHED = 1 << 20
"""Elements of an output whose variation between samples is watched: all of a smaller one."""
Feeds = Sequence[Mapping[str, Array]]


def measure(
    original: ir.Model, changed: ir.Model, calibration: Calibration, limit: int | None = None
) -> dict[str, Comparison]:
    """Compare each output of two models over the samples (at most `limit`), with onnxruntime.

    Raises:
        DataError: If the samples do not fit the model.
        ModelError: If onnxruntime refuses a model.
    """
    calibration.check(original)
    return Reference(original, list(calibration.feeds(original, limit))).measure(changed)[0]


@dataclass(slots=True, eq=False)
class Vitals:
    """Signs of life of a model over the samples.

    Attributes:
        layers: Layer name -> whether its result was finite, and whether it had an element other than 0.
        outputs: Output name -> the same.
        variation: Output name -> sum of squared distances from the first sample's.
    """

    layers: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    outputs: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    variation: dict[str, float] = field(default_factory=dict)
    _first: dict[str, Array] = field(default_factory=dict)

    def add(self, outputs: Mapping[str, Array], sums: Mapping[str, float]) -> None:
        """Add a sample: its outputs, and the sum of absolute values of each layer's result."""
        for layer, total in sums.items():
            self.layers[layer] = _alive(self.layers.get(layer), bool(np.isfinite(total)), total != 0)
        for name, array in outputs.items():
            self.outputs[name] = _alive(self.outputs.get(name), _finite(array), bool(array.any()))
            flat = array.ravel()[:: max(1, array.size // _WATCHED)].astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                distance = float(np.square(flat - self._first.setdefault(name, flat)).sum())
            self.variation[name] = self.variation.get(name, 0.0) + distance


class Reference:
    """The original model and the samples that others are measured on.

    Attributes:
        vitals: The original's signs of life; complete after `run`, or the first `measure`.
    """

    def __init__(self, original: ir.Model, feeds: Feeds) -> None:
        """Load the original.

        Args:
            original: The model to compare with.
            feeds: Model inputs by name, a mapping for each sample.

        Raises:
            ModelError: If onnxruntime refuses the model.
        """
        self.vitals = Vitals()
        self._feeds, self._model = feeds, _Watched(original)
        self._tokens = token_scores(original)
        self._kept: list[Mapping[str, Array]] | None = None

    def measure(self, changed: ir.Model) -> tuple[dict[str, Comparison], Vitals]:
        """Each output of `changed` compared with the original's, and whether its layers and outputs live.

        Raises:
            ModelError: If onnxruntime refuses the model or fails on a sample.
            PassError: If an output is missing or has another shape.
        """
        other, vitals = _Watched(changed), Vitals()
        tallies = {name: Tally(name in self._tokens) for name in self._model.outputs}
        for feed, want in zip(self._feeds, self._outputs(), strict=True):
            got, sums = other.run(feed)
            _check_shapes(want, got)
            vitals.add(got, sums)
            for name, tally in tallies.items():
                tally.add(want[name], got[name])
        return {name: tally.result() for name, tally in tallies.items()}, vitals

    def run(self) -> None:
        """Run the original on all samples, so that `vitals` are complete.

        Raises:
            ModelError: If onnxruntime fails on a sample.
        """
        for _ in self._outputs():
            pass

    def _outputs(self) -> Iterator[Mapping[str, Array]]:
        """The original's outputs, a mapping for each sample."""
        if self._kept is not None:
            yield from self._kept
            return
        fresh, size = not self.vitals.outputs, 0
        kept: list[Mapping[str, Array]] = []
        for feed in self._feeds:
            outputs, sums = self._model.run(feed)
            if fresh:
                self.vitals.add(outputs, sums)
            size += sum(array.nbytes for array in outputs.values())
            if size <= _KEPT_BYTES:
                kept.append(outputs)
            yield outputs
        self._kept = kept if size <= _KEPT_BYTES else None


class _Watched:
    """A model in onnxruntime that also gives the sum of absolute values of each layer's result."""

    def __init__(self, model: ir.Model) -> None:
        from sparsec.compiler.oracle import Oracle

        proto = to_onnx(model)
        taken = {name for node in proto.graph.node for name in node.output}
        self.outputs = tuple(value.name for value in proto.graph.output)
        self._sums = {
            _watch(proto.graph, node.outputs[0], taken): layer_name(node)
            for node in model.graph
            if node.op_type in KINDS and node.domain in ("", "ai.onnx")
        }
        self._oracle = Oracle(proto, list(self._sums))

    def run(self, feed: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, float]]:
        values = self._oracle.run(feed)
        sums = {layer: float(values[name]) for name, layer in self._sums.items()}
        return {name: values[name] for name in self.outputs}, sums


def _watch(graph: onnx.GraphProto, value: ir.Value, taken: set[str]) -> str:
    """Append nodes that add up the absolute values of `value`; the name of their result."""
    name = f"{value.name}.absolute_sum"
    while name in taken:
        name += "_"
    taken.update((name, f"{name}.float"))
    source = str(value.name)
    if value.dtype is not ir.DataType.FLOAT:
        source = f"{name}.float"
        graph.node.append(helper.make_node("Cast", [str(value.name)], [source], to=onnx.TensorProto.FLOAT))
    graph.node.append(helper.make_node("ReduceL1", [source], [name], keepdims=0))
    return name


def check_collapse(step: str, reference: Vitals, found: Vitals) -> None:
    """Raise where a pass has killed something that lived in the reference.

    Layers are compared by name, where both models have them.

    Args:
        step: The pass's name, for the message.
        reference: The original on some samples.
        found: The changed model on the same ones.

    Raises:
        PassError: On a layer or output that is not finite, all zero, or the same for every sample.
    """
    for what, name, harm in _harms(reference, found):
        msg = (
            f"Pass '{step}' on '{name}': the {what} is now {harm}, which it was not in the original. "
            "Loosen the pass, or add the layer to 'ignore'."
        )
        raise PassError(msg)


def _harms(reference: Vitals, found: Vitals) -> Iterable[tuple[str, str, str]]:
    for what, before, after in (
        ("layer's result", reference.layers, found.layers),
        ("output", reference.outputs, found.outputs),
    ):
        for name, (finite, moving) in after.items():
            was_finite, was_moving = before.get(name, (False, False))
            if was_finite and not finite:
                yield what, name, "not finite (NaN or infinity)"
            if was_moving and not moving:
                yield what, name, "zero everywhere"
    for name, variation in found.variation.items():
        if variation < _STILL**2 * reference.variation.get(name, 0.0):
            yield "output", name, "the same for every sample"


def _alive(before: tuple[bool, bool] | None, finite: bool, moving: bool) -> tuple[bool, bool]:
    was_finite, was_moving = before or (True, False)
    return was_finite and finite, was_moving or moving


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _check_shapes(want: Mapping[str, Array], got: Mapping[str, Array]) -> None:
    for name, array in want.items():
        if name not in got or got[name].shape != array.shape:
            now = f"has shape {got[name].shape}" if name in got else "is missing"
            msg = f"Output '{name}' {now} after the pass, expected {array.shape} as in the original."
            raise PassError(msg)
