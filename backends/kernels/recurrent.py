# SPDX-License-Identifier: Apache-2.0
"""One step of LSTM, GRU or RNN: the recurrent product of all gates and what follows it, block by block of units.

A block is a few vectors of neighbouring units. Its weights are packed [inputs][gates][units], so that they stream
once, and its gates meet in registers. The new state h must not lie where the old one is; c may.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.cost import nbytes, streaming
from sparsec.backends.kernels.dot import multiply_add
from sparsec.backends.kernels.rows import once
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import PLAIN, Op, RecurrentCell

Expr = Any
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
_VECTORS = {"lstm": 2, "gru": 2, "rnn": 4}
"""Vectors of a block, so that enough independent sums are under way and all stay in registers."""
_OPERATIONS = 100
"""Vector instructions of a unit's activation functions."""


class RecurrentKernel:
    """Kernel of `RecurrentCell`; the function's parameters are those of the op, in its order.

    A GRU whose reset gate works before the product has two packed weights: update and reset gate, then hidden gate.
    """

    family = "recurrent"

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """One spec; its tile is (lanes, vectors of a block)."""
        if not isinstance(op, RecurrentCell):
            return []
        operands = 2 + op.linear_before_reset + (op.kind == "lstm")
        return [KernelSpec(self.family, op, tile=(lanes, _VECTORS[op.kind]), inputs=(PLAIN,) * operands)]

    def prepare(self, spec: KernelSpec) -> KernelSpec | None:
        """Activations are read as they are."""
        return None

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """See `sparsec.compiler.lowering.kernel.Kernel`."""
        op: RecurrentCell = spec.op  # type: ignore[assignment]
        unit, square = ("float32", op.hidden), op.hidden * op.hidden
        weights = [("float32", gates * square) for gates in _products(op)]
        states = [unit] * ((4 if op.kind == "lstm" else 2) + op.linear_before_reset)
        code = _Cell(op, isa, spec.tile)
        return emit.function([("float32", GATES[op.kind] * op.hidden), *weights, *states], code.emit)

    def pack(self, spec: KernelSpec, weight: Array) -> Sequence[Array]:
        """From [gates * hidden][hidden]: for each product, the blocks behind each other."""
        op: RecurrentCell = spec.op  # type: ignore[assignment]
        gates = weight.reshape(-1, op.hidden, op.hidden)
        return [_packed(part, spec) for part in np.split(gates, np.cumsum(_products(op))[:-1])]

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """From x, recurrent bias where there is one, h and (LSTM) c: the new h, for LSTM [2][hidden] with the new c."""
        op: RecurrentCell = spec.op  # type: ignore[assignment]
        assert weight is not None
        x, *rest = (operand.astype(np.float64) for operand in operands)
        recurrent = weight.astype(np.float64).reshape(-1, op.hidden, op.hidden)
        return np.asarray(_REFERENCES[op.kind](op, x.reshape(-1, op.hidden), recurrent, *rest), np.float32)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """The weights streamed once, or the arithmetic."""
        op: RecurrentCell = spec.op  # type: ignore[assignment]
        elements = GATES[op.kind] * op.hidden * op.hidden
        return streaming(profile, nbytes("float32", elements), elements + _OPERATIONS * op.hidden)


def _products(op: RecurrentCell) -> tuple[int, ...]:
    """How many gates each matrix product has."""
    return (2, 1) if op.kind == "gru" and not op.linear_before_reset else (GATES[op.kind],)


@dataclass(frozen=True, slots=True)
class _Run:
    """Blocks of one width: first unit, units a block, number of blocks."""

    start: int
    width: int
    count: int


def _runs(hidden: int, tile: tuple[int, ...]) -> list[_Run]:
    """All units, in blocks as wide as possible: the tile, one register, four lanes, one."""
    lanes, vectors = tile
    runs, start = [], 0
    for width in dict.fromkeys((lanes * vectors, lanes, 4, 1)):
        count = (hidden - start) // width
        runs += [_Run(start, width, count)] if count else []
        start += count * width
    return runs


def _packed(gates: Array, spec: KernelSpec) -> Array:
    """[gates][units][inputs] to blocks of [inputs][gates][units]."""
    hidden = gates.shape[2]
    starts = [(run.start + i * run.width, run.width) for run in _runs(hidden, spec.tile) for i in range(run.count)]
    blocks = [gates[:, start : start + width].transpose(2, 0, 1).reshape(-1) for start, width in starts]
    return np.ascontiguousarray(np.concatenate(blocks), np.float32)


Finish = Callable[[Expr, int, list[Expr]], None]
"""What follows for one vector of units: first unit, lanes, the sum of each gate."""


