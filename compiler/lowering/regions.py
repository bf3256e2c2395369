# SPDX-License-Identifier: Apache-2.0
"""Regions: an anchor with the elementwise work that follows it, or a chain of elementwise nodes without an anchor.

A region has one value that leaves it, computed by its last node in graph order; so it can run where that node stands.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sparsec.compiler.graph import consumers_of, shape_of
from sparsec.compiler.lowering.codes import codes_behind, quantizer
from sparsec.compiler.lowering.elementwise import is_elementwise

LIMIT = 24
"""Nodes in a region at most."""

CHANNEL, LAST = 1, -1
"""The axis of a convolution's channels; the axis of a matrix product's."""


@dataclass(frozen=True, slots=True)
class Region:
    """Nodes that become one kernel.

    Attributes:
        nodes: In graph order; the first is the anchor, or the first of an elementwise chain.
        axis: Axis of the anchor's channels in its output, None if it takes no epilogue.
        anchored: Whether the first node is an anchor.
    """

    nodes: tuple[ir.Node, ...]
    axis: int | None
    anchored: bool

    @property
    def name(self) -> str:
        """The ONNX name of the layer."""
        return self.nodes[0].name or self.nodes[0].op_type

    @property
    def label(self) -> str:
        """Operators, such as ``Conv+Clip``."""
        return "+".join(node.op_type for node in self.nodes)

    @property
    def output(self) -> ir.Value:
        """The value that leaves the region (the first, for a node with several)."""
        return self.nodes[-1].outputs[0]


Anchors = Mapping[str, tuple[Callable[[ir.Node], bool], int | None]]
"""Operator: whether a node is one, and the channels' axis for its epilogue."""


def form(graph: ir.Graph, anchors: Anchors) -> list[Region]:
    """Cut a topologically sorted graph into regions, in execution order."""
    order = {node: place for place, node in enumerate(graph)}
    taken: set[ir.Node] = set()
    regions = []
    for node in order:
        if node not in taken and codes_behind(node.outputs[0]) is None:
            region = _region(node, anchors, order, taken)
            taken.update(region.nodes)
            regions.append(region)
    return sorted(regions, key=lambda region: order[region.nodes[-1]])


def operand_kind(value: ir.Value, shape: Sequence[int], axis: int | None) -> str | None:
    """How an epilogue indexes an operand of a result of this shape: full, channel, scalar, or None for not at all."""
    found = shape_of(value)
    if found == tuple(shape):
        return "full"
    if all(dim == 1 for dim in found):
        return "scalar"
    if axis is None or len(found) > len(shape):
        return None
    aligned = (1,) * (len(shape) - len(found)) + found
    wanted = [1] * len(shape)
    wanted[axis] = shape[axis]
    return "channel" if aligned == tuple(wanted) else None


def _region(node: ir.Node, anchors: Anchors, order: Mapping[ir.Node, int], taken: set[ir.Node]) -> Region:
    known = anchors if node.domain in ("", "ai.onnx", "sparsec") else {}
    accepts, axis = known.get(node.op_type, (None, None))
    anchored = accepts is not None and accepts(node)
    chain = not anchored and (is_elementwise(node) or quantizer(node) is not None)
    if not chain and (not anchored or axis is None):
        return Region((node,), None, anchored)
    return Region(_grow(node, axis if anchored else None, anchored, order, taken), axis, anchored)


def _grow(
    first: ir.Node, axis: int | None, anchored: bool, order: Mapping[ir.Node, int], taken: set[ir.Node]
) -> tuple[ir.Node, ...]:
    """The longest closed set of nodes found by adding consumers in graph order."""
    members = [first]
    best = 1
    while len(members) < LIMIT and members[-1].op_type != "QuantizeLinear":
        waiting = {user for member in members for user in consumers_of(member.outputs[0])} - set(members)
        if not waiting or not waiting <= order.keys():
            break
        node = min(waiting, key=order.__getitem__)
        if node in taken or not _joins(node, members, axis, anchored):
            break
        members.append(node)
        best = len(members) if _closed(members) else best
    return tuple(members[:best])


def _joins(node: ir.Node, members: Sequence[ir.Node], axis: int | None, anchored: bool) -> bool:
    shape = shape_of(members[0].outputs[0])
    if not (is_elementwise(node) or quantizer(node) is not None) or shape_of(node.outputs[0]) != shape:
        return False
    inside = {member.outputs[0] for member in members}
    data = node.inputs[:1] if node.op_type == "QuantizeLinear" else node.inputs
    outside = [value for value in data if value is not None and value not in inside]
    return not anchored or all(operand_kind(value, shape, axis) is not None for value in outside)


def _closed(members: Sequence[ir.Node]) -> bool:
    inside = set(members)
    return all(
        not value.is_graph_output() and inside.issuperset(consumers_of(value))
        for member in members[:-1]
        for value in member.outputs[:1]
    )
