# SPDX-License-Identifier: Apache-2.0
"""From a graph to the list of torch calls that computes some of its values from others."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from sparsec.compiler.errors import ModelError, UnsupportedError
from sparsec.compiler.executor.arithmetic import ARITHMETIC
from sparsec.compiler.executor.layers import LAYERS
from sparsec.compiler.executor.movement import MOVEMENT
from sparsec.compiler.executor.quantization import QUANTIZATION, fake_quantize
from sparsec.compiler.graph import scalar_of, source_of
from sparsec.compiler.layers import layer_name

OPERATORS: Mapping[str, Callable[..., Any]] = {**ARITHMETIC, **MOVEMENT, **LAYERS, **QUANTIZATION}
"""Operator of the standard domain -> ``function(node, *inputs)``."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call.

    Attributes:
        function: ``function(node, *inputs)``.
        node: The node, for its attributes and its name.
        inputs: Names of values; None for an input that is left out.
        outputs: Names of what the call returns, one or several.
        done: Names of values that no later step needs.
    """

    function: Callable[..., Any]
    node: ir.Node
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    done: tuple[str, ...] = ()


def plan(graph: ir.Graph, given: Collection[str], wanted: Sequence[str]) -> tuple[Step, ...]:
    """The steps in graph order, none that is not needed.

    Args:
        graph: The graph.
        given: Names of values that will be there.
        wanted: Names of values to compute.

    Raises:
        ModelError: If a value is neither given, nor constant, nor computed.
        UnsupportedError: If an operator on the way has no counterpart in torch.
    """
    values = {str(value.name): value for value in _values(graph)}
    nodes = _needed(values, set(given), wanted)
    kept = {*given, *wanted}
    merged = {id(part): None for node in nodes for part in _pair(node, kept)[:-1]}
    steps = [_step(node, kept) for node in graph if node in nodes and id(node) not in merged]
    return tuple(_released(steps, kept))


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _needed(values: Mapping[str, ir.Value], given: set[str], wanted: Sequence[str]) -> set[ir.Node]:
    """The nodes between what is given and what is wanted."""
    nodes: set[ir.Node] = set()
    open_names = list(wanted)
    while open_names:
        name = open_names.pop()
        if name in given:
            continue
        value = values.get(name)
        producer = None if value is None else value.producer()
        if producer is None:
            if value is None or value.const_value is None:
                msg = f"Value '{name}' cannot be computed: it is not given, and no node of the graph computes it."
                raise ModelError(msg)
        elif producer not in nodes:
            nodes.add(producer)
            open_names += [str(source.name) for source in producer.inputs if source is not None]
    return nodes


def _pair(node: ir.Node, kept: Collection[str]) -> list[ir.Node]:
    """Clip (if there is one), QuantizeLinear and DequantizeLinear that nobody looks between; else nothing."""
    codes = node.inputs[0] if node.inputs else None
    quantize = source_of(codes, "QuantizeLinear") if node.op_type == "DequantizeLinear" else None
    if quantize is None or codes is None or not _private(codes, kept):
        return []
    ends = [(mine.name if mine else None) for mine in node.inputs[1:]]
    if ends != [(theirs.name if theirs else None) for theirs in quantize.inputs[1:]]:
        return []
    if scalar_of(quantize.inputs[1]) is None:
        return []
    clip = source_of(quantize.inputs[0], "Clip")
    clipped = clip is not None and _private(clip.outputs[0], kept)
    return [*([clip] if clip is not None and clipped else []), quantize, node]


def _private(value: ir.Value, kept: Collection[str]) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output() and value.name not in kept


def _step(node: ir.Node, kept: Collection[str]) -> Step:
    chain = _pair(node, kept)
    outputs = tuple(str(value.name) for value in node.outputs)
    if chain:
        first, quantize = chain[0], chain[-2]
        bounds = _names(first.inputs[1:3]) if first.op_type == "Clip" else ()
        scales = _names(quantize.inputs[1:])
        scales = scales if len(scales) == 2 else (*scales, None)
        return Step(_fake_quantize, node, (*_names(first.inputs[:1]), *scales, *bounds), outputs)
    function = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if function is None:
        domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
        msg = (
            f"Operator {domain}{node.op_type} of node '{layer_name(node)}' has no counterpart in torch. "
            "Run the pass without torch, or rewrite the model with operators that have one."
        )
        raise UnsupportedError(msg)
    return Step(function, node, _names(node.inputs), outputs)


def _fake_quantize(node: ir.Node, *inputs: Any) -> Any:
    return fake_quantize(*inputs)


def _names(values: Sequence[ir.Value | None]) -> tuple[str | None, ...]:
    return tuple(None if value is None else str(value.name) for value in values)


def _released(steps: Sequence[Step], kept: Collection[str]) -> list[Step]:
    """The steps, each with the values that it is the last to read."""
    seen: set[str] = set(kept)
    found: list[Step] = []
    for step in reversed(steps):
        last = {name for name in (*step.inputs, *step.outputs) if name is not None} - seen
        seen |= last
        found.append(Step(step.function, step.node, step.inputs, step.outputs, tuple(sorted(last))))
    return found[::-1]
