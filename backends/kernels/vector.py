# SPDX-License-Identifier: Apache-2.0
"""Small pieces of TIR that the kernels are put together from: arrays, loops over vectors, loads, stores, shuffles."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from tvm import tirx
from tvm.ir import TensorLoad

Expr = Any
Stmt = Any
Body = Callable[[Expr], Stmt]


def array(name: str, dtype: str, size: int) -> Expr:
    """A parameter: pointer to `size` elements."""
    return tirx.decl_buffer((max(size, 1),), dtype, name)


def function(params: Sequence[Expr], *body: Stmt) -> tirx.PrimFunc:
    """A function of arrays."""
    return tirx.PrimFunc(list(params), block(*body))


def block(*statements: Stmt) -> Stmt:
    """Statements in order; nested blocks share no names, so a value bound inside stays inside."""
    return tirx.SeqStmt(list(statements)) if len(statements) > 1 else [*statements, tirx.Evaluate(index(0))][0]


def index(value: int) -> Expr:
    """An integer literal for index arithmetic."""
    return tirx.IntImm("int32", value)


def const(value: float, dtype: str, lanes: int = 1) -> Expr:
    """A literal in every lane."""
    return splat(tirx.const(value, dtype), lanes)


def splat(value: Expr, lanes: int) -> Expr:
    """A scalar in every lane."""
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def typed(dtype: str, lanes: int) -> str:
    """The name of a vector type."""
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def load(source: Expr, at: Expr, lanes: int, stride: int = 1) -> Expr:
    """`lanes` elements of an array from element `at` on; stride 0 repeats one."""
    if lanes == 1 or stride == 0:
        return splat(tirx.BufferLoad(source, [at]), lanes)
    if stride == 2:
        return _every_second(source, at, lanes)
    return tirx.BufferLoad(source, [tirx.Ramp(at, index(stride), lanes)])


def _every_second(source: Expr, at: Expr, lanes: int) -> Expr:
    """Two vectors, of which the second ends with the last element wanted, and a shuffle."""
    halves = [load(source, at, lanes), load(source, at + (lanes - 1), lanes)]
    picks = [2 * i if 2 * i < lanes else 2 * i + 1 for i in range(lanes)]
    return tirx.Shuffle(halves, list(map(index, picks)))


def store(target: Expr, at: Expr, value: Expr, lanes: int, stride: int = 1) -> Stmt:
    """Write `lanes` elements of an array from element `at` on."""
    return tirx.BufferStore(target, value, [at if lanes == 1 else tirx.Ramp(at, index(stride), lanes)])


def loop(extent: int, body: Body, step: int = 1, start: int = 0) -> Stmt:
    """The body for start, start + step, ... (`extent` times)."""
    if extent == 1:
        return body(index(start))
    counter = tirx.Var("i", "int32")
    return tirx.For(counter, index(0), index(extent), tirx.ForKind.SERIAL, body(start + counter * step))


def vector_loop(extent: int, lanes: int, body: Callable[[Expr, int], Stmt]) -> Stmt:
    """Cover `extent` elements by whole vectors, then by four lanes, then one by one; nothing twice, nothing beyond.

    Args:
        extent: Number of elements.
        lanes: Widest vector, a power of two.
        body: Makes the statement for the elements from an index on, so many lanes.
    """
    parts, start = [], 0
    for width in dict.fromkeys((lanes, min(lanes, 4), 1)):
        count = (extent - start) // width
        if count:
            parts.append(loop(count, partial(_of_width, body, width), width, start))
        start += count * width
    return block(*parts)


def _of_width(body: Callable[[Expr, int], Stmt], width: int, at: Expr) -> Stmt:
    return body(at, width)


class Values:
    """Straight-line code: values bound to names, so that each is computed once, and stores."""

    def __init__(self) -> None:
        self._statements: list[Stmt] = []

    def bind(self, value: Expr) -> Expr:
        """Compute the value here; the name that stands for it.

        It goes through a cell of memory, which LLVM makes a register: TVM's simplifier would write a name's value
        out wherever it is used, but leaves loads alone.
        """
        if isinstance(value, (tirx.Var, TensorLoad)):
            return self._name(value)
        cell = tirx.decl_buffer((1,), str(value.ty), "cell", scope="local")
        self.add(tirx.AllocBuffer(cell), tirx.BufferStore(cell, value, [index(0)]))
        return self._name(tirx.BufferLoad(cell, [index(0)]))

    def _name(self, value: Expr) -> Expr:
        name = tirx.Var("v", value.ty)
        self.add(tirx.Bind(name, value))
        return name

    def add(self, *statements: Stmt) -> "Values":
        """Append statements."""
        self._statements += statements
        return self

    def stmt(self) -> Stmt:
        """All of it."""
        return block(*self._statements)


def concat(parts: Sequence[Expr]) -> Expr:
    """The lanes of several vectors of one type behind each other."""
    lanes = len(parts) * lanes_of(parts[0])
    return parts[0] if len(parts) == 1 else tirx.Shuffle(list(parts), list(map(index, range(lanes))))


def pick(value: Expr, lanes: Iterable[int]) -> Expr:
    """Some lanes of a vector, in the order given."""
    return tirx.Shuffle([value], list(map(index, lanes)))


def lanes_of(value: Expr) -> int:
    """The number of lanes of a value."""
    return int(str(value.ty).partition("x")[2] or 1)


def transpose(rows: Sequence[Expr], values: Values) -> list[Expr]:
    """A square of n vectors with n lanes, n a power of two, mirrored: lane j of row i goes to lane i of row j.

    log2(n) perfect shuffles: each interleaves row k with row k + n/2.
    """
    size = len(rows)
    low = [index(i // 2 + size * (i % 2)) for i in range(size)]
    high = [index(i // 2 + size // 2 + size * (i % 2)) for i in range(size)]
    half, current = size // 2, list(rows)
    for _ in range(size.bit_length() - 1):
        pairs = list(zip(current[:half], current[half:], strict=True))
        current = [values.bind(tirx.Shuffle(list(p), order)) for p in pairs for order in (low, high)]
    return current
