# SPDX-License-Identifier: Apache-2.0
"""Elementary functions as TIR expressions: no C library, no tables, no branches, so they vectorize.

The float32 functions that networks spend time in are polynomials of their own here; the rarer ones, and
float64, are in `sparsec.backends.math_double`; float16 computes in float32. `rewrite` puts them in the place
of TVM's intrinsics, which would become calls of ``expf`` and its like. All take and give expressions of any
floating type, scalars or vectors.

Polynomials were fitted by interpolation at Chebyshev nodes, quotients by least squares with Lawson's
reweighting towards the smallest largest relative error; errors stated are measured on float32 results.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from sparsec.backends import math_double as double
from sparsec.backends.math_double import horner, let, scalar

Expr = Any
"""A TIR expression."""
_MARK = "sparsec.math."

_EXP = (1.0, 1.0, 0.5, 0.16666413843631744, 0.04166635125875473, 0.008375209756195545, 0.0013941213255748153)
_LOG = (
    0.3333333134651184, -0.2499999701976776, 0.20000715553760529, -0.1666780263185501, 0.14249058067798615,
    -0.12425687164068222, 0.11685419827699661, -0.11479733884334564, 0.06971611827611923,
)  # fmt: skip
_TANH_P = (
    0.9999999403953552, 0.1291642189025879, 0.002917732112109661, 9.239543032890651e-06,
    -1.2696255602406836e-08, 1.803915523901356e-11,
)  # fmt: skip
_TANH_Q = (1.0, 0.4624970555305481, 0.023750800639390945, 0.00022767977498006076)
_ERF_P = (
    1.1283791065216064, 0.1934119611978531, 0.05308249220252037, 0.003877202980220318,
    0.00028435749118216336, 1.9868828076141654e-06,
)  # fmt: skip
_ERF_Q = (
    1.0, 0.5047394633293152, 0.11529349535703659, 0.015194982290267944, 0.0011839520884677768,
    3.741030377568677e-05,
)  # fmt: skip


def exp(x: Expr) -> Expr:
    """The exponential of x; relative error below 2e-7; results below 1e-38 become 0, above the range infinity."""
    return _by_type(x, _exp, double.exp)


def log(x: Expr) -> Expr:
    """Natural logarithm; relative error below 3e-7; -infinity at 0, NaN below."""
    return _by_type(x, _log, double.log)


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent; relative error below 5e-7; never beyond -1 and 1."""
    return _by_type(x, lambda t: _odd_quotient(t, 9.0, _TANH_P, _TANH_Q), double.tanh)


def erf(x: Expr) -> Expr:
    """Error function; relative error below 5e-7; never beyond -1 and 1."""
    return _by_type(x, lambda t: _odd_quotient(t, 4.0, _ERF_P, _ERF_Q), double.erf)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e to the -x); relative error below 4e-7 down to results of 1e-38."""
    return _by_type(x, lambda t: 1.0 / (1.0 + exp(-t)), lambda t: 1.0 / (1.0 + exp(-t)))


def rsqrt(x: Expr) -> Expr:
    """1 / sqrt(x), by two instructions, both exactly rounded."""
    return _by_type(x, lambda t: 1.0 / double.sqrt(t), lambda t: 1.0 / double.sqrt(t))


def round_even(x: Expr) -> Expr:
    """The nearest whole number, ties to even, as ONNX rounds; one instruction."""
    return double.intrinsic("llvm.roundeven", x)


def mark(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Hide the elementary intrinsics from TVM's lowering, which would turn them into calls of a C library."""

    def hide(call: tvm.ir.Call) -> Expr:
        name = call.op.name.rpartition(".")[2] if isinstance(call.op, tvm.ir.Op) else ""
        if name not in _FUNCTIONS or "float" not in str(call.ty):
            return call
        return tirx.call_pure_extern(str(call.ty), _MARK + name, *call.args)

    return _map_calls(function, hide)


