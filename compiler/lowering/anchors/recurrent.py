# SPDX-License-Identifier: Apache-2.0
"""LSTM, GRU and RNN with constant weights: one matrix product for all steps' inputs, then one cell call a step."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.compiler.graph import attribute, constant_of, shape_of
from sparsec.compiler.lowering import layout
from sparsec.compiler.lowering.anchors.anchor import Anchor, report_plain
from sparsec.compiler.lowering.emitter import Emitter, NoKernelError, View
from sparsec.compiler.lowering.expression import Builder
from sparsec.compiler.lowering.kernel import Array
from sparsec.compiler.lowering.ops import PLAIN, Epilogue, Linear, RecurrentCell
from sparsec.compiler.lowering.regions import Region

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def _directions(node: ir.Node) -> list[bool]:
    """Whether each direction runs backwards in time."""
    named = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    return named[attribute(node, "direction", "forward")]


def accepts(node: ir.Node) -> bool:
    """Weights known now, the default activations, full sequences, time first, no clipping, no peepholes."""
    given = [*node.inputs, *[None] * 8][:8]
    _, weight, recurrence, bias, lengths, _, _, peepholes = given
    known = all(constant_of(value) is not None for value in (weight, recurrence))
    known = known and (bias is None or constant_of(bias) is not None)
    functions = attribute(node, "activations") or _ACTIVATIONS[node.op_type]
    default = list(functions) == _ACTIVATIONS[node.op_type] * len(_directions(node))
    special = any(attribute(node, name) for name in ("clip", "layout", "input_forget"))
    values = [v for v in (*node.inputs[:4], *node.inputs[5:], *node.outputs) if v is not None and v.name]
    return known and default and not special and lengths is None and peepholes is None and _float(values)


def _float(values: list[ir.Value]) -> bool:
    return all(value.dtype == ir.DataType.FLOAT for value in values)


@dataclass(frozen=True, slots=True)
class _Direction:
    """One direction's cell and constants: weights [gates*hidden][...], biases [gates*hidden] and [hidden] or None."""

    cell: RecurrentCell
    weight: Array
    recurrence: Array
    input_bias: Array
    recurrent_bias: Array | None


def emit(emitter: Emitter, region: Region) -> None:
    """Direction by direction, sequence by sequence."""
    node = region.nodes[0]
    assert node.inputs[0] is not None
    steps, batch, _ = shape_of(node.inputs[0])
    directions = _directions(node)
    row = 4 * attribute(node, "hidden_size")
    states = _output(emitter, node, 0) or emitter.scratch(steps * len(directions) * batch * row)
    finals = [_output(emitter, node, place) for place in (1, 2)]
    price = 0.0
    for number, backwards in enumerate(directions):
        direction = _direction(node, number)
        projected, cost = _project(emitter, region, direction, steps * batch)
        order = list(reversed(range(steps))) if backwards else list(range(steps))
        for sequence in range(batch):
            slot = number * batch + sequence
            inputs = [projected.at((step * batch + sequence) * direction.weight.shape[0] * 4) for step in order]
            places = [states.at((step * len(directions) * batch + slot) * row) for step in order]
            starts = [_initial(emitter, node, place, slot * row) for place in (5, 6)]
            ends = [None if final is None else final.at(slot * row) for final in finals]
            cost += _walk(emitter, region, direction, inputs, places, starts, ends)
        price += cost
    report_plain(emitter, region, "recurrent", price)


def _direction(node: ir.Node, number: int) -> _Direction:
    hidden, gates = attribute(node, "hidden_size"), _GATES[node.op_type]
    weight, recurrence = (constant_of(value) for value in node.inputs[1:3])
    bias = constant_of(node.inputs[3]) if len(node.inputs) > 3 else None
    assert weight is not None
    assert recurrence is not None
    ours = np.zeros((2, gates * hidden), np.float32) if bias is None else bias[number].reshape(2, -1).copy()
    separate = node.op_type == "GRU" and bool(attribute(node, "linear_before_reset", 0))
    inner = ours[1, 2 * hidden :].copy() if separate else None
    if separate:
        ours[1, 2 * hidden :] = 0
    cell = RecurrentCell(node.op_type.lower(), hidden, separate)
    return _Direction(cell, weight[number], recurrence[number], ours.sum(axis=0), inner)


def _project(emitter: Emitter, region: Region, direction: _Direction, rows: int) -> tuple[View, float]:
    """The inputs of all steps through the input weights, biases added: float32 [rows][gates*hidden]."""
    b = Builder()
    epilogue = Epilogue(b.build(b.call("add", b.arg(0), b.arg(1))), ("channel",))
    op = Linear("float32", rows, direction.weight.shape[1], direction.weight.shape[0], epilogue)
    plain = {False: 0.0, True: 1e12}
    choice = emitter.choose(
        op, direction.weight, relayout=lambda spec: plain[spec.output != PLAIN or spec.inputs[0] != PLAIN]
    )
    assert choice is not None, op
    packed = emitter.pack(choice.spec, direction.weight)
    source = region.nodes[0].inputs[0]
    assert source is not None
    target = emitter.scratch(rows * op.outputs * 4)
    bias = [emitter.constant(direction.input_bias)]
    emitter.call_packed(packed, emitter.read(source, layout.PLAIN), bias, target, region.name)
    return target, choice.price


def _walk(
    emitter: Emitter,
    region: Region,
    direction: _Direction,
    inputs: list[View],
    places: list[View],
    starts: list[View],
    ends: list[View | None],
) -> float:
    """The steps of one sequence, each from the state that the one before wrote; then its last states."""
    choice = emitter.choose(direction.cell)
    if choice is None:
        msg = f"Layer '{region.name}': target '{emitter.backend.name}' has no kernel for {direction.cell}."
        raise NoKernelError(msg)
    packed = list(emitter.backend.kernels[choice.spec.family].pack(choice.spec, direction.recurrence))
    extra = [] if direction.recurrent_bias is None else [direction.recurrent_bias]
    constants = [emitter.constant(array) for array in (*packed, *extra)]
    row, carries = 4 * direction.cell.hidden, direction.cell.kind == "lstm"
    state, carry = starts
    for source, place in zip(inputs, places, strict=True):
        carried = [carry, emitter.scratch(row)] if carries else []
        emitter.call(choice.spec, [source, *constants, state, place, *carried], region.name)
        state, carry = place, carried[1] if carries else carry
    for last, end in zip((state, carry), ends, strict=True):
        if end is not None:
            emitter.run(layout.copy("float32", direction.cell.hidden), [last, end], region.name)
    return choice.price * len(inputs)


def _initial(emitter: Emitter, node: ir.Node, place: int, offset: int) -> View:
    value = node.inputs[place] if len(node.inputs) > place else None
    if value is None:
        return emitter.constant(np.zeros(attribute(node, "hidden_size"), np.float32))
    return emitter.read(value).at(offset)


def _output(emitter: Emitter, node: ir.Node, place: int) -> View | None:
    value = node.outputs[place] if len(node.outputs) > place else None
    return emitter.make(value) if value is not None and value.name else None


ANCHORS = {name: Anchor(accepts, emit) for name in _GATES}
