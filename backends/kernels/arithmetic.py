# SPDX-License-Identifier: Apache-2.0
"""Expressions as TIR: conversion to float32 on load, the steps, conversion to what is stored."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import tirx

from sparsec.backends.isa import Isa
from sparsec.backends.kernels.vector import Expr, Values, const, lanes_of, typed
from sparsec.compiler.lowering.expression import Expression


def _flag(condition: Expr) -> Expr:
    lanes = lanes_of(condition)
    return tirx.Select(condition, const(1, "float32", lanes), const(0, "float32", lanes))


def _extreme(name: str, closer: Callable[[Expr, Expr], Expr]) -> Callable[[Expr, Expr], Expr]:
    """Larger or smaller that keeps NaN. Against a literal a comparison does it, one instruction on most targets."""

    def call(a: Expr, b: Expr) -> Expr:
        if _is_literal(a):
            a, b = b, a
        if _is_literal(b):
            return tirx.Select(closer(b, a), b, a)
        return tirx.call_llvm_pure_intrin(str(a.ty), f"llvm.{name}", a, b)

    return call


def extreme(name: str, isa: Isa) -> Callable[[Expr, Expr], Expr]:
    """`max` or `min` that keeps NaN, as it is fastest on an instruction set; operands are names.

    ARM has an instruction. Elsewhere a comparison picks the second operand if one is NaN: done both ways round, the
    two results differ only then, and the bits of NaN or anything are NaN.
    """
    if isa.triple.startswith("aarch64"):
        return FUNCTIONS[name]
    closer = tirx.GT if name == "max" else tirx.LT

    def call(a: Expr, b: Expr) -> Expr:
        whole = typed("int32", lanes_of(a))
        one, other = (tirx.reinterpret(whole, tirx.Select(closer(p, q), p, q)) for p, q in ((a, b), (b, a)))
        return tirx.reinterpret(str(a.ty), one | other)

    return call


def _is_literal(value: Expr) -> bool:
    return isinstance(value.value if isinstance(value, tirx.Broadcast) else value, tirx.FloatImm)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": tirx.Div,
    "max": _extreme("maximum", tirx.GT),
    "min": _extreme("minimum", tirx.LT),
    "neg": lambda a: a * const(-1, "float32", lanes_of(a)),
    "abs": tirx.abs,
    "sqrt": tirx.sqrt,
    "exp": tirx.exp,
    "log": tirx.log,
    "tanh": tirx.tanh,
    "erf": tirx.erf,
    "sigmoid": tirx.sigmoid,
    "floor": tirx.floor,
    "ceil": tirx.ceil,
    "round": tirx.nearbyint,
    "less": lambda a, b: _flag(tirx.LT(a, b)),
    "equal": lambda a, b: _flag(tirx.EQ(a, b)),
    "select": lambda c, a, b: tirx.Select(tirx.NE(c, const(0, "float32", lanes_of(c))), a, b),
}
"""TIR for every operation of `sparsec.compiler.lowering.expression.OPERATIONS`, on vectors of any length."""


def evaluate(expression: Expression, args: Sequence[Expr], lanes: int, values: Values) -> Expr:
    """The expression's result on float32 operands; each step is computed once."""
    table = {name: _bound(function, values) for name, function in FUNCTIONS.items()}
    return expression.evaluate(args, table, lambda value: const(value, "float32", lanes))


def _bound(function: Callable[..., Any], values: Values) -> Callable[..., Any]:
    return lambda *operands: values.bind(function(*operands))


def to_float(value: Expr) -> Expr:
    """A loaded operand as float32: codes become numbers."""
    if str(value.ty).startswith("float32"):
        return value
    lanes = lanes_of(value)
    return value.astype(typed("int32", lanes)).astype(typed("float32", lanes))


def from_float(value: Expr, dtype: str) -> Expr:
    """A float32 result as what is stored; for codes it is whole and in 0..127 already."""
    if dtype == "float32":
        return value
    lanes = lanes_of(value)
    return whole(value).astype(typed(dtype, lanes))


def whole(value: Expr) -> Expr:
    """A whole float32 in 0..127 as int32: right in the low byte, with bits above that are gone after a shift by 8.

    Adding 2**23 leaves the number in the lowest bits of the float; a conversion takes longer on some targets.
    """
    lanes = lanes_of(value)
    return tirx.reinterpret(typed("int32", lanes), value + const(8388608.0, "float32", lanes))
