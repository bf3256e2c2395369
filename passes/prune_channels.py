# SPDX-License-Identifier: Apache-2.0
"""prune-channels: remove whole convolution channels, neurons and attention heads, so that tensors really shrink.

The shrunk model computes what the model computes in which every reader's weights for the removed units are zero; what
was zero before goes without any change. `compiler.couplings` knows what goes together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, gcd
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from sparsec.compiler.couplings import CoupledGroup, Couplings, Edit, analyse, rearrange
from sparsec.compiler.encoding import EncodedTensor
from sparsec.compiler.errors import RecipeError
from sparsec.compiler.layers import Layer, find_layer, layer_name, matches
from sparsec.compiler.options import unknown
from sparsec.compiler.pass_manager import LayerRecord, Pass, PassContext, PassResult
from sparsec.compiler.pattern import Array
from sparsec.compiler.statistics import LayerStatistics, collect
from sparsec.passes.bias_correction import correct_biases, has_bias
from sparsec.passes.channels.dead import dead_units, input_axis
from sparsec.passes.channels.scores import UnitScore, columns_of, read_sites, sites_of, unit_scores
from sparsec.passes.column_sweep import refit
from sparsec.passes.selection import check_names

KINDS = ("channels", "neurons", "heads", "head-channels")
LEAST_SAMPLES = 8


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Each coupled group by itself: the units with the lowest scores go.

    Attributes:
        density: Share of the units kept, in (0, 1], of those that there were before the pass first ran; 1 removes
            dead units only.
        kinds: What may go: convolution ``channels``, ``neurons`` between matrix products, attention ``heads``,
            ``head-channels`` (the same ones of each head's values).
        score: ``magnitude``, or with calibration data ``wanda``, ``hessian``; see `channels.scores`.
        update: How what reads the remaining units makes up for the loss: ``none``; ``bias``: the mean of what is lost
            goes into biases; ``refit``: least squares on the columns that stay, biases included. Both need
            calibration data.
        multiple: The channels kept are rounded up to a multiple of this.
        dead: Whether units that are 0 on all calibration data go, too; units that are 0 by their weights always go.
        only: Groups to work on, by name or glob of a layer that writes them; empty for all.
        ignore: Groups to leave alone, by name or glob of a layer that writes them.

    Raises:
        RecipeError: If an option is out of range.
    """

    name: ClassVar[str] = "prune-channels"
    stage: ClassVar[str] = "prune"
    density: float = 0.75
    kinds: tuple[str, ...] = ("channels", "neurons", "heads")
    score: UnitScore = "magnitude"
    update: Literal["none", "bias", "refit"] = "none"
    multiple: int = 4
    dead: bool = False
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            msg = f"Pass '{self.name}': option 'density' is {self.density:g}, expected more than 0 and at most 1."
            raise RecipeError(msg)
        if self.multiple < 1:
            msg = f"Pass '{self.name}': option 'multiple' is {self.multiple}, expected at least 1."
            raise RecipeError(msg)
        if not self.kinds:
            msg = f"Pass '{self.name}': option 'kinds' is empty, expected some of {', '.join(KINDS)}."
            raise RecipeError(msg)
        for kind in self.kinds:
            if kind not in KINDS:
                raise RecipeError(f"Pass '{self.name}', option 'kinds': " + unknown("value", kind, KINDS))

    def needs(self) -> tuple[str, ...]:
        """Calibration data for what is measured."""
        return ("static-shapes", "calibration") if self._measures else ("static-shapes",)

    def least_samples(self) -> int:
        """See `Pass.least_samples`."""
        return LEAST_SAMPLES if self._measures else 0

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """See the module."""
        couplings = analyse(model)
        names = [layer_name(node) for group in couplings.groups for node in group.producers]
        check_names(self, "ignore", self.ignore, names)
        check_names(self, "only", self.only, names)
        reasons = {group.name: self._reason(group) for group in couplings.groups}
        chosen = [group for group in couplings.groups if not reasons[group.name]]
        known = self._statistics(model, chosen, context)
        kept = {group.name: self._kept(couplings, group, known) for group in chosen}
        records = [LayerRecord(n, reason, skipped=True) for n, reason in reasons.items() if reason]
        records += [self._record(group, kept[group.name]) for group in chosen]
        shrunk = [group for group in chosen if len(kept[group.name]) < group.size]
        if shrunk:
            self._compensate(model, shrunk, kept, known, context)
            self._shrink(model, shrunk, kept)
        return PassResult(model, bool(shrunk), tuple(records))

    @property
    def _measures(self) -> bool:
        return self.score != "magnitude" or self.update != "none" or self.dead

    def _reason(self, group: CoupledGroup) -> str:
        """Why a group is left alone; empty if it is pruned."""
        writers = [layer_name(node) for node in group.producers]
        if group.kind not in self.kinds:
            return f"its units are {group.kind}, not in 'kinds'"
        if group.removable:
            return group.removable
        if any(matches(name, self.ignore) for name in writers):
            return "it is in 'ignore'"
        if self.only and not any(matches(name, self.only) for name in writers):
            return "it is not in 'only'"
        return _encoded(group)

    def _statistics(
        self, model: ir.Model, groups: list[CoupledGroup], context: PassContext
    ) -> Mapping[str, LayerStatistics]:
        layers = {layer.name: layer for group in groups for layer, _ in read_sites(group)}
        if not (self._measures and layers):
            return {}
        assert context.calibration is not None
        context.calibration.check(model, LEAST_SAMPLES)
        hessian = self.score == "hessian" or self.update == "refit"
        return collect(model, context.calibration, layers.values(), hessian=hessian, reporter=context.reporter)

    def _kept(self, couplings: Couplings, group: CoupledGroup, known: Mapping[str, LayerStatistics]) -> Array:
        """The units that stay, in their order."""
        dead = dead_units(couplings, group, known if self.dead else {})
        wanted = min(round(self.density * _first_size(group)), group.size - int(dead.sum()))
        step = self.multiple // gcd(self.multiple, group.span)
        count = min(group.size, max(1, ceil(wanted / step)) * step)
        if count == group.size:
            return np.arange(count)
        scores = unit_scores(self.score, group, known, count)
        scores[dead] = -1
        return np.sort(np.argsort(-scores, kind="stable")[:count])

    def _record(self, group: CoupledGroup, kept: Array) -> LayerRecord:
        if len(kept) == group.size:
            return LayerRecord(group.name, f"all {group.size} {group.kind} stay", skipped=True)
        layers = dict.fromkeys(layer_name(node) for node in (*group.producers, *group.consumers))
        return LayerRecord(group.name, f"{group.size} {group.kind} -> {len(kept)}, in {', '.join(layers)}")

    def _compensate(
        self,
        model: ir.Model,
        groups: list[CoupledGroup],
        kept: Mapping[str, Array],
        known: Mapping[str, LayerStatistics],
        context: PassContext,
    ) -> None:
        """Zero what reads the units that go, and let the rest of each reader's weights and bias make up for it."""
        original = model.clone()
        readers = dict.fromkeys(node for group in groups for node in group.consumers)
        before = {node: _weight(node) for node in readers}
        for group in groups:
            silence(group, kept[group.name])
        for node in readers if self.update == "refit" else ():
            layer = find_layer(node)
            if isinstance(layer, Layer) and layer.name in known:
                _refit(layer, before[node], groups, kept, known[layer.name])
        if self.update != "none" and context.calibration is not None:
            correct_biases(
                original, model, [layer_name(node) for node in readers], context.calibration, context.reporter
            )

    def _shrink(self, model: ir.Model, groups: list[CoupledGroup], kept: Mapping[str, Array]) -> None:
        """Remember how many units there were, and remove; biases may be new, so the analysis is made anew."""
        for group in groups:
            group.producers[0].metadata_props[_key(group)] = str(_first_size(group))
        fresh = analyse(model)
        same = {group.name: group for group in fresh.groups}
        rearrange(fresh, {same[group.name].atom: Edit(kept[group.name]) for group in groups})


