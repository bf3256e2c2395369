# SPDX-License-Identifier: Apache-2.0
"""float16 for machines without it, converted by functions that LLVM cannot look into.

WebAssembly has no float16, and LLVM's code generator does not come to an end there on a choice between two
float16 values. So values stay float16 in memory only: arithmetic goes through float32, choices through uint16.
Scalars only, and not fast: a model in float16 gains nothing there.
"""

from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import prim

from sparsec.backends.math_double import bits, cast, scalar

Expr = Any

_ARITHMETIC = (prim.Add, prim.Sub, prim.Mul, prim.Div, prim.Min, prim.Max)
_COMPARISONS = (prim.EQ, prim.NE, prim.LT, prim.LE, prim.GT, prim.GE)


def legalize(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Rewrite a lowered function so that no float16 arithmetic, conversion or choice is left."""
    changes: list[tuple[Any, Callable[[Any], Any]]] = [
        *((kind, _in_single) for kind in _ARITHMETIC),
        *((kind, _compared) for kind in _COMPARISONS),
        (prim.Select, _chosen),
        (prim.Cast, _converted),
        (tvm.ir.Call, _called),
    ]
    return function.with_body(tvm_ffi.structural_map(function.body, changes, order="post"))


def _is_half(value: Expr) -> bool:
    return scalar(value) == "float16"


def _in_single(node: Expr) -> Expr:
    return narrow(type(node)(widen(node.a), widen(node.b))) if _is_half(node) else node


def _compared(node: Expr) -> Expr:
    return type(node)(widen(node.a), widen(node.b)) if _is_half(node.a) else node


def _chosen(node: Expr) -> Expr:
    if not _is_half(node):
        return node
    yes, no = bits(node.true_value, "uint16"), bits(node.false_value, "uint16")
    return bits(tirx.Select(node.condition, yes, no), "float16")


def _called(call: Expr) -> Expr:
    if not isinstance(call.op, tvm.ir.Op) or call.op.name != "tirx.if_then_else" or not _is_half(call):
        return call
    yes, no = (bits(value, "uint16") for value in call.args[1:])
    return bits(tirx.if_then_else(call.args[0], yes, no), "float16")


def _converted(node: Expr) -> Expr:
    if _is_half(node):
        return narrow(cast(node.value, "float32"))
    return cast(widen(node.value), scalar(node)) if _is_half(node.value) else node


def widen(x: Expr) -> Expr:
    """Convert float16 to float32, by a function of the support library."""
    return tirx.call_pure_extern("float32", "sparsec_widen_half", cast(bits(x, "uint16"), "uint32"))


def narrow(x: Expr) -> Expr:
    """Convert float32 to float16, to nearest even, by a function of the support library."""
    return bits(cast(tirx.call_pure_extern("uint32", "sparsec_narrow_half", x), "uint16"), "float16")
