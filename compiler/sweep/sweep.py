# SPDX-License-Identifier: Apache-2.0
"""Sweep: fidelity against density, for each layer alone and for the whole model, before anything is compressed.

Every number is measured end to end: a pruning pass makes the weights of one density, and the whole network runs with
them on held-out inputs, once with all layers swapped and once for each layer alone, in one onnxruntime session. The
passes do not correct biases here, as that would be right for one of the two only.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from sparsec.compiler.errors import DataError, ModelError
from sparsec.compiler.layers import Layer, layers, matches
from sparsec.compiler.options import unknown
from sparsec.compiler.pass_manager import LayerRecord, Pass, PassContext, PassManager, silent
from sparsec.compiler.pattern import Array
from sparsec.compiler.sweep.compressibility import kept, pq_index
from sparsec.compiler.sweep.curves import Curve, Point, point
from sparsec.compiler.sweep.dead_units import DeadUnits, find_dead_units
from sparsec.compiler.sweep.request import Request, at_densities, narrowed, pruning_pass
from sparsec.compiler.sweep.swapping import Swapper

LEAST_SAMPLES = 2
"""Held-out samples that a sweep needs at least."""


@dataclass(frozen=True, slots=True)
class LayerSweep:
    """One layer.

    Attributes:
        name: ONNX name.
        op: ONNX operator.
        shape: Of the weight, as stored.
        weights: Number of its elements.
        pq_index: See `compressibility`.
        pq_density: Share of the weights that SAP's rule keeps of it.
        dead: Of the activation behind it; None where that is not ReLU-like.
        curves: Fidelity of the model with only this layer pruned, one for each pattern that fits it.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    weights: int
    pq_index: float
    pq_density: float
    dead: DeadUnits | None = None
    curves: tuple[Curve, ...] = ()


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep found.

    Attributes:
        samples: Held-out samples that it was measured on; 0 without data.
        layers: In graph order; those that no pattern fits have no curve.
        whole: Curves of the model with all these layers pruned to one density, one for each pattern.
        skipped: Pattern -> layers it left alone, and why.
    """

    samples: int
    layers: tuple[LayerSweep, ...]
    whole: tuple[Curve, ...] = ()
    skipped: Mapping[str, tuple[LayerRecord, ...]] = field(default_factory=dict)


def sweep(model: ir.Model, request: Request, context: PassContext) -> Sweep:
    """Sweep a float32 model.

    Args:
        model: The model, after exact passes.
        request: What to sweep.
        context: With samples held out; and calibration samples for scores that need them.

    Raises:
        DataError: If samples are missing, too few, all the same, or do not fit the model.
        ModelError: If no layer is called as asked, or none can be pruned.
        PassError: If a pass needs calibration samples that are not there.
    """
    chosen = choose(model, request.only)
    heldout, calibration = context.heldout or context.calibration, context.calibration or context.heldout
    if heldout is None or calibration is None:
        raise DataError("A sweep needs real inputs. Give --calibration FILE.npz, --heldout FILE.npz, or both.")  # noqa: EM101
    for data, least in ((heldout, LEAST_SAMPLES), (calibration, 1)):
        data.check(model, least)
        data.check_varied()
    dead = find_dead_units(model, calibration, context.reporter)
    names = [str(layer.weight.name) for layer in chosen]
    swapper = Swapper(model, names, list(heldout.feeds(model)), request.jobs)
    whole: dict[str, list[Point]] = {}
    each: dict[str, dict[str, list[Point]]] = {layer.name: {} for layer in chosen}
    skipped: dict[str, tuple[LayerRecord, ...]] = {}
    for variant in _variants(model, request, context):
        skipped[variant.pattern] = variant.skipped
        for name, found in _measured(variant, swapper, chosen, request, context):
            (whole if name is None else each[name]).setdefault(variant.pattern, []).append(found)
    return Sweep(
        heldout.samples,
        tuple(describe(layer, dead.get(layer.name), _curves(each[layer.name], request.drop)) for layer in chosen),
        _curves(whole, request.drop),
        skipped,
    )


def measure_pass(model: ir.Model, step: Pass, names: Collection[str], request: Request, context: PassContext) -> Point:
    """Fidelity of the model with the weights that one pass makes, without its bias correction, as in a sweep.

    Args:
        model: The model, after exact passes.
        step: A pruning pass.
        names: The layers over whose weights density is counted, pruned or not.
        request: What was swept.
        context: As for `sweep`.

    Raises:
        SparsecError: As `sweep`.
    """
    data = context.heldout or context.calibration
    assert data is not None
    changed, _ = pruned_weights(model, step, request.only, context)
    counted = [layer for layer in choose(model) if layer.name in names]
    weights = {str(layer.weight.name): changed.get(layer.name, layer.tensor.numpy()) for layer in counted}
    realised = _density(list(weights.values()))
    found = Swapper(model, weights, list(data.feeds(model)), request.jobs).compare(weights)
    return point(round(realised, 4), realised, found, request.measure)


def choose(model: ir.Model, only: Sequence[str] = ()) -> list[Layer]:
    """Layers by name or glob, in graph order; one of those that share a weight.

    Raises:
        ModelError: If a name or glob fits no layer, or the model has none.
    """
    known = list(layers(model))
    for pattern in only:
        if not any(matches(layer.name, (pattern,)) for layer in known):
            msg = "Option '--layers': " + unknown("layer", pattern, [layer.name for layer in known])
            raise ModelError(msg)
    found = {layer.weight.name: layer for layer in reversed(known) if not only or matches(layer.name, tuple(only))}
    if not found:
        raise ModelError("The model has no layer with a constant float32 weight, so there is nothing to sweep.")  # noqa: EM101
    return list(reversed(found.values()))


def describe(layer: Layer, dead: DeadUnits | None = None, curves: tuple[Curve, ...] = ()) -> LayerSweep:
    """A layer with what its weight alone says."""
    matrix = layer.matrix()
    index = pq_index(matrix, matrix != 0)
    share = kept(matrix.size, index) / max(1, matrix.size)
    return LayerSweep(layer.name, layer.node.op_type, layer.shape, matrix.size, index, share, dead, curves)


@dataclass(frozen=True, slots=True)
class _Variant:
    """The weights that one pass makes.

    Attributes:
        pattern: As asked.
        density: As asked; None where the pattern has its own.
        changed: Layer name -> the pruned weight.
        skipped: Layers left alone.
        progress: Number of this variant, and of all.
    """

    pattern: str
    density: float | None
    changed: Mapping[str, Array]
    skipped: tuple[LayerRecord, ...]
    progress: tuple[int, int]


def _variants(model: ir.Model, request: Request, context: PassContext) -> Iterator[_Variant]:
    steps = [
        (text, density, step)
        for text in request.patterns
        for density, step in at_densities(pruning_pass(text, request.score), request.densities)
    ]
    each = len(choose(model, request.only)) + 1
    for number, (text, density, step) in enumerate(steps):
        context.reporter(f"prune {text}", number * each, len(steps) * each)
        changed, skipped = pruned_weights(model, step, request.only, context)
        yield _Variant(text, density, changed, skipped, (number, len(steps)))


def pruned_weights(
    model: ir.Model, step: Pass, only: tuple[str, ...], context: PassContext
) -> tuple[dict[str, Array], tuple[LayerRecord, ...]]:
    """What a pruning pass makes of the layers' weights, by layer name, and which layers it leaves alone and why.

    Raises:
        PassError: If the pass needs samples that are not there, or fails.
    """
    before = {layer.name: layer for layer in layers(model)}
    quiet = replace(context, reporter=silent)
    result = PassManager([narrowed(step, only)]).run(model, quiet)
    found = {
        layer.name: layer.tensor.numpy()
        for layer in layers(result.model)
        if layer.name in before and layer.tensor is not before[layer.name].tensor
        if layer.shape == before[layer.name].shape
    }
    skipped = (r for r in result.steps[0].records if r.skipped and r.layer in before and r.note != _NOT_ASKED)
    return found, tuple(skipped)


_NOT_ASKED = "it is not in 'only'"


def _measured(
    variant: _Variant, swapper: Swapper, chosen: Sequence[Layer], request: Request, context: PassContext
) -> Iterator[tuple[str | None, Point]]:
    """The point of the whole model (name None), and those of its layers alone."""
    pruned = {layer.name: layer for layer in chosen if layer.name in variant.changed}
    if not pruned:
        msg = f"Pattern '{variant.pattern}' fits none of the layers: {_reasons(variant.skipped)}."
        raise ModelError(msg)
    sets: list[tuple[str | None, list[Layer]]] = [(None, list(pruned.values()))]
    sets += [(name, [layer]) for name, layer in pruned.items()] if request.each else []
    number, variants = variant.progress
    steps = len(chosen) + 1
    for done, (name, swapped) in enumerate(sets):
        context.reporter(f"sweep {variant.pattern}", number * steps + done, variants * steps)
        weights = {str(layer.weight.name): variant.changed[layer.name] for layer in swapped}
        realised = _density(list(weights.values()))
        found = swapper.compare(weights)
        density = round(realised, 4) if variant.density is None else variant.density
        yield name, point(density, realised, found, request.measure)


def _density(arrays: Sequence[Array]) -> float:
    return sum(map(np.count_nonzero, arrays)) / max(1, sum(array.size for array in arrays))


def _reasons(records: Sequence[LayerRecord]) -> str:
    return "; ".join(f"'{record.layer}': {record.note}" for record in records[:3]) or "it changed no weight"


def _curves(found: Mapping[str, Sequence[Point]], drop: float) -> tuple[Curve, ...]:
    return tuple(Curve.of(pattern, points, drop) for pattern, points in found.items())
