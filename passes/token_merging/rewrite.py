# SPDX-License-Identifier: Apache-2.0
"""Puts token merging into a graph: merges behind attentions, shorter shapes after them, all tokens where it takes them.

One walk in graph order. Behind the residual sum of each block that merges come MatchTokens and MergeTokens. What
follows works on fewer tokens: shapes and the constants of Reshape shrink, and attention gets the logarithm of each
token's size as a bias, which stands in for the mask where there was one. A node that mixes tokens is fed with all of
them again by UnmergeTokens.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from sparsec.compiler.graph import shape_of
from sparsec.compiler.layers import layer_name
from sparsec.compiler.tokens import (
    DOMAIN,
    MATCH,
    MERGE,
    OPERATORS,
    UNMERGE,
    add_functions,
    is_token_operator,
    set_shapes,
)
from sparsec.passes.token_merging.axes import Axes, Shape, Tokens, token_axes
from sparsec.passes.token_merging.blocks import Block, ancestors, last_token_read

MASKED = -1e4
"""The bias of padding; its exponential is 0 in float32."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    Attributes:
        counts: How many tokens merge behind each block, in graph order; 0 for none.
        protected: Tokens at the front that never merge.
        proportional: Whether attention counts a token as often as it has members.
        unmerge: ``auto``, ``always`` or ``never``.
        metric: ``keys`` or ``tokens``.
    """

    counts: Mapping[Block, int]
    protected: int
    proportional: bool
    unmerge: str
    metric: str


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The tokens after a merge.

    Attributes:
        count: How many there are.
        size: How many original tokens each stands for, float32 [batch, count, 1].
        trace: The place of each original token among them, int64 [batch, tokens]; None before the first merge.
    """

    count: int
    size: ir.Value
    trace: ir.Value | None


Refuse = Callable[[str, str], Exception]
"""The error for a layer and a reason."""


def rewrite(model: ir.Model, blocks: list[Block], plan: Plan, refuse: Refuse) -> None:
    """Put merges into a model, in place.

    Args:
        model: Static shapes.
        blocks: All of its self-attentions, in graph order.
        plan: What to do.
        refuse: Makes the error for a layer.

    Raises:
        PassError: By `refuse`, where merged tokens meet something that needs all of them, and may not get them.
    """
    walk = _Walk(model.graph, blocks, plan, refuse)
    for node in list(model.graph):
        walk.visit(node)
    walk.deliver()
    model.graph.sort()
    common.RemoveUnusedNodesPass()(model)
    add_functions(model, tuple(n for n in OPERATORS if any(is_token_operator(node, n) for node in model.graph)))


