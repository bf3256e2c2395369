# SPDX-License-Identifier: Apache-2.0
"""Straight-line emission of TIR: each call appends a statement to the function being built.

A kernel with register tiles is written as an ordinary Python function whose loops unroll while it runs; only what
goes through `loop` stays a loop in the code. `vector` has the expressions that need no place in the code.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import vector

Expr = Any
Array = Any


def function(parameters: Sequence[tuple[str, int]], body: Callable[..., None]) -> tirx.PrimFunc:
    """A function of arrays, each given as (dtype, elements); `body` gets one array a parameter and emits the code."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("kernel")
        handles = [T.arg(f"p{i}", T.handle(dtype)) for i, (dtype, _) in enumerate(parameters)]
        body(*(_view(h, dtype, size) for h, (dtype, size) in zip(handles, parameters, strict=True)))
    return builder.get()


def bind(value: Expr) -> Expr:
    """Compute a value here; the name that stands for it."""
    return T.Bind(value)


def keep(value: Expr) -> Expr:
    """Compute a value here, once, whatever is made of it.

    It goes through a cell of memory, which LLVM makes a register: TVM's simplifier would write a bound value out
    wherever its name is used, which grows exponentially along a chain of steps, but leaves loads alone.
    """
    cell = T.alloc_buffer((1,), str(value.ty), scope="local")
    T.buffer_store(cell, value, [0])
    return T.Bind(cell[0])


@contextmanager
def loop(count: int | Expr) -> Iterator[Expr]:
    """The body for 0, 1, ... count - 1; no loop, and a literal 0, where the count is known to be one."""
    if isinstance(count, int) and count == 1:
        yield 0
        return
    with T.serial(count) as index:
        yield index


@contextmanager
def loops(counts: Sequence[int]) -> Iterator[list[Expr]]:
    """Nested loops, the last the fastest."""
    with ExitStack() as stack:
        yield [stack.enter_context(loop(count)) for count in counts]


@contextmanager
def loop_range(start: Expr, stop: Expr) -> Iterator[Expr]:
    """The body for start, start + 1, ... stop - 1, all known at run time only."""
    with T.serial(start, stop) as index:
        yield index


def clamped(index: Expr, step: int, last: int) -> Expr:
    """min(index * step, last), folded where the index is a literal."""
    return min(index * step, last) if isinstance(index, int) else T.min(index * step, last)


def wide(isa: Isa, index: Expr) -> Expr:
    """An index known only at run time, as wide as an address, which can so grow with a loop and needs no conversion."""
    return index if isa.wasm else T.cast(index, "int64")


def store(target: Array, at: Expr, value: Expr) -> None:
    """Write a vector to consecutive elements of an array."""
    lanes = vector.lanes_of(value)
    T.buffer_store(target, value, [at if lanes == 1 else T.ramp(at, 1, lanes)])


class Registers:
    """Accumulators: one vector variable each, which LLVM keeps in a register."""

    def __init__(self, count: int, dtype: str, lanes: int, start: Sequence[Expr] | None = None) -> None:
        kind = vector.typed(dtype, lanes)
        self._cells = [T.alloc_buffer((1,), kind, scope="local") for _ in range(count)]
        for i in range(count):
            self[i] = start[i] if start else vector.const(0, dtype, lanes)

    def __getitem__(self, index: int) -> Expr:
        return T.Bind(self._cells[index][0])

    def __setitem__(self, index: int, value: Expr) -> None:
        T.buffer_store(self._cells[index], value, [0])

    def __len__(self) -> int:
        return len(self._cells)


def _view(pointer: Expr, dtype: str, size: int) -> Array:
    return T.decl_buffer((max(size, 1),), dtype, data=pointer)
