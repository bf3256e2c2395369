# SPDX-License-Identifier: Apache-2.0
"""How much each unit of a coupled group is worth: what `prune_channels` keeps the most of.

- ``magnitude``: the squared length of its rows and columns in all weights of the group, each weight counted alike
  (Li et al., "Pruning Filters for Efficient ConvNets", 2017, over a whole group as in Fang et al., "DepGraph", 2023).
- ``wanda``: the energy that it adds to the outputs of what reads it, its inputs' squares known from samples (Sun et
  al., "A Simple and Effective Pruning Approach for Large Language Models", 2023, for whole columns).
- ``hessian``: when it goes, one unit after the other going whose loss raises the error of those outputs least, the
  others making up for it each time (Hassibi and Stork, "Second Order Derivatives for Network Pruning: Optimal Brain
  Surgeon", 1993, for sets of columns as in Kurtic et al., "ZipLM: Inference-Aware Structured Pruning of Language
  Models", 2023).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from sparsec.compiler.couplings import CoupledGroup, Site
from sparsec.compiler.layers import Layer, find_layer
from sparsec.compiler.pattern import Array
from sparsec.compiler.statistics import LayerStatistics
from sparsec.passes.column_sweep import DAMPING, output_error

UnitScore = Literal["magnitude", "wanda", "hessian"]
Known = Mapping[str, LayerStatistics]


def unit_scores(kind: UnitScore, group: CoupledGroup, known: Known, keep: int) -> Array:
    """Score each unit.

    Args:
        kind: One of the module's scores; where no reader of the group has statistics, magnitude stands in.
        group: The units.
        known: Statistics of layers by name, with products for ``hessian``.
        keep: How many units will stay.

    Returns:
        float64 ``[units]``, at least 0.
    """
    readers = [(layer, site) for layer, site in read_sites(group) if layer.name in known]
    if kind == "magnitude" or not readers:
        return _shared([_energies(group, value, site) for value, site in _weight_sites(group)])
    if kind == "wanda":
        return _shared([_output_energies(*reader, group.size, known[reader[0].name]) for reader in readers])
    return eliminate([_Outputs.of(*reader, group.size, known[reader[0].name]) for reader in readers], keep)


def _shared(found: list[Array]) -> Array:
    """Scores from several weights, each 1 on average, averaged."""
    return np.asarray(np.mean([energy / max(float(energy.mean()), 1e-30) for energy in found], axis=0))


def read_sites(group: CoupledGroup) -> Iterator[tuple[Layer, Site]]:
    """The layers of one group that sum over the units, and where in their input axis these are."""
    for node in group.consumers:
        layer = find_layer(node)
        if isinstance(layer, Layer) and layer.groups == 1:
            yield from ((layer, site) for site in sites_of(group, layer.weight) if site.axis == 1 - layer.axis)


def sites_of(group: CoupledGroup, value: ir.Value) -> list[Site]:
    """Where the units are in one weight."""
    return [site for site in group.sites if site.tensor == value.name]


def columns_of(layer: Layer, elements: Array) -> Array:
    """Columns of the weight ``[out, in]`` for elements of its input axis, a row a unit; a kernel has several."""
    taps = np.arange(layer.taps)
    return np.asarray((elements[:, :, None] * layer.taps + taps).reshape(len(elements), -1))


def _weight_sites(group: CoupledGroup) -> Iterator[tuple[ir.Value, Site]]:
    """Every place in the weights of the layers that write or read the units."""
    weights = dict.fromkeys(node.inputs[1] for node in (*group.producers, *group.consumers))
    for value in weights:
        if value is not None and value.const_value is not None:
            yield from ((value, site) for site in sites_of(group, value))


def _energies(group: CoupledGroup, value: ir.Value, site: Site) -> Array:
    assert value.const_value is not None
    squares = np.square(value.const_value.numpy().astype(np.float64))
    others = tuple(axis for axis in range(squares.ndim) if axis != site.axis)
    return np.asarray(squares.sum(axis=others)[site.elements(group.size)].sum(axis=1))


def _output_energies(layer: Layer, site: Site, size: int, statistics: LayerStatistics) -> Array:
    energies = np.square(layer.matrix().astype(np.float64)).sum(axis=0) * statistics.norms**2
    return np.asarray(energies[columns_of(layer, site.elements(size))].sum(axis=1))


@dataclass(slots=True, eq=False)
class _Outputs:
    """One reader's outputs while units go.

    Attributes:
        weights: float64 ``[out, in]``, those of units that went being zero.
        inverse: float64 ``[in, in]``, of the Hessian of the inputs that are left.
        columns: int64 ``[units, columns of a unit]``.
        energy: Mean square of all outputs at first.
    """

    weights: Array
    inverse: Array
    columns: Array
    energy: float

    @classmethod
    def of(cls, layer: Layer, site: Site, size: int, statistics: LayerStatistics) -> "_Outputs":
        """Before any unit went."""
        weights, hessian = layer.matrix().astype(np.float64), _damped(statistics.hessian)
        energy = output_error(weights, statistics.hessian)
        return cls(weights, np.linalg.inv(hessian), columns_of(layer, site.elements(size)), max(energy, 1e-30))

    def losses(self) -> Array:
        """For each unit the error that its going adds, as a share of the energy."""
        parts = self.weights[:, self.columns]
        if self.columns.shape[1] == 1:
            found = np.square(parts[..., 0]).sum(axis=0) / np.diag(self.inverse)[self.columns[:, 0]]
        else:
            blocks = self.inverse[self.columns[:, :, None], self.columns[:, None, :]]
            moved = np.linalg.solve(blocks, parts.transpose(1, 2, 0))
            found = np.einsum("uco,ouc->u", moved, parts)
        return np.asarray(found / 2 / self.energy)

    def remove(self, unit: int) -> None:
        """Let a unit go, and the others make up for it."""
        gone = self.columns[unit]
        factor = np.linalg.solve(self.inverse[np.ix_(gone, gone)], self.inverse[gone])
        self.weights -= self.weights[:, gone] @ factor
        self.inverse -= self.inverse[:, gone] @ factor
        self.weights[:, gone] = 0
        self.inverse[gone], self.inverse[:, gone] = 0, 0
        self.inverse[gone, gone] = 1


def eliminate(readers: list[_Outputs], keep: int) -> Array:
    """Let units go one by one until `keep` are left: when each went, float64 ``[units]``; the rest come after."""
    units = len(readers[0].columns)
    scores, alive = np.zeros(units), np.ones(units, bool)
    for step in range(units - keep):
        losses = np.sum([reader.losses() for reader in readers], axis=0)
        worst = int(np.argmin(np.where(alive, losses, np.inf)))
        scores[worst], alive[worst] = step, False
        for reader in readers:
            reader.remove(worst)
    scores[alive] = units
    return scores


def _damped(hessian: Array) -> Array:
    """The Hessian made safe to invert, each input by its own size: units of small activations keep their small loss."""
    sizes = np.diag(hessian)
    return np.asarray(hessian + np.diag(np.where(sizes > 0, DAMPING * sizes, 1.0)))
