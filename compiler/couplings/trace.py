# SPDX-License-Identifier: Apache-2.0
"""What the rules of `rules` write into while a graph is walked: axes of values, and who uses them how."""

from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from sparsec.compiler.couplings.axes import ONE, Axis, cut, fix, mix, new_axis, size_of, unify
from sparsec.compiler.graph import shape_of
from sparsec.compiler.layers import layer_name

Part = Literal["output", "input", "group", "inner", "batch", "free"]
"""How a node uses an axis: as the outputs, inputs or groups of its weight; contracted, as a batch, or left over in a
product of two activations."""


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """A node's use of an axis."""

    part: Part
    node: ir.Node
    axis: Axis


@dataclass(slots=True, eq=False)
class Trace:
    """The state of the walk.

    Attributes:
        axes: Value -> its axes, for every value seen.
        uses: What weights and products do with axes.
        read: Values that each node read as data; whatever else it reads steers it.
        groups: Convolution -> the axis that its groups are.
        slices: Slice -> axis number -> what lies before the piece, and the piece.
    """

    axes: dict[ir.Value, list[Axis]] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    read: dict[ir.Node, set[ir.Value]] = field(default_factory=dict)
    groups: dict[ir.Node, Axis] = field(default_factory=dict)
    slices: dict[ir.Node, dict[int, tuple[Axis, Axis]]] = field(default_factory=dict)

    def of(self, node: ir.Node, index: int) -> list[Axis]:
        """The axes of a node's input, read as data; those of an absent one are none."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            return []
        self.read.setdefault(node, set()).add(value)
        return self.of_value(value)

    def of_value(self, value: ir.Value) -> list[Axis]:
        """The axes of a value; new ones if it was not seen before."""
        if value not in self.axes:
            self.axes[value] = [new_axis(side, "" if side else "it is empty") for side in shape_of(value)]
        return self.axes[value]

    def give(self, value: ir.Value, axes: list[Axis]) -> None:
        """Say what a node's output is made of."""
        found, wanted = tuple(map(size_of, axes)), shape_of(value)
        assert found == wanted, f"'{value.name}': its axes have sizes {found}, its shape is {wanted}"
        self.axes[value] = axes

    def fix_all(self, node: ir.Node, reason: str) -> None:
        """Forbid any change of what a node reads or writes."""
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.shape is not None:
                for axis in self.of_value(value):
                    fix(axis, reason)
        self.read[node] = {value for value in node.inputs if value is not None}

    def unify(self, one: Axis, two: Axis, node: ir.Node) -> Axis:
        """Make two axes one; an axis of one element is repeated along the other."""
        if size_of(one) == 1 or size_of(two) == 1:
            return two if size_of(one) == 1 else one
        unify(one, two, f"{title(node)} combines it with an axis that is cut otherwise")
        return one

    def use(self, part: Part, node: ir.Node, axis: Axis) -> None:
        """Record how a node uses an axis."""
        if axis is not ONE:
            self.uses.append(Use(part, node, axis))

    def cut(self, axis: Axis, start: int, end: int, node: ir.Node) -> tuple[Axis, Axis]:
        """What lies before a piece of an axis, and the piece."""
        reason = f"{title(node)} cuts it"
        head, _ = cut(axis, end, reason)
        return cut(head, start, reason)


def title(node: ir.Node) -> str:
    """A node in a reason: its operator and name."""
    return f"{node.op_type} '{layer_name(node)}'"


def fixed(axis: Axis, node: ir.Node, what: str) -> Axis:
    """Fix an axis for what a node does with it."""
    fix(axis, f"{title(node)} {what}")
    return axis


def mixed(axis: Axis, node: ir.Node, what: str) -> Axis:
    """Forbid removal for what a node does with an axis."""
    mix(axis, f"{title(node)} {what}")
    return axis
