# SPDX-License-Identifier: Apache-2.0
"""How much each unit of a coupled group is worth: what `prune_channels` keeps the most of.

- ``magnitude``: the squared length of its rows and columns in all weights of the group, each weight counted alike
  (Li et al., "Pruning Filters for Efficient ConvNets", 2017, over a whole group as in Fang et al., "DepGraph", 2023).
- ``wanda``: the energy that it adds to the outputs of what reads it, its inputs' squares known from samples (Sun et
  al., "A Simple and Effective Pruning Approach for Large Language Models", 2023, for whole columns).
- ``hessian``: the rise of that output error when the unit goes and the others make up for it (Hassibi and Stork,
  "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", 1993, for sets of columns).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
import onnx_ir as ir

from sparsec.compiler.couplings import CoupledGroup, Site
from sparsec.compiler.layers import Layer, find_layer
from sparsec.compiler.pattern import Array
from sparsec.compiler.statistics import LayerStatistics
from sparsec.passes.column_sweep import DAMPING

UnitScore = Literal["magnitude", "wanda", "hessian"]
Known = Mapping[str, LayerStatistics]


def unit_scores(kind: UnitScore, group: CoupledGroup, known: Known) -> Array:
    """Score each unit.

    Args:
        kind: One of the module's scores; where no reader of the group has statistics, magnitude stands in.
        group: The units.
        known: Statistics of layers by name, with products for ``hessian``.

    Returns:
        float64 ``[units]``, at least 0, 1 on average.
    """
    readers = [(layer, site) for layer, site in read_sites(group) if layer.name in known]
    if kind == "magnitude" or not readers:
        found = [_energies(group, value, site) for value, site in _weight_sites(group)]
    else:
        found = [_MEASURED[kind](layer, site.elements(group.size), known[layer.name]) for layer, site in readers]
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


def _output_energies(layer: Layer, elements: Array, statistics: LayerStatistics) -> Array:
    energies = np.square(layer.matrix().astype(np.float64)).sum(axis=0) * statistics.norms**2
    return np.asarray(energies[columns_of(layer, elements)].sum(axis=1))


def _losses(layer: Layer, elements: Array, statistics: LayerStatistics) -> Array:
    matrix = layer.matrix().astype(np.float64)
    inverse = np.linalg.inv(_damped(statistics.hessian))
    losses = []
    for columns in columns_of(layer, elements):
        part = matrix[:, columns]
        losses.append(float(np.sum(part.T * np.linalg.solve(inverse[np.ix_(columns, columns)], part.T))) / 2)
    return np.array(losses)


def _damped(hessian: Array) -> Array:
    """The Hessian made safe to invert, each input by its own size: units of small activations keep their small loss."""
    sizes = np.diag(hessian)
    return np.asarray(hessian + np.diag(np.where(sizes > 0, DAMPING * sizes, 1.0)))


_MEASURED: Mapping[str, Callable[[Layer, Array, LayerStatistics], Array]] = {
    "wanda": _output_energies,
    "hessian": _losses,
}
