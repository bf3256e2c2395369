# SPDX-License-Identifier: Apache-2.0
"""Activations on a grid of 7-bit codes: Clip, QuantizeLinear and DequantizeLinear behind a value.

All readers of a value in its own graph share one pair, with codes 0..127 in uint8; nested graphs read the value
itself. The Clip keeps ONNX's own 8-bit rounding inside these codes, unless a Clip that is already there does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from sparsec.compiler.graph import free_name, scalar_of, source_of, value_names
from sparsec.passes.ranges import Grid

_ROOMY = 1.25
"""A Clip that is already there sets the range if it is at most this much wider than what calibration saw."""


def quantize_value(graph: ir.Graph, value: ir.Value, ends: tuple[float, float]) -> None:
    """Put a value onto a grid of 7-bit codes: all nodes of the graph that read it now read the dequantized codes.

    Graph outputs stay as they are, and so does what nested graphs read.

    Args:
        graph: The graph that owns the value.
        value: A float32 value.
        ends: Least and greatest number that the codes have to reach.
    """
    grid, clips = _grid(value, ends)
    maker = _Maker(graph, value)
    readers = [(node, index) for node, index in value.uses() if node.graph is graph]
    scale, zero = maker.scalar("scale", grid.scale), maker.scalar("zero_point", np.uint8(grid.zero_point))
    source = value
    if clips:
        source = maker.node("Clip", [value, maker.scalar("low", grid.low), maker.scalar("high", grid.high)], "clip")
    codes = maker.node("QuantizeLinear", [source, scale, zero], "codes")
    result = maker.node("DequantizeLinear", [codes, scale, zero], "dequantized")
    for node, index in readers:
        node.replace_input_with(index, result)
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], maker.nodes)
    else:
        graph.insert_after(producer, maker.nodes)


def _grid(value: ir.Value, ends: tuple[float, float]) -> tuple[Grid, bool]:
    """The grid, and whether a Clip is needed: not after one whose bounds are close to the range seen."""
    clip = source_of(value, "Clip")
    bounds = [scalar_of(bound) for bound in clip.inputs[1:3]] if clip else []
    low, high = bounds if len(bounds) == 2 else (None, None)
    if low is not None and high is not None and high > low:
        grid = Grid.over(low, high)
        if grid.holds(low, high) and high - low <= _ROOMY * (max(ends[1], 0.0) - min(ends[0], 0.0)):
            return grid, False
    return Grid.over(*ends), True


@dataclass(slots=True)
class _Maker:
    """Makes the nodes and constants around one value, named after it."""

    graph: ir.Graph
    value: ir.Value
    nodes: list[ir.Node] = field(default_factory=list)
    taken: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.taken = value_names(self.graph)

    def scalar(self, role: str, number: np.generic) -> ir.Value:
        name = free_name(f"{self.value.name}.{role}", self.taken)
        made = ir.val(name, const_value=ir.tensor(np.asarray(number), name=name))
        self.graph.register_initializer(made)
        return made

    def node(self, op_type: str, inputs: Sequence[ir.Value], role: str) -> ir.Value:
        name = free_name(f"{self.value.name}.{_VERBS[op_type]}", {str(node.name) for node in self.graph})
        node = ir.node(op_type, inputs, name=name)
        output = node.outputs[0]
        output.name, output.shape = free_name(f"{self.value.name}.{role}", self.taken), self.value.shape
        output.type = ir.TensorType(ir.DataType.UINT8 if role == "codes" else ir.DataType.FLOAT)
        self.nodes.append(node)
        return output


_VERBS = {"Clip": "clip", "QuantizeLinear": "quantize", "DequantizeLinear": "dequantize"}
