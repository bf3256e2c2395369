# SPDX-License-Identifier: Apache-2.0
"""The elementwise tail of a kernel: from accumulators in registers to what is stored.

`store_channels` serves results whose vectors run over positions ([C][N], or words of four channels), `store_quads`
those whose 16-byte lanes hold four channels of one position, `store_plain` those whose vectors run over the channel
(row-major tokens). Words of codes are taken apart by shifts, so that no lane moves; `codes` puts them together.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.arithmetic import FUNCTIONS
from sparsec.backends.kernels.codes import before_joining, joined, joined_quads
from sparsec.backends.kernels.transpose import transpose_words
from sparsec.compiler.lowering.expression import Expression
from sparsec.compiler.lowering.ops import Epilogue

Expr = Any


def evaluate(expression: Expression, args: Sequence[Expr], isa: Isa) -> Expr:
    """The expression on float32 vectors of equal length; each step is computed once, here."""
    lanes = vector.lanes_of(args[0])
    table = _NEON if isa.triple.startswith("aarch64") else _TABLE
    return expression.evaluate(args, table, lambda value: vector.const(value, "float32", lanes))


@dataclass(frozen=True, slots=True)
class Tail:
    """An epilogue with its arrays.

    Attributes:
        epilogue: What to compute.
        operands: One array an operand; codes as int32 words where the layout groups channels, else as uint8.
        output: float32; or int32 words (`store_channels`) or uint8 (`store_plain`) where codes are stored.
        isa: What the code is for.
    """

    epilogue: Epilogue
    operands: Sequence[Expr]
    output: Expr
    isa: Isa

    def store_channels(
        self, rows: Sequence[Sequence[Expr]], row: Expr, positions: int, at: Sequence[Expr], valid: Sequence[int] = ()
    ) -> None:
        """Finish and write a tile of channels x positions.

        Args:
            rows: Accumulators, one sequence of vectors a channel.
            row: First channel; a multiple of four where codes are read or stored.
            positions: Positions of the whole output.
            at: Position of each vector's first lane.
            valid: Lanes of each vector that exist; 0, or nothing given, means all.
        """
        step = 4 if self._grouped else 1
        for first in range(0, len(rows), step):
            for v, position in enumerate(at):
                column = [accumulators[v] for accumulators in rows[first : first + step]]
                for start, part in _pieces(column, valid[v] if valid else 0):
                    self._finish(part, row + first, positions, position + start)

    def store_plain(
        self, vectors: Sequence[Expr], at: Expr, channels: Sequence[Expr], valid: Sequence[int] = ()
    ) -> None:
        """Finish and write vectors of neighbouring channels of one token.

        Args:
            vectors: Accumulators.
            at: Element of the output where channel 0 of the token lies.
            channels: Channel of each vector's first lane.
            valid: Lanes of each vector that exist; 0, or nothing given, means all.
        """
        for v, (accumulator, channel) in enumerate(zip(vectors, channels, strict=True)):
            for start, (part,) in _pieces([accumulator], valid[v] if valid else 0):
                args = [_load_plain(*o, at, channel + start, part) for o in self._pairs()]
                value = evaluate(self.epilogue.expression, [_number(part), *args], self.isa)
                emit.store(self.output, at + channel + start, _stored(value, self.epilogue.dtype))

    def store_quads(
        self, quads: Sequence[Expr], row: Expr, count: int, positions: int, runs: Iterable[tuple[Expr, Sequence[int]]]
    ) -> None:
        """Finish and write four channels of a vector of positions.

        Args:
            quads: Four vectors of accumulators; in 16-byte lane j, vector k holds the channels of position 4j + k.
            row: First channel, a multiple of four.
            count: Channels that exist.
            positions: Positions of the whole output.
            runs: Position and lanes (4j + k) of what is to be written; lanes of each are a power of two in number.
        """
        if (
            count == len(quads)
            and self.epilogue.dtype == "uint8"
            and set(self.epilogue.operands) <= {"channel", "scalar"}
        ):
            words = self._quad_words(quads, row)
            for position, lanes in runs:
                emit.store(self.output, _div4(row) * positions + position, vector.pick(words, lanes))
            return
        columns = transpose_words(quads)[:count]
        step = count if self._grouped else 1
        for position, lanes in runs:
            parts = [emit.bind(vector.pick(column, lanes)) for column in columns]
            for first in range(0, count, step):
                self._finish(parts[first : first + step], row + first, positions, position)

    def _quad_words(self, quads: Sequence[Expr], row: Expr) -> Expr:
        lanes = vector.lanes_of(quads[0])
        expression = before_joining(self.epilogue, self.isa, lanes)
        loads = [_load_quad(kind, array, row, lanes) for kind, array in self._pairs()]
        return emit.bind(
            joined_quads([evaluate(expression, [_number(q), *loads], self.isa) for q in quads], self.isa, lanes)
        )

    @property
    def _grouped(self) -> bool:
        return self.epilogue.dtype == "uint8" or "codes" in self.epilogue.operands

    def _pairs(self) -> Iterable[tuple[str, Expr]]:
        return zip(self.epilogue.operands, self.operands, strict=True)

    def _finish(self, column: Sequence[Expr], row: Expr, positions: int, position: Expr) -> None:
        """Up to four channels of one vector of positions."""
        words = [self._words(kind, array, row, positions, position, column[0]) for kind, array in self._pairs()]
        lanes, values = vector.lanes_of(column[0]), []
        expression = before_joining(self.epilogue, self.isa, lanes)
        for r, accumulator in enumerate(column):
            loads = [
                _load_channel(*pair, row + r, (row + r) * positions + position, accumulator) if word is None
                else _code(word, r)
                for pair, word in zip(self._pairs(), words, strict=True)
            ]  # fmt: skip
            values.append(evaluate(expression, [_number(accumulator), *loads], self.isa))
        if self.epilogue.dtype == "uint8":
            emit.store(self.output, _div4(row) * positions + position, joined(values, self.isa, lanes))
            return
        for r, value in enumerate(values):
            emit.store(self.output, (row + r) * positions + position, value)

    def _words(self, kind: str, array: Expr, row: Expr, positions: int, position: Expr, like: Expr) -> Expr | None:
        if kind != "codes":
            return None
        return emit.bind(vector.load(array, _div4(row) * positions + position, vector.lanes_of(like)))


def parameters(epilogue: Epilogue, channels: int, size: int, words: int | None = None) -> list[tuple[str, int]]:
    """The (dtype, elements) of an epilogue's operands and, last, of the output.

    Args:
        epilogue: What is computed.
        channels: Number of channels.
        size: Elements of the output.
        words: int32 words of the output where codes come four to a word; None where they are single bytes.
    """
    codes = ("uint8", size) if words is None else ("int32", words)
    kinds = {"channel": ("float32", channels), "scalar": ("float32", 1), "full": ("float32", size), "codes": codes}
    return [kinds[kind] for kind in epilogue.operands] + [codes if epilogue.dtype == "uint8" else ("float32", size)]


def _pieces(column: Sequence[Expr], valid: int) -> list[tuple[int, list[Expr]]]:
    """Vectors cut to their first `valid` lanes: one or two powers of two, which may overlap."""
    lanes = vector.lanes_of(column[0])
    if valid in (0, lanes):
        return [(0, list(column))]
    width = 1 << (valid.bit_length() - 1)
    starts = sorted({0, valid - width})
    return [(s, [emit.bind(_cut(value, s, width)) for value in column]) for s in starts]


def _cut(value: Expr, start: int, width: int) -> Expr:
    return vector.pick(value, range(start, start + width))


def _number(accumulator: Expr) -> Expr:
    """A float32 sum as it is; an int32 sum converted."""
    lanes = vector.lanes_of(accumulator)
    floats = str(accumulator.ty).startswith("float32")
    return accumulator if floats else emit.bind(T.cast(accumulator, vector.typed("float32", lanes)))


def _code(word: Expr, byte: int) -> Expr:
    lanes = vector.lanes_of(word)
    shifted = word >> vector.const(8 * byte, "int32", lanes) if byte else word
    return emit.bind(T.cast(shifted & vector.const(255, "int32", lanes), vector.typed("float32", lanes)))


def _load_channel(kind: str, array: Expr, channel: Expr, element: Expr, like: Expr) -> Expr:
    lanes = vector.lanes_of(like)
    if kind == "full":
        return emit.bind(vector.load(array, element, lanes))
    return emit.bind(vector.splat(array[channel if kind == "channel" else 0], lanes))


def _load_quad(kind: str, array: Expr, channel: Expr, lanes: int) -> Expr:
    """Of four channels, in each 16 bytes."""
    if kind == "scalar":
        return emit.bind(vector.splat(array[0], lanes))
    quad = emit.bind(vector.load(array, channel, 4))
    return emit.bind(vector.concat([quad] * (lanes // 4)))


def _load_plain(kind: str, array: Expr, at: Expr, channel: Expr, like: Expr) -> Expr:
    lanes = vector.lanes_of(like)
    if kind == "scalar":
        return emit.bind(vector.splat(array[0], lanes))
    loaded = vector.load(array, channel if kind == "channel" else at + channel, lanes)
    return emit.bind(_widened(loaded, lanes) if kind == "codes" else loaded)


def _widened(codes: Expr, lanes: int) -> Expr:
    return T.cast(T.cast(codes, vector.typed("int32", lanes)), vector.typed("float32", lanes))


def _stored(value: Expr, dtype: str) -> Expr:
    if dtype == "float32":
        return value
    lanes = vector.lanes_of(value)
    return T.cast(T.cast(value, vector.typed("int32", lanes)), vector.typed("uint8", lanes))


def _div4(row: Expr) -> Expr:
    """Row / 4 of a multiple of four."""
    return row // 4 if isinstance(row, int) else tirx.truncdiv(row, 4)


def _extreme(name: str, compare: Callable[[Expr, Expr], Expr]) -> Callable[[Expr, Expr], Expr]:
    """Larger or smaller that keeps NaN; against a literal, one instruction everywhere."""

    def call(a: Expr, b: Expr) -> Expr:
        if _is_literal(a):
            a, b = b, a
        return tirx.Select(compare(b, a), b, a) if _is_literal(b) else FUNCTIONS[name](a, b)

    return call


def _is_literal(value: Expr) -> bool:
    inner = value.value if isinstance(value, tirx.Broadcast) else value
    return isinstance(inner, tirx.FloatImm)


def _bound(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *operands: emit.keep(function(*operands))


def _rounded_product(a: Expr, b: Expr) -> Expr:
    """Round a * b: code generation would otherwise fuse it with a sum, and codes differ from one target to another."""
    product = a * b
    return T.call_llvm_pure_intrin(str(product.ty), "llvm.arithmetic.fence", product)


def _instruction(name: str) -> Callable[[Expr, Expr], Expr]:
    return lambda a, b: T.call_llvm_pure_intrin(str(a.ty), name, a, b)


_TABLE = {name: _bound(function) for name, function in FUNCTIONS.items()} | {
    "mul": _bound(_rounded_product),
    "max": _bound(_extreme("max", lambda a, b: tirx.GT(a, b))),
    "min": _bound(_extreme("min", lambda a, b: tirx.LT(a, b))),
}
_NEON = _TABLE | {name: _bound(_instruction(f"llvm.{name}imum")) for name in ("max", "min")}