@dataclass(slots=True)
class _Walk:
    """The graph while it changes; `shapes` are those before any token merged, `axes` and `states` of merged tokens."""

    graph: ir.Graph
    blocks: list[Block]
    plan: Plan
    refuse: Refuse
    shapes: dict[ir.Value, Shape] = field(default_factory=dict)
    axes: dict[ir.Value, Axes] = field(default_factory=dict)
    states: dict[ir.Value, State] = field(default_factory=dict)
    biases: dict[State, ir.Value] = field(default_factory=dict)
    whole: dict[ir.Value, ir.Value] = field(default_factory=dict)
    attending: set[ir.Node] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        values = [*self.graph.inputs, *self.graph.initializers.values()]
        values += [value for node in self.graph for value in node.outputs]
        self.shapes.update((value, shape_of(value)) for value in values if value.shape is not None)
        self.names.update(str(value.name) for value in values)
        self.names.update(str(node.name) for node in self.graph)
        self.attending.update(ancestors([block.softmax.outputs[0] for block in self.blocks]))

    def visit(self, node: ir.Node) -> None:
        """Shorten what a node computes, or feed it with all tokens; then merge, if a block ends with it."""
        self._tell_sizes(node)
        if any(value in self.states for value in node.inputs):
            axes = self._axes_after(node)
            if axes is None:
                self._feed(node)
            else:
                self._shorten(node, axes)
        block = next((b for b in self.blocks if b.residual is node and self.plan.counts.get(b)), None)
        if block is not None:
            self._merge(block)

    def deliver(self) -> None:
        """Outputs of the model have all tokens."""
        for index, value in enumerate(self.graph.outputs):
            if value in self.states:
                self._may_unmerge(str(value.name), "it is an output of the model")
                self._take_output(index, value, self._unmerged(value))

    def _take_output(self, index: int, old: ir.Value, new: ir.Value) -> None:
        name = old.name
        old.name, new.name = self._free(f"{name}.merged"), name
        self.graph.outputs[index] = new

    def _axes_after(self, node: ir.Node) -> list[Axes] | None:
        states = {self.states[value] for value in node.inputs if value in self.states}
        attends = any(node in (block.softmax, block.context) for block in self.blocks)
        return token_axes(node, Tokens(self.shapes, self.axes), contracts=attends) if len(states) == 1 else None

    def _shorten(self, node: ir.Node, axes: list[Axes]) -> None:
        state = next(self.states[value] for value in node.inputs if value in self.states)
        for value, own in zip(node.outputs, axes, strict=True):
            if not own:
                continue
            shape = [state.count if axis in own else size for axis, size in enumerate(self.shapes[value])]
            value.shape = ir.Shape(shape)
            self.axes[value], self.states[value] = own, state
            if node.op_type == "Reshape":
                node.replace_input_with(1, self._constant(f"{layer_name(node)}.shape", shape))

    def _feed(self, node: ir.Node) -> None:
        """Give a node all tokens, unless it reads protected ones only."""
        if self.plan.unmerge != "always" and self._reads_protected(node):
            return
        if node in self.attending:
            reason = (
                f"{node.op_type} needs every token in its place, yet more attention follows it. "
                "Tokens merge only where all that lies between two attentions treats each token by itself."
            )
            raise self.refuse(layer_name(node), reason)
        self._may_unmerge(layer_name(node), f"{node.op_type} needs every token in its place")
        for index, value in enumerate(node.inputs):
            if value is not None and value in self.states:
                node.replace_input_with(index, self._unmerged(value))

    def _may_unmerge(self, layer: str, why: str) -> None:
        if self.plan.unmerge == "never":
            raise self.refuse(layer, f"{why}, but option 'unmerge' is never. Choose unmerge=auto.")

    def _reads_protected(self, node: ir.Node) -> bool:
        value = node.inputs[0]
        axes = self.axes.get(value, ()) if value is not None else ()
        if node.op_type not in ("Gather", "Slice") or len(axes) != 1 or any(v in self.states for v in node.inputs[1:]):
            return False
        last = last_token_read(node, axes[0])
        return last is not None and last < self.plan.protected

    def _merge(self, block: Block) -> None:
        """MatchTokens and MergeTokens behind a residual sum; all its readers get what is left."""
        value, name, count = block.residual.outputs[0], layer_name(block.residual), self.plan.counts[block]
        users, output = list(value.uses()), value.is_graph_output()
        state = self.states.get(value) or self._start(block)
        metric = value if self.plan.metric == "tokens" else self._mean_key(block)
        options = {"r": count, "protected": self.plan.protected}
        (slot,) = self._call(MATCH, f"{name}.match", [metric, state.size], options)
        merged, size = self._call(MERGE, f"{name}.merge", [value, state.size, slot], {"r": count})
        trace = slot if state.trace is None else self._call(UNMERGE, f"{name}.trace", [slot, state.trace])[0]
        for user, index in users:
            user.replace_input_with(index, merged)
        if output:
            self._take_output(self.graph.outputs.index(value), value, merged)
        self.shapes[merged], self.axes[merged] = self.shapes[value], (1,)
        self.states[merged] = State(state.count - count, size, trace)

    def _start(self, block: Block) -> State:
        """All tokens, each of size 1; with a mask, of the exponential of its bias: 0 for padding."""
        batch, tokens, _ = block.shape
        if block.bias is None:
            return State(tokens, self._constant("tokens.size", np.ones((batch, tokens, 1), np.float32)), None)
        bias, rank = block.bias, len(self.shapes[block.bias])
        repeated = [axis for axis in range(max(rank - 3, 0), rank - 1) if self.shapes[bias][axis] > 1]
        for axis in repeated:
            bounds = [self._constant("tokens.bound", [number]) for number in (0, 1, axis)]
            shape = [1 if a == axis else side for a, side in enumerate(shape_of(bias))]
            bias = self._add("Slice", "tokens.bias", [bias, *bounds], shape)
        rows = math.prod(shape_of(bias)) // tokens
        size = self._add("Exp", "tokens.size", [self._shaped(bias, [rows, tokens, 1])], [rows, tokens, 1])
        if rows != batch:
            shape = [batch, tokens, 1]
            size = self._add("Expand", "tokens.sizes", [size, self._constant("tokens.shape", shape)], shape)
        return State(tokens, size, None)

    def _mean_key(self, block: Block) -> ir.Value:
        """The mean of the heads' keys, [batch, tokens, depth]."""
        name, shape = layer_name(block.residual), shape_of(block.keys)
        single = len(shape) == 3
        mean = [1 if single else shape[0], *shape[-2:]]
        heads = self._constant("tokens.heads", [len(shape) - 3])
        value = self._add("ReduceMean", f"{name}.key", [block.keys, heads], mean, {"keepdims": int(single)})
        return self._add("Transpose", f"{name}.metric", [value], [mean[0], mean[2], mean[1]], {"perm": [0, 2, 1]})

    def _tell_sizes(self, node: ir.Node) -> None:
        """Let an attention over merged tokens know their sizes: in the place of its mask, or in a sum of its own."""
        block = next((b for b in self.blocks if node is (b.masked or b.softmax)), None)
        main = next((v for v in node.inputs if v is not None and v in self.states), None)
        if block is None or main is None:
            return
        state, rank = self.states[main], len(self.shapes[main])
        if block.masked is not None:
            index = next(i for i, value in enumerate(node.inputs) if value is block.bias)
            node.replace_input_with(index, self._bias_of(state, rank, block))
        elif self.plan.proportional:
            total = self._add("Add", f"{block.name}.sized", [main, self._bias_of(state, rank, block)], shape_of(main))
            self.shapes[total], self.axes[total], self.states[total] = self.shapes[main], self.axes[main], state
            node.replace_input_with(0, total)

    def _bias_of(self, state: State, rank: int, block: Block) -> ir.Value:
        """log(size) as [batch, 1, 1, count], at least `MASKED`; without proportional attention, the mask alone."""
        if state in self.biases:
            return self.biases[state]
        (batch, count, _), name, value = shape_of(state.size), str(state.size.name), state.size
        if not self.plan.proportional:
            one = self._constant("tokens.one", np.float32(1))
            value = self._add("Min", f"{name}.present", [value, one], [batch, count, 1])
        value = self._add("Log", f"{name}.log", [value], [batch, count, 1])
        if block.bias is not None:
            floor = self._constant("tokens.masked", np.float32(MASKED))
            value = self._add("Max", f"{name}.floor", [value, floor], [batch, count, 1])
        value = self._shaped(value, [batch, 1, 1, count][4 - rank :])
        self.shapes[value] = (*shape_of(value)[:-1], block.shape[1])
        self.axes[value], self.states[value] = (rank - 1,), state
        self.biases[state] = value
        return value

    def _unmerged(self, value: ir.Value) -> ir.Value:
        """A value with all tokens: they are brought to axis 1, taken from their places, and brought back."""
        if value in self.whole:
            return self.whole[value]
        axes, trace, shape, name = self.axes[value], self.states[value].trace, self.shapes[value], str(value.name)
        assert trace is not None
        batch = shape_of(trace)[0]
        flat = axes == (0,) and batch == 1
        if len(axes) != 1 or not (flat or (axes[0] > 0 and shape[0] == batch)):
            reason = (
                "it is needed whole, but its tokens do not stand along one axis behind the batch, so that they cannot "
                "be un-merged. Add the blocks before it to 'ignore'."
            )
            raise self.refuse(name, reason)
        order = [0, axes[0], *(axis for axis in range(1, len(shape)) if axis != axes[0])]
        source = self._shaped(value, [1, *shape_of(value)]) if flat else self._turned(value, [] if flat else order)
        (full,) = self._call(UNMERGE, f"{name}.unmerge", [source, trace])
        full = (
            self._shaped(full, list(shape)) if flat else self._turned(full, [order.index(a) for a in range(len(order))])
        )
        self.whole[value] = full
        return full

    def _turned(self, value: ir.Value, order: list[int]) -> ir.Value:
        if order == sorted(order):
            return value
        shape = [shape_of(value)[axis] for axis in order]
        return self._add("Transpose", f"{value.name}.turned", [value], shape, {"perm": order})

    def _shaped(self, value: ir.Value, shape: list[int]) -> ir.Value:
        constant = self._constant(f"{value.name}.shape", shape)
        return self._add("Reshape", f"{value.name}.reshaped", [value, constant], shape)

    def _call(
        self, op_type: str, name: str, inputs: list[ir.Value], attributes: Mapping[str, Any] | None = None
    ) -> list[ir.Value]:
        """A node of domain ``sparsec``; its outputs."""
        node = self._node(op_type, name, inputs, attributes, DOMAIN, 2 if op_type == MERGE else 1)
        set_shapes(node)
        self.shapes.update((value, shape_of(value)) for value in node.outputs)
        return list(node.outputs)

    def _add(
        self,
        op_type: str,
        name: str,
        inputs: list[ir.Value],
        shape: Sequence[int],
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        """A standard node whose result has the type of its first input."""
        value = self._node(op_type, name, inputs, attributes, "", 1).outputs[0]
        value.shape, value.type = ir.Shape(shape), inputs[0].type
        self.shapes[value] = tuple(shape)
        return value

    def _node(
        self,
        op_type: str,
        name: str,
        inputs: list[ir.Value],
        attributes: Mapping[str, Any] | None,
        domain: str,
        outputs: int,
    ) -> ir.Node:
        """A node at the end of the graph, which is sorted when all is done."""
        node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=outputs, name=self._free(name))
        for number, value in enumerate(node.outputs):
            value.name = self._free(f"{name}.{number}" if number else name)
        self.graph.append(node)
        return node

    def _constant(self, name: str, array: Any) -> ir.Value:
        tensor = ir.tensor(np.asarray(array, np.int64) if isinstance(array, list) else np.asarray(array), name=name)
        value = ir.val(self._free(name), const_value=tensor)
        self.graph.register_initializer(value)
        self.shapes[value] = shape_of(value)
        return value

    def _free(self, name: str) -> str:
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name
