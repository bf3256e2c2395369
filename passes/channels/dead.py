# SPDX-License-Identifier: Apache-2.0
"""Units that do nothing: read by weights that are all zero, or zero themselves on every input."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from sparsec.compiler.couplings import CoupledGroup, Couplings, Site
from sparsec.compiler.graph import attribute, constant_of, scalar_of
from sparsec.compiler.pattern import Mask
from sparsec.compiler.statistics import LayerStatistics
from sparsec.passes.channels.scores import columns_of, read_sites, sites_of


def dead_units(couplings: Couplings, group: CoupledGroup, known: Mapping[str, LayerStatistics]) -> Mask:
    """Which units can go without any change, bool ``[units]``.

    Args:
        couplings: The analysis that the group is of.
        group: The units.
        known: Statistics of all layers that sum over them, to call units dead that were 0 on every sample; empty to
            go by the weights alone.
    """
    unread = np.ones(group.size, bool)
    for node in group.consumers:
        for site in _input_sites(group, node):
            unread &= _zeros(group, node.inputs[1], site)
    silent = _silent(couplings, group)
    readers = list(read_sites(group))
    if readers and all(layer.name in known for layer, _ in readers) and len(readers) == len(group.consumers):
        quiet = np.ones(group.size, bool)
        for layer, site in readers:
            peaks = known[layer.name].peaks[columns_of(layer, site.elements(group.size))]
            quiet &= peaks.max(axis=1) == 0
        silent = silent | quiet
    return np.asarray(unread | silent)


def _input_sites(group: CoupledGroup, node: ir.Node) -> list[Site]:
    """Where the units are in the input axis of a node's weight."""
    weight = node.inputs[1]
    assert weight is not None
    axis = input_axis(node)
    return [site for site in sites_of(group, weight) if site.axis == axis]


def input_axis(node: ir.Node) -> int:
    """The axis of a layer's stored weight that it sums over."""
    return 1 if node.op_type == "Conv" or attribute(node, "transB", 0) else 0


def _zeros(group: CoupledGroup, value: ir.Value | None, site: Site) -> Mask:
    """Which units are zero at one site."""
    array = constant_of(value)
    if array is None:
        return np.zeros(group.size, bool)
    others = tuple(axis for axis in range(array.ndim) if axis != site.axis)
    return np.asarray((array == 0).all(axis=others)[site.elements(group.size)].all(axis=1))


def _silent(couplings: Couplings, group: CoupledGroup) -> Mask:
    """Which units are zero, whatever the input, wherever a layer sums over them: zeros followed through the graph."""
    nothing = np.zeros(group.size, bool)
    found: dict[ir.Value, Mask] = {}

    def zeros(value: ir.Value | None) -> Mask:
        if value is not None and value.const_value is not None:
            return _constant_zeros(group, value)
        return nothing if value is None else found.get(value, nothing)

    for node in couplings.model.graph:
        for value in node.outputs:
            found[value] = _rule(group, node)(group, node, zeros)
    read = [zeros(node.inputs[0]) for node in group.consumers]
    return np.asarray(np.logical_and.reduce(read)) if read else nothing


def _constant_zeros(group: CoupledGroup, value: ir.Value) -> Mask:
    array, sites = constant_of(value), sites_of(group, value)
    if sites:
        return np.asarray(np.logical_and.reduce([_zeros(group, value, site) for site in sites]))
    return np.full(group.size, array is not None and not array.any())


Zeros = Callable[[ir.Value | None], Mask]
_Rule = Callable[[CoupledGroup, ir.Node, Zeros], Mask]


def _rule(group: CoupledGroup, node: ir.Node) -> _Rule:
    if node in group.producers:
        return _written
    return _RULES.get(node.op_type, _never) if node.domain in ("", "ai.onnx") else _never


def _written(group: CoupledGroup, node: ir.Node, zeros: Zeros) -> Mask:
    """A layer writes zeros where its weights and bias are zero, or where a depthwise one reads zeros."""
    weight = node.inputs[1]
    assert weight is not None
    own = [site for site in sites_of(group, weight) if site.axis != input_axis(node)]
    silent = np.logical_and.reduce([_zeros(group, weight, site) for site in own]) if own else zeros(None)
    if node.op_type == "Conv" and attribute(node, "group", 1) > 1:
        silent = silent | zeros(node.inputs[0])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return np.asarray(silent if bias is None else silent & zeros(bias))


def _never(group: CoupledGroup, node: ir.Node, zeros: Zeros) -> Mask:
    return np.zeros(group.size, bool)


def _first(group: CoupledGroup, node: ir.Node, zeros: Zeros) -> Mask:
    return zeros(node.inputs[0])


def _any(group: CoupledGroup, node: ir.Node, zeros: Zeros) -> Mask:
    return np.asarray(np.logical_or.reduce([zeros(value) for value in node.inputs]))


def _all(group: CoupledGroup, node: ir.Node, zeros: Zeros) -> Mask:
    return np.asarray(np.logical_and.reduce([zeros(value) for value in node.inputs]))


def _clip(group: CoupledGroup, node: ir.Node, zeros: Zeros) -> Mask:
    limits = [scalar_of(value) if value is not None else 0.0 for value in (*node.inputs[1:], None, None)[:2]]
    low, high = limits
    inside = low is not None and high is not None and low <= 0 <= high
    return zeros(node.inputs[0]) if inside else _never(group, node, zeros)


_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(("Abs", "Asin", "Atan", "Cast", "Celu", "Elu", "Erf", "Gelu", "HardSwish", "Identity"), _first),
    **dict.fromkeys(("LeakyRelu", "Neg", "PRelu", "Relu", "Selu", "Sign", "Sin", "Softsign", "Sqrt", "Tanh"), _first),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Flatten", "Reshape"), _first),
    **dict.fromkeys(("Squeeze", "Unsqueeze", "Transpose"), _first),
    **dict.fromkeys(("Mul",), _any),
    **dict.fromkeys(("Add", "Sub", "Sum"), _all),
    "Clip": _clip,
}
"""Operators that keep zeros zero, and which of their inputs have to be."""