def expand(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Put the expressions in the place of what `mark` hid, after all lowering.

    Each argument and each result goes through a local variable in memory, which LLVM turns back into registers:
    TVM writes every name out wherever it is used, so that functions of functions would grow without end.
    """
    guarded = _map(function.body, [(tvm.ir.Call, _expand_guarded), (tirx.Let, _expand_all)])
    hoisted = _map(guarded, [(tirx.BufferStore, _hoist_store), (tirx.SeqStmt, _hoist_bindings)])
    return function.with_body(_expand_all(hoisted))


def _map(node: Any, changes: Any) -> Any:
    return tvm_ffi.structural_map(node, changes, order="post")


def _map_calls(function: tirx.PrimFunc, replace: Callable[[tvm.ir.Call], Expr]) -> tirx.PrimFunc:
    return function.with_body(_map(function.body, (tvm.ir.Call, replace)))


def _marked(call: tvm.ir.Call) -> str:
    """The name of the function that a call stands for, if `mark` hid it."""
    if not isinstance(call.op, tvm.ir.Op) or call.op.name != "tirx.call_pure_extern":
        return ""
    name = str(call.args[0].value)
    return name.removeprefix(_MARK) if name.startswith(_MARK) else ""


def _expand_all(node: Any) -> Any:
    def show(call: tvm.ir.Call) -> Expr:
        name = _marked(call)
        return _FUNCTIONS[name](*call.args[1:]) if name else call

    return _map(node, (tvm.ir.Call, show))


def _expand_guarded(call: tvm.ir.Call) -> Expr:
    """What is computed only under a condition must stay there: it may read beyond a buffer otherwise."""
    guards = isinstance(call.op, tvm.ir.Op) and call.op.name == "tirx.if_then_else"
    return _expand_all(call) if guards else call


def _hoist(value: Expr) -> tuple[list[tirx.Stmt], Expr]:
    """Statements that compute the marked calls in `value`, and what is left of it."""
    before: list[tirx.Stmt] = []

    def variable(part: Expr) -> Expr:
        buffer = tirx.decl_buffer((1,), str(part.ty), "m", scope="local")
        zero = [tirx.IntImm("int32", 0)]
        before.extend((tirx.AllocBuffer(buffer), tirx.BufferStore(buffer, part, zero)))
        return tirx.BufferLoad(buffer, zero)

    def replace(call: tvm.ir.Call) -> Expr:
        name = _marked(call)
        return variable(_FUNCTIONS[name](*(variable(arg) for arg in call.args[1:]))) if name else call

    left = _map(value, (tvm.ir.Call, replace))
    return before, left


def _hoist_store(store: tirx.BufferStore) -> tirx.Stmt:
    before, value = _hoist(store.value)
    return tirx.SeqStmt([*before, tirx.BufferStore(store.buffer, value, store.indices)]) if before else store


def _hoist_bindings(sequence: tirx.SeqStmt) -> tirx.Stmt:
    """A binding is seen by the statements behind it, so what it needs goes before it in the same sequence."""
    statements: list[tirx.Stmt] = []
    for statement in sequence.seq:
        if isinstance(statement, tirx.Bind):
            before, value = _hoist(statement.value)
            statements.extend((*before, tirx.Bind(statement.var, value)))
        else:
            statements.append(statement)
    return tirx.SeqStmt(statements) if len(statements) > len(sequence.seq) else sequence


def _by_type(x: Expr, single: Callable[[Expr], Expr], wide: Callable[[Expr], Expr]) -> Expr:
    """Apply the version for x's type; half types compute in float32."""
    versions = {"float32": single, "float64": wide}
    if scalar(x) in versions:
        return let(x, versions[scalar(x)])
    return double.cast(let(double.cast(x, "float32"), single), scalar(x))


def _in_double(function: Callable[..., Expr]) -> Callable[..., Expr]:
    """A float64 function for every floating type."""

    def widened(*args: Expr) -> Expr:
        result = function(*(double.cast(arg, "float64") for arg in args))
        return double.cast(result, scalar(args[0]))

    return widened


def _exp(x: Expr) -> Expr:
    """Split x = n log 2 + r. Adding 1.5 * 2**23 rounds n into the low bits, where the exponent takes it from."""
    magic = 12582912.0
    bounded = double.clamp(x, -87.3, 89.0)

    def split(t: Expr) -> Expr:
        shifted = double.fma(t, 1.4426950408889634, magic)
        return let(shifted, lambda s: let(s - magic, lambda n: _exp_split(t, s, n)))

    return let(bounded, split)


def _exp_split(x: Expr, shifted: Expr, n: Expr) -> Expr:
    rest = double.fma(n, 2.12194440e-4, double.fma(n, -0.693359375, x))
    bits = double.bits(shifted, "int32")
    scale = double.bits((bits << 23) + (126 << 23), "float32")  # 2 ** (n - 1): n = 128 is no float32
    return let(rest, lambda r: horner(r, tuple(2 * c for c in _EXP)) * scale)


def _log(x: Expr) -> Expr:
    """Split x = 2**e (1 + f) with 1 + f around 1; log(1 + f) = f - f**2/2 + f**3 P(f)."""
    tiny = 1.17549435e-38
    scaled = tirx.Select(x < tiny, x * 8388608.0, x)
    bias = tirx.Select(x < tiny, double.full(x, 23.0), double.full(x, 0.0))
    offset = 0x3F3504F3  # the bits of sqrt(1/2)

    def split(bits: Expr) -> Expr:
        exponent = double.cast(bits >> 23, "float32") - bias
        fraction = double.bits((bits & 0x7FFFFF) + offset, "float32") - 1.0
        return let(exponent, lambda e: let(fraction, lambda f: _log_split(e, f)))

    value = let(double.bits(scaled, "int32") - offset, split)
    return double.log_edges(x, value)


def _log_split(e: Expr, f: Expr) -> Expr:
    square = f * f
    tail = let(square, lambda s: double.fma(s * f, horner(f, _LOG), s * -0.5))
    return double.fma(e, 0.693359375, f + double.fma(e, -2.12194440e-4, tail))


def _odd_quotient(x: Expr, bound: float, p: Sequence[float], q: Sequence[float]) -> Expr:
    """Return x P(x**2) / Q(x**2) within the bound, then cut at -1 and 1 (NaN stays NaN)."""

    def quotient(t: Expr) -> Expr:
        return let(t * t, lambda s: t * horner(s, p) / horner(s, q))

    return let(double.clamp(x, -bound, bound), lambda t: double.clamp(quotient(t), -1.0, 1.0))


_FUNCTIONS: dict[str, Callable[..., Expr]] = {
    "exp": exp,
    "log": log,
    "tanh": tanh,
    "erf": erf,
    "sigmoid": sigmoid,
    "rsqrt": rsqrt,
    "round": round_even,
    "nearbyint": round_even,
    "exp2": _in_double(double.exp2),
    "exp10": _in_double(double.exp10),
    "log2": _in_double(double.log2),
    "log10": _in_double(double.log10),
    "log1p": _in_double(double.log1p),
    "sin": _in_double(double.sin),
    "cos": _in_double(double.cos),
    "tan": _in_double(double.tan),
    "asin": _in_double(double.asin),
    "acos": _in_double(double.acos),
    "atan": _in_double(double.atan),
    "sinh": _in_double(double.sinh),
    "cosh": _in_double(double.cosh),
    "asinh": _in_double(double.asinh),
    "acosh": _in_double(double.acosh),
    "atanh": _in_double(double.atanh),
    "pow": _in_double(double.power),
    "hypot": _in_double(double.hypot),
    "fmod": double.fmod,
}
