# SPDX-License-Identifier: Apache-2.0
"""Code for the inner loops of an `Elementwise` op: along one axis, across two, and over words of four codes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx

from sparsec.backends.kernels.arithmetic import evaluate, from_float, to_float, whole
from sparsec.backends.kernels.nest import Axis, moves_only
from sparsec.backends.kernels.vector import (
    Expr,
    Stmt,
    Values,
    block,
    const,
    index,
    lanes_of,
    load,
    loop,
    store,
    transpose,
    typed,
    vector_loop,
)
from sparsec.compiler.lowering.ops import Elementwise

Bases = Sequence[Expr]
"""The element of each array where the inner loops start."""


def outer_loops(axes: Sequence[Axis], bases: Bases, inner: Callable[[Bases], Stmt]) -> Stmt:
    """Loops over all axes around the code that `inner` makes."""
    if not axes:
        return inner(bases)
    return loop(axes[0].extent, lambda i: outer_loops(axes[1:], _moved(bases, axes[0], i), inner))


@dataclass(frozen=True, slots=True)
class Walk:
    """What the inner loops share.

    Attributes:
        op: What is computed.
        arrays: Operands, then output.
        lanes: Elements of a whole vector.
        square: Rows and columns of a square that is mirrored in registers.
    """

    op: Elementwise
    arrays: tuple[Any, ...]
    lanes: int
    square: int

    def along(self, axis: Axis, bases: Bases) -> Stmt:
        """One axis, by vectors."""
        return vector_loop(
            axis.extent, self.lanes, lambda at, lanes: self._vector(axis, _moved(bases, axis, at), lanes)
        )

    def across(self, rows: Axis, columns: Axis, bases: Bases) -> Stmt:
        """Two axes, of which some operand has its neighbours along `rows`: squares, then what is left at the edges."""
        size = self.square
        whole_rows, whole_columns = rows.extent // size * size, columns.extent // size * size
        right, below = replace(columns, extent=columns.extent % size), replace(rows, extent=rows.extent % size)
        squares = loop(
            rows.extent // size,
            lambda i: loop(columns.extent // size, lambda j: self._mirror(rows, columns, bases, i, j), size),
            size,
        )
        edge = self._grid(replace(rows, extent=whole_rows), right, _moved(bases, columns, index(whole_columns)))
        rest = self._grid(below, columns, _moved(bases, rows, index(whole_rows)))
        return block(squares, *edge, *rest)

    def words(self, positions: Axis, four: Axis, bases: Bases) -> Stmt:
        """Two axes, of which some array holds, for each position, the codes along `four` in one 32-bit word.

        `four` may be shorter where that array is the output; the lanes left over become 0.
        """
        return vector_loop(
            positions.extent,
            self.lanes,
            lambda at, lanes: self._words(positions, four, _moved(bases, positions, at), lanes),
        )

    def _vector(self, axis: Axis, bases: Bases, lanes: int) -> Stmt:
        values = Values()
        walks = zip(self.arrays[:-1], bases[:-1], axis.strides[:-1], strict=True)
        raw = [values.bind(load(source, at, lanes, stride)) for source, at, stride in walks]
        result = self._stored(self._compute(raw, lanes, values))
        return values.add(store(self.arrays[-1], bases[-1], result, lanes, axis.strides[-1])).stmt()

    def _compute(self, raw: list[Expr], lanes: int, values: Values) -> Expr:
        """Loaded operands to the result, not yet of the stored type."""
        if moves_only(self.op):
            return raw[0]
        return evaluate(self.op.expression, [values.bind(to_float(value)) for value in raw], lanes, values)

    def _stored(self, result: Expr) -> Expr:
        return result if moves_only(self.op) else from_float(result, self.op.dtype)

    def _unpacked(self, result: Expr, lanes: int) -> Expr:
        return result.astype(typed("uint8", lanes)) if moves_only(self.op) else from_float(result, self.op.dtype)

    def _grid(self, rows: Axis, columns: Axis, bases: Bases) -> list[Stmt]:
        if not rows.extent or not columns.extent:
            return []
        return [loop(rows.extent, lambda i: self.along(columns, _moved(bases, rows, i)))]

    def _mirror(self, rows: Axis, columns: Axis, bases: Bases, i: Expr, j: Expr) -> Stmt:
        """One square: for each of its rows a vector along the columns."""
        values = Values()
        corner = _moved(_moved(bases, rows, i), columns, j)
        walks = list(zip(self.arrays, corner, rows.strides, columns.strides, strict=True))
        raw = [self._square(*walk, values) for walk in walks[:-1]]
        target, at, down, right = walks[-1]
        for k in range(self.square):
            result = self._compute([vectors[k] for vectors in raw], self.square, values)
            values.add(store(target, at + k * down, self._stored(result), self.square, right))
        return values.stmt()

    def _square(self, source: Expr, base: Expr, down: int, right: int, values: Values) -> list[Expr]:
        n = range(self.square)
        if down == 1 and right not in (0, 1):
            return transpose([values.bind(load(source, base + k * right, self.square)) for k in n], values)
        return [values.bind(load(source, base + k * down, self.square, right)) for k in n]

    def _words(self, positions: Axis, four: Axis, bases: Bases, lanes: int) -> Stmt:
        values = Values()
        walks = list(zip(self.arrays, bases, positions.strides, four.strides, strict=True))
        raw = [self._planes(*walk, four.extent, lanes, values) for walk in walks[:-1]]
        results = [self._compute([planes[k] for planes in raw], lanes, values) for k in range(four.extent)]
        target, at, right, down = walks[-1]
        if (right, down) == (4, 1):
            return values.add(store(target, at, _packed(results), 4 * lanes)).stmt()
        stored = [self._unpacked(result, lanes) for result in results]
        return values.add(*(store(target, at + k * down, v, lanes, right) for k, v in enumerate(stored))).stmt()

    def _planes(
        self, source: Expr, base: Expr, right: int, down: int, count: int, lanes: int, values: Values
    ) -> list[Expr]:
        """For each of the four codes (or `count` elements) of a position, the vector over positions."""
        if (right, down) != (4, 1):
            return [values.bind(load(source, base + k * down, lanes, right)) for k in range(count)]
        word = values.bind(tirx.reinterpret(typed("int32", lanes), load(source, base, 4 * lanes)))
        return [values.bind((word >> _all(8 * k, lanes)) & _all(255, lanes)) for k in range(4)]


def _packed(results: Sequence[Expr]) -> Expr:
    """Four vectors of codes, or three and zeros, as one of bytes, lane by lane."""
    lanes = lanes_of(results[0])
    codes = [whole(r) if str(r.ty).startswith("float32") else r.astype(typed("int32", lanes)) for r in results]
    word = codes[0] & _all(255, lanes)
    for k, code in enumerate(codes[1:], 1):
        word = word | (code << _all(8 * k, lanes))
    return tirx.reinterpret(typed("uint8", 4 * lanes), word)


def _all(value: int, lanes: int) -> Expr:
    return const(value, "int32", lanes)


def _moved(bases: Bases, axis: Axis, steps: Expr) -> Bases:
    return [base + steps * stride for base, stride in zip(bases, axis.strides, strict=True)]
