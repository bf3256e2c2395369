# SPDX-License-Identifier: Apache-2.0
"""Cuts a model into blocks at values that all data flows through and that teacher and student have in common."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, prod

import onnx_ir as ir

from sparsec.compiler.graph import shape_of
from sparsec.compiler.layers import layer_name

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Piece:
    """A block between two cuts.

    Attributes:
        start: The value that enters it, besides inputs of the model; None for the first.
        ends: What it computes: one value, or the model's outputs.
        names: Initializers that its nodes read.
        layers: Names of its layers, in graph order.
    """

    start: str | None
    ends: tuple[str, ...]
    names: frozenset[str]
    layers: tuple[str, ...]


def cut_into_blocks(student: ir.Graph, teacher: ir.Graph) -> list[Piece]:
    """Blocks in the order of the data.

    A cut is a value through which all flows that weights have touched, in both graphs, of one name and shape; inputs
    of the model, and what is made of them without weights (masks), flow beside it into every block. Of cuts in a row
    without a layer between them the last counts; of the rest those that are no larger than the cut before, or than
    both neighbours: a sum on the residual stream, the end of an inverted residual, never its wide middle.

    Args:
        student: The compressed graph.
        teacher: The original one.
    """
    known = {str(value.name): shape_of(value) for value in _single(teacher)}
    cuts = [value for value in _single(student) if known.get(str(value.name)) == shape_of(value)]
    outputs = tuple(str(value.name) for value in student.outputs)
    narrow = [name for name in _narrow(_last_of_each(student, cuts)) if name not in outputs]
    return list(_pieces(student, narrow, outputs))


def _is_layer(node: ir.Node) -> bool:
    """Whether a node multiplies by a constant matrix."""
    if node.op_type not in _LAYERS or len(node.inputs) < 2:
        return False
    return node.inputs[1] is not None and node.inputs[1].const_value is not None


def _has_weights(node: ir.Node) -> bool:
    """Whether a node reads float32 constants with more than one element."""
    constants = [value.const_value for value in node.inputs if value is not None and value.const_value is not None]
    return any(constant.dtype == ir.DataType.FLOAT and constant.size > 1 for constant in constants)


def _single(graph: ir.Graph) -> list[ir.Value]:
    """Float32 values that, once computed, are all that is needed of what weights have touched so far."""
    flowing: set[ir.Value] = set()
    left: dict[ir.Value, int] = {}
    found = []
    for node in graph:
        sources = [value for value in node.inputs if value is not None]
        moved = _has_weights(node) or any(value in flowing for value in sources)
        for value in sources:
            if value in left:
                left[value] -= 1
        flowing = {value for value in flowing if left[value] > 0}
        for value in node.outputs if moved else ():
            left[value] = len(value.uses()) + value.is_graph_output()
            flowing |= {value} if left[value] else set()
        if moved and flowing == {node.outputs[0]} and _static(node.outputs[0]):
            found.append(node.outputs[0])
    return found


def _static(value: ir.Value) -> bool:
    return value.shape is not None and value.shape.is_static() and value.dtype == ir.DataType.FLOAT


def _last_of_each(graph: ir.Graph, cuts: list[ir.Value]) -> list[ir.Value]:
    """Of the cuts between two layers, the last."""
    kept: list[ir.Value] = []
    fresh = True
    for node in graph:
        fresh = fresh or _is_layer(node)
        if node.outputs[0] in cuts:
            kept = [*(kept if fresh else kept[:-1]), node.outputs[0]]
            fresh = False
    return kept


def _narrow(cuts: list[ir.Value]) -> list[str]:
    """Those no larger than the last one kept, or than the one before and the one after."""
    sizes = [prod(shape_of(value)) for value in cuts]
    kept: list[str] = []
    room = inf
    for index, value in enumerate(cuts):
        beside = sizes[max(0, index - 1) : index + 2]
        if sizes[index] <= max(room, min(beside)):
            kept.append(str(value.name))
            room = sizes[index]
    return kept


def _pieces(graph: ir.Graph, cuts: list[str], outputs: tuple[str, ...]) -> Iterator[Piece]:
    start: str | None = None
    names: set[str] = set()
    layers: list[str] = []
    for node in graph:
        names |= {str(value.name) for value in node.inputs if value is not None and value.is_initializer()}
        layers += [layer_name(node)] if _is_layer(node) else []
        ended = next((str(value.name) for value in node.outputs if value.name in cuts), None)
        if ended is not None:
            yield Piece(start, (ended,), frozenset(names), tuple(layers))
            start, names, layers = ended, set(), []
    yield Piece(start, outputs, frozenset(names), tuple(layers))