@dataclass(frozen=True, slots=True)
class _Cell:
    op: RecurrentCell
    isa: Isa
    tile: tuple[int, ...]

    def emit(self, *arrays: Expr) -> None:
        """The whole step."""
        gru = self._gru_linear if self.op.linear_before_reset else self._gru
        kinds: dict[str, Callable[..., None]] = {"lstm": self._lstm, "rnn": self._rnn, "gru": gru}
        kinds[self.op.kind](*arrays)

    def _lstm(self, x: Expr, weight: Expr, old: Expr, new: Expr, carry: Expr, carried: Expr) -> None:
        def finish(at: Expr, lanes: int, sums: list[Expr]) -> None:
            take, give, keep = (once(tirx.sigmoid(value)) for value in sums[:3])
            kept = once(keep * vector.load(carry, at, lanes))
            value = once(kept + take * once(tirx.tanh(sums[3])))
            emit.store(carried, at, value)
            emit.store(new, at, give * once(tirx.tanh(value)))

        self._product(weight, old, [(x, gate) for gate in range(4)], finish)

    def _rnn(self, x: Expr, weight: Expr, old: Expr, new: Expr) -> None:
        self._product(weight, old, [(x, 0)], lambda at, _, sums: emit.store(new, at, tirx.tanh(sums[0])))

    def _gru(self, x: Expr, weight: Expr, last: Expr, old: Expr, new: Expr) -> None:
        update, masked = (T.alloc_buffer((self.op.hidden,), "float32") for _ in range(2))

        def first(at: Expr, lanes: int, sums: list[Expr]) -> None:
            emit.store(update, at, tirx.sigmoid(sums[0]))
            emit.store(masked, at, once(tirx.sigmoid(sums[1])) * vector.load(old, at, lanes))

        def second(at: Expr, lanes: int, sums: list[Expr]) -> None:
            share = once(vector.load(update, at, lanes))
            _interpolate(new, at, once(tirx.tanh(sums[0])), once(vector.load(old, at, lanes)), share)

        self._product(weight, old, [(x, 0), (x, 1)], first)
        self._product(last, masked, [(x, 2)], second)

    def _gru_linear(self, x: Expr, weight: Expr, bias: Expr, old: Expr, new: Expr) -> None:
        def finish(at: Expr, lanes: int, sums: list[Expr]) -> None:
            share, reset = (once(tirx.sigmoid(value)) for value in sums[:2])
            inner = once(vector.load(x, at + 2 * self.op.hidden, lanes) + reset * sums[2])
            _interpolate(new, at, once(tirx.tanh(inner)), once(vector.load(old, at, lanes)), share)

        self._product(weight, old, [(x, 0), (x, 1), (bias, 0)], finish)

    def _product(self, weight: Expr, state: Expr, starts: Sequence[tuple[Expr, int]], finish: Finish) -> None:
        """Each gate's start (an array, and which part of it) plus weights times state; then `finish`."""
        for run in _runs(self.op.hidden, self.tile):
            with emit.loop(run.count) as i:
                at = emit.bind(tirx.convert(run.start + i * run.width))
                self._block(weight, state, starts, finish, at, run.width)

    def _block(
        self, weight: Expr, state: Expr, starts: Sequence[tuple[Expr, int]], finish: Finish, at: Expr, width: int
    ) -> None:
        hidden, gates, lanes = self.op.hidden, len(starts), min(width, self.tile[0])
        parts = range(0, width, lanes)
        begin = [vector.load(x, part * hidden + at + v, lanes) for x, part in starts for v in parts]
        sums = emit.Registers(len(begin), "float32", lanes, begin)
        base = emit.bind(at * (gates * hidden))
        with emit.loop(hidden) as k:
            source = once(vector.splat(state[k], lanes))
            row = emit.bind(base + k * (gates * width))
            for j in range(len(begin)):
                sums[j] = multiply_add(self.isa, source, vector.load(weight, row + j * lanes, lanes), sums[j])
        for v in parts:
            finish(at + v, lanes, [sums[gate * len(parts) + v // lanes] for gate in range(gates)])


def _interpolate(target: Expr, at: Expr, fresh: Expr, old: Expr, share: Expr) -> None:
    """(1 - share) * fresh + share * old."""
    emit.store(target, at, fresh + share * once(old - fresh))


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _lstm_reference(_op: RecurrentCell, x: Array, weight: Array, h: Array, c: Array) -> Array:
    take, give, keep, fresh = x + weight @ h
    carried = _sigmoid(keep) * c + _sigmoid(take) * np.tanh(fresh)
    return np.stack([_sigmoid(give) * np.tanh(carried), carried])


def _gru_reference(op: RecurrentCell, x: Array, weight: Array, *states: Array) -> Array:
    h = states[-1]
    share, reset = _sigmoid(x[:2] + weight[:2] @ h)
    inner = reset * (weight[2] @ h + states[0]) if op.linear_before_reset else weight[2] @ (reset * h)
    return np.asarray((1 - share) * np.tanh(x[2] + inner) + share * h)


def _rnn_reference(_op: RecurrentCell, x: Array, weight: Array, h: Array) -> Array:
    return np.asarray(np.tanh(x[0] + weight[0] @ h))


_REFERENCES: dict[str, Callable[..., Array]] = {"lstm": _lstm_reference, "gru": _gru_reference, "rnn": _rnn_reference}