def silence(group: CoupledGroup, kept: Array) -> None:
    """Zero the weights by which layers read the units that are not kept; what they compute then needs them no more."""
    gone = np.setdiff1d(np.arange(group.size), kept)
    for node in group.consumers:
        weight = node.inputs[1]
        assert weight is not None
        array = _weight(node)
        for site in sites_of(group, weight):
            if site.axis == input_axis(node):
                np.moveaxis(array, site.axis, 0)[site.elements(group.size)[gone].ravel()] = 0
        weight.const_value = ir.tensor(array, name=weight.name)


def _refit(
    layer: Layer,
    before: Array,
    groups: list[CoupledGroup],
    kept: Mapping[str, Array],
    statistics: LayerStatistics,
) -> None:
    """Least squares on the columns that stay."""
    matrix = np.moveaxis(before, layer.axis, 0).reshape(before.shape[layer.axis], -1)
    mask = np.ones(matrix.shape, bool)
    for group in groups:
        gone = np.setdiff1d(np.arange(group.size), kept[group.name])
        for site in sites_of(group, layer.weight) if layer.node in group.consumers else ():
            if site.axis == 1 - layer.axis:
                mask[:, columns_of(layer, site.elements(group.size)[gone]).ravel()] = False
    hessian = statistics.centred_hessian if has_bias(layer) else statistics.hessian
    values = refit(matrix, hessian, mask).astype(np.float32)
    layer.weight.const_value = ir.tensor(layer.restore(values), name=layer.weight.name)


def _weight(node: ir.Node) -> Array:
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    return np.array(weight.const_value.numpy())


def _encoded(group: CoupledGroup) -> str:
    """The reason to leave a group alone whose weights an earlier pass has compressed; empty if none has."""
    for node in (*group.producers, *group.consumers):
        weight = node.inputs[1]
        if weight is not None and isinstance(weight.const_value, EncodedTensor):
            return f"the weight of '{layer_name(node)}' is already {weight.const_value.encoding}; prune channels first"
        if weight is not None and weight.const_value is not None and not np.isfinite(_weight(node)).all():
            return f"the weight of '{layer_name(node)}' holds NaN or infinity"
    return ""


def _key(group: CoupledGroup) -> str:
    return f"sparsec.units.{group.name}"


def _first_size(group: CoupledGroup) -> int:
    """How many units there were before the pass first ran."""
    noted = group.producers[0].metadata_props.get(_key(group), "")
    return int(noted) if noted.isdecimal() else group.size
