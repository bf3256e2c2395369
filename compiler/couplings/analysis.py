# SPDX-License-Identifier: Apache-2.0
"""The analysis: walks a graph once, follows every axis, and gathers what goes together into groups.

The idea of coupled structures is that of Fang et al., "DepGraph: Towards Any Structural Pruning", 2023; here axes are
unified symbolically, so that heads, concatenations and flattened pictures need no special case.
"""

from dataclasses import dataclass

import onnx_ir as ir

from sparsec.compiler.couplings.axes import Axis, fix
from sparsec.compiler.couplings.groups import CoupledGroup, build_groups
from sparsec.compiler.couplings.rules import follow
from sparsec.compiler.couplings.trace import Trace, title


@dataclass(frozen=True, slots=True, eq=False)
class Couplings:
    """What goes together in a model; it describes the model as it is and is void once that changes.

    Attributes:
        model: The model.
        groups: In the order of the layers that use them.
        trace: The axes of every value.
    """

    model: ir.Model
    groups: tuple[CoupledGroup, ...]
    trace: Trace

    def __str__(self) -> str:
        """All groups, a few lines each."""
        return "\n".join(map(str, self.groups))

    def axes(self, value: ir.Value) -> list[Axis]:
        """The axes of a value; none if nothing reads it as data."""
        return self.trace.axes.get(value, [])


def analyse(model: ir.Model) -> Couplings:
    """Find the coupled groups of an imported model (static shapes, constants folded).

    Raises:
        ModelError: If a shape is not known.
    """
    trace = Trace()
    for value in model.graph.inputs:
        _fix(trace, value, f"it is the model's input '{value.name}'")
    for node in model.graph:
        follow(trace, node)
        _fix_captures(trace, node)
    for value in model.graph.outputs:
        _fix(trace, value, f"it is the model's output '{value.name}'")
    _fix_steering(trace, model)
    return Couplings(model, build_groups(trace.axes.items(), trace.uses), trace)


def _fix(trace: Trace, value: ir.Value, reason: str) -> None:
    for axis in trace.of_value(value):
        fix(axis, reason)


def _fix_captures(trace: Trace, node: ir.Node) -> None:
    """What a nested graph reads from outside stays as it is."""
    for attribute in node.attributes.values():
        nested = attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else ()
        nested = (attribute.as_graph(),) if attribute.type == ir.AttributeType.GRAPH else nested
        for inner in (inner for graph in nested for inner in graph.all_nodes()):
            for value in inner.inputs:
                if value is not None and (value in trace.axes or value.graph is node.graph):
                    _fix(trace, value, f"{title(node)} reads it in a nested graph")


def _fix_steering(trace: Trace, model: ir.Model) -> None:
    """A value that is data for one node and, for another, a shape or a number that steers it, stays as it is."""
    for node in model.graph:
        for value in node.inputs:
            if value is not None and value in trace.axes and value not in trace.read.get(node, ()):
                _fix(trace, value, f"{title(node)} reads it as a parameter")
