# SPDX-License-Identifier: Apache-2.0
"""Elementary functions of float64 TIR expressions, relative error about 1e-15, and the tools to write them.

TVM reads a Python float beside an expression as float32: constants that float32 does not hold go through `full`.

Arguments of `sin`, `cos` and `tan` beyond 2**29 give NaN: reducing them exactly would need a table of 2/pi.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

Expr = Any

_LN2_HIGH = 0.693147180369123816490
_LN2_LOW = 1.90821492927058770002e-10
_HALF_PI = tuple(map(float.fromhex, ("0x1.921fb4p+0", "0x1.4442d0p-24", "0x1.846988p-48", "0x1.8cc51701b839ap-73")))
"""pi/2 in four parts; the first three have 24 bits, so that their products with n < 2**29 are exact."""
_MAGIC = 6755399441055744.0
"""1.5 * 2**52: adding it rounds to a whole number, which then stands in the low bits."""

_EXP = (
    1.0, 1.0, 0.5000000000000001, 0.16666666666666669, 0.041666666666623824, 0.008333333333330039,
    0.0013888888917367081, 0.00019841269863171557, 2.4801521057868204e-05, 2.7557268276905696e-06,
    2.7620201591031547e-07, 2.5100472505694996e-08,
)  # fmt: skip
_LOG = (
    0.6666666666666666, 0.40000000000000885, 0.28571428570799784, 0.22222222392581045, 0.18181795547521137,
    0.15386244737621665, 0.13268638369266825, 0.13088034850927555,
)  # fmt: skip
_SIN = (
    -0.16666666666666666, 0.008333333333330936, -0.00019841269836740532, 2.7557316093198404e-06,
    -2.505112989645018e-08, 1.5917988979397204e-10,
)  # fmt: skip
_COS = (
    0.041666666666666664, -0.0013888888888887389, 2.48015872987544e-05, -2.7557317265878077e-07,
    2.087614504941294e-09, -1.1382544645335006e-11,
)  # fmt: skip
_ATAN = (
    -0.3333333333333333, 0.1999999999999686, -0.14285714284545992, 0.11111110943560819, -0.09090897024657808,
    0.07691817809401805, -0.06654912696331068, 0.057160332498907604, -0.039567935100902694,
)  # fmt: skip
_SINH = (
    0.16666666666666666, 0.008333333333333299, 0.00019841269841324471, 2.7557319191250885e-06,
    2.50521177239532e-08, 1.6057676882739472e-10, 7.746278224810814e-13,
)  # fmt: skip
_ERF = (
    1.1283791670955126, -0.3761263890318375, 0.11283791670954876, -0.02686617064507627, 0.005223977624812638,
    -0.0008548326980509413, 0.00012055331099279798, -1.4925594957596026e-05, 1.6460995338195411e-06,
    -1.6350256278696497e-07, 1.4659383821340063e-08, -1.1371291831047935e-09, 5.954471583153455e-11,
)  # fmt: skip
_ERFC_P = (
    0.9999999971146776, 1.7959695988361648, 1.597216765400549, 0.8792047770672959, 0.32007200416537823,
    0.07698685741183751, 0.011418794035466273, 0.0008248601451440799, 1.4227657170113808e-12,
)  # fmt: skip
_ERFC_Q = (
    1.0, 2.9243487334374727, 3.8969911297649906, 3.104391811804073, 1.6258629382207501, 0.5774309968903928,
    0.13718677054299563, 0.02023928019472029, 0.001462026707726454,
)  # fmt: skip


def scalar(x: Expr) -> str:
    """The element type of an expression, ``float32`` for a vector of float32."""
    return str(x.ty).partition("x")[0]


def like(x: Expr, dtype: str) -> str:
    """`dtype` with as many lanes as `x` has."""
    _, times, lanes = str(x.ty).partition("x")
    return dtype + times + lanes


def let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """Compute a value once and use it in `body`."""
    if isinstance(value, tirx.Var):
        return body(value)
    name = tirx.Var("t", str(value.ty))
    return tirx.Let(name, value, body(name))


def cast(x: Expr, dtype: str) -> Expr:
    """Convert the elements to `dtype`."""
    return x if scalar(x) == dtype else tirx.Cast(like(x, dtype), x)


def bits(x: Expr, dtype: str) -> Expr:
    """The same bits seen as `dtype`."""
    return tirx.reinterpret(like(x, dtype), x)


def full(x: Expr, value: float) -> Expr:
    """A constant of x's type."""
    return tirx.const(value, str(x.ty))


def intrinsic(name: str, x: Expr, *others: Expr) -> Expr:
    """LLVM's intrinsic on operands of x's type."""
    args = [full(x, arg) if isinstance(arg, (int, float)) else arg for arg in others]
    return tirx.call_llvm_pure_intrin(str(x.ty), name, x, *args)


def fabs(x: Expr) -> Expr:
    """The magnitude of x; one instruction."""
    return intrinsic("llvm.fabs", x)


def sqrt(x: Expr) -> Expr:
    """The square root of x; one instruction."""
    return intrinsic("llvm.sqrt", x)


def trunc(x: Expr) -> Expr:
    """The whole part of x; one instruction."""
    return intrinsic("llvm.trunc", x)


def fma(x: Expr, y: Expr, z: Expr) -> Expr:
    """Return x * y + z: one instruction where the target has it, otherwise two."""
    return intrinsic("llvm.fmuladd", x, y, z)


def horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    """The polynomial with these coefficients, lowest first."""
    value = full(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = fma(value, x, coefficient)
    return value


def clamp(x: Expr, low: float, high: float) -> Expr:
    """Bound x on both sides; NaN stays NaN, by the order of operands."""
    return tirx.max(full(x, low), tirx.min(full(x, high), x))


def exp(x: Expr) -> Expr:
    """The exponential of x; results below 1e-307 become 0."""

    def split(t: Expr) -> Expr:
        shifted = fma(t, 1.4426950408889634, _MAGIC)
        return let(shifted, lambda s: let(s - _MAGIC, lambda n: scaled(t, s, n)))

    def scaled(t: Expr, s: Expr, n: Expr) -> Expr:
        rest = fma(n, -_LN2_LOW, fma(n, -_LN2_HIGH, t))
        word = let(bits(s, "int64"), lambda w: (w << 52) + full(w, 1022 << 52))
        return let(rest, lambda r: horner(r, tuple(2 * c for c in _EXP)) * bits(word, "float64"))

    return let(clamp(x, -708.3, 710.0), split)


def log_edges(x: Expr, value: Expr) -> Expr:
    """`value` where a logarithm of x exists; the limits elsewhere."""
    special = tirx.Select(tirx.EQ(x, full(x, 0.0)), full(x, -math.inf), full(x, math.nan))
    return tirx.Select(x < full(x, math.inf), tirx.Select(x > 0.0, value, special), x)


def log(x: Expr) -> Expr:
    """Natural logarithm."""
    return let(x, _log)


def _log(x: Expr) -> Expr:
    """Split x = 2**e m with m around 1, s = (m - 1) / (m + 1): log m = 2 s + s**3 P(s**2)."""
    tiny = 2.2250738585072014e-308
    scaled = tirx.Select(x < full(x, tiny), x * 2.0**54, x)
    bias = tirx.Select(x < full(x, tiny), full(x, 54.0), full(x, 0.0))
    offset = 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2)

    def split(word: Expr) -> Expr:
        exponent = cast(word >> 52, "float64") - bias
        fraction = bits((word & full(word, 0xFFFFFFFFFFFFF)) + full(word, offset), "float64") - 1.0
        return let(exponent, lambda e: let(fraction, lambda f: _log_split(e, f)))

    word = bits(scaled, "int64")
    return log_edges(x, let(word - full(word, offset), split))


def _log_split(e: Expr, f: Expr) -> Expr:
    """With f = m - 1: log m = f - (f**2/2 - s (f**2/2 + R)), which keeps f exact."""

    def series(s: Expr) -> Expr:
        half = f * f * 0.5
        return let(s * s, lambda z: let(half, lambda h: s * (h + z * horner(z, _LOG)) - h))

    tail = let(f / (f + 2.0), series)
    return fma(e, _LN2_HIGH, f + fma(e, _LN2_LOW, tail))


def log2(x: Expr) -> Expr:
    """Logarithm to base 2."""
    return log(x) * full(x, 1.4426950408889634)


def log10(x: Expr) -> Expr:
    """Logarithm to base 10."""
    return log(x) * full(x, 0.4342944819032518)


def log1p(x: Expr) -> Expr:
    """log(1 + x), right for small x too: what adding 1 loses comes back as a correction."""

    def corrected(t: Expr, one: Expr) -> Expr:
        lost = (t - (one - 1.0)) / one
        usual = tirx.And(one > 0.0, one < full(one, math.inf))
        return let(log(one), lambda y: tirx.Select(usual, y + lost, y))

    return let(x, lambda t: let(1.0 + t, lambda one: corrected(t, one)))


def exp2(x: Expr) -> Expr:
    """2 to the x."""
    return exp(x * full(x, 0.6931471805599453))


def exp10(x: Expr) -> Expr:
    """10 to the x."""
    return exp(x * full(x, 2.302585092994046))


def sin(x: Expr) -> Expr:
    """Sine of x in radians."""
    return _quarter_turns(x, lambda r, n: _pick(r, n))


def cos(x: Expr) -> Expr:
    """Cosine of x in radians: the sine a quarter turn on."""
    return _quarter_turns(x, lambda r, n: _pick(r, n + full(n, 1)))


def tan(x: Expr) -> Expr:
    """Tangent of x in radians."""
    return _quarter_turns(x, lambda r, n: _pick(r, n) / _pick(r, n + full(n, 1)))


def _quarter_turns(x: Expr, body: Callable[[Expr, Expr], Expr]) -> Expr:
    """Split x = n pi/2 + r with r in [-pi/4, pi/4]; `body` gets r and n as a whole number."""

    def split(t: Expr) -> Expr:
        return let(fma(t, 2.0 / math.pi, _MAGIC), lambda s: let(s - _MAGIC, lambda n: rest(t, s, n)))

    def rest(t: Expr, s: Expr, n: Expr) -> Expr:
        r = t
        for part in _HALF_PI:
            r = r - n * full(n, part)
        known = tirx.Select(fabs(t) < 2.0**29, r, full(t, math.nan))
        return let(known, lambda k: let(bits(s, "int64"), lambda word: body(k, word)))

    return let(x, split)


def _pick(r: Expr, n: Expr) -> Expr:
    """Sine of r + n pi/2."""
    square = r * r
    sine = let(square, lambda z: fma(z * r, horner(z, _SIN), r))
    cosine = let(square, lambda z: fma(z * z, horner(z, _COS), fma(z, -0.5, 1.0)))
    one, two = full(n, 1), full(n, 2)
    value = tirx.Select(tirx.EQ(n & one, one), cosine, sine)
    return let(value, lambda v: tirx.Select(tirx.EQ(n & two, two), -v, v))


def atan(x: Expr) -> Expr:
    """Arc tangent."""
    root = math.sqrt(3.0)

    def folded(t: Expr, size: Expr) -> Expr:
        inverted = tirx.Select(size > 1.0, 1.0 / size, size)
        return let(inverted, lambda u: finish(t, size, u))

    def finish(t: Expr, size: Expr, u: Expr) -> Expr:
        turned = u > full(u, 2.0 - root)  # then atan(u) = pi/6 + atan((u sqrt3 - 1) / (u + sqrt3))
        small = tirx.Select(turned, (u * full(u, root) - 1.0) / (u + full(u, root)), u)
        angle = let(small, lambda v: let(v * v, lambda z: fma(v * z, horner(z, _ATAN), v)))
        angle = let(angle, lambda a: tirx.Select(turned, a + full(a, math.pi / 6), a))
        angle = let(angle, lambda a: tirx.Select(size > 1.0, full(a, math.pi / 2) - a, a))
        return let(angle, lambda a: tirx.Select(t < 0.0, -a, tirx.Select(t > 0.0, a, t)))

    return let(x, lambda t: let(fabs(t), lambda size: folded(t, size)))


def asin(x: Expr) -> Expr:
    """Arc sine; NaN beyond -1 and 1."""
    return let(x, lambda t: atan(t / sqrt((1.0 - t) * (1.0 + t))))


def acos(x: Expr) -> Expr:
    """Arc cosine; NaN beyond -1 and 1."""
    return let(x, lambda t: 2.0 * atan(sqrt((1.0 - t) / (1.0 + t))))


def sinh(x: Expr) -> Expr:
    """Hyperbolic sine."""

    def large(t: Expr) -> Expr:
        half = exp(fabs(t) * 0.5)  # squared at the end, so that it overflows no sooner than the result
        size = let(half, lambda h: (h * 0.5) * h - 0.5 / (h * h))
        return let(size, lambda s: tirx.Select(t < 0.0, -s, s))

    return let(x, lambda t: tirx.Select(fabs(t) < 1.0, _sinh_near_zero(t), large(t)))


def _sinh_near_zero(t: Expr) -> Expr:
    return let(t * t, lambda z: fma(t * z, horner(z, _SINH), t))


def cosh(x: Expr) -> Expr:
    """Hyperbolic cosine."""
    return let(exp(fabs(x) * 0.5), lambda h: (h * 0.5) * h + 0.5 / (h * h))


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent."""

    def large(t: Expr) -> Expr:
        size = 1.0 - 2.0 / (exp(2.0 * fabs(t)) + 1.0)
        return let(size, lambda s: tirx.Select(t < 0.0, -s, s))

    def small(t: Expr) -> Expr:
        return let(_sinh_near_zero(t), lambda s: s / sqrt(1.0 + s * s))

    return let(x, lambda t: tirx.Select(fabs(t) < 1.0, small(t), large(t)))


def asinh(x: Expr) -> Expr:
    """Inverse hyperbolic sine."""

    def size(a: Expr) -> Expr:
        near = log1p(a + a * a / (1.0 + sqrt(a * a + 1.0)))
        return tirx.Select(a < full(a, 1e150), near, log(a) + full(a, math.log(2.0)))

    def signed(t: Expr) -> Expr:
        return let(let(fabs(t), size), lambda s: tirx.Select(t < 0.0, -s, s))

    return let(x, signed)


def acosh(x: Expr) -> Expr:
    """Inverse hyperbolic cosine; NaN below 1."""

    def from_one(t: Expr) -> Expr:
        near = log1p(t + sqrt(t * (t + 2.0)))
        return tirx.Select(t < full(t, 1e150), near, log(t) + full(t, math.log(2.0)))

    return let(x - 1.0, from_one)


def atanh(x: Expr) -> Expr:
    """Inverse hyperbolic tangent; NaN beyond -1 and 1."""
    return let(x, lambda t: 0.5 * log1p(2.0 * t / (1.0 - t)))


def erf(x: Expr) -> Expr:
    """Error function."""

    def size(a: Expr) -> Expr:
        near = let(a * a, lambda z: a * horner(z, _ERF))
        far = 1.0 - exp(-a * a) * horner(a, _ERFC_P) / horner(a, _ERFC_Q)
        return tirx.Select(a < 1.0, near, far)

    def signed(t: Expr) -> Expr:
        bounded = clamp(fabs(t), 0.0, 6.0)
        return let(let(bounded, size), lambda s: tirx.Select(t < 0.0, -s, s))

    return let(x, signed)


def hypot(x: Expr, y: Expr) -> Expr:
    """sqrt(x**2 + y**2); overflows where the squares do."""
    return let(x, lambda a: let(y, lambda b: sqrt(a * a + b * b)))


def fmod(x: Expr, y: Expr) -> Expr:
    """Remainder with the sign of x, exact, of scalars: a function of the support library, for it has a loop."""
    if scalar(x) == "float64":
        return tirx.call_pure_extern("float64", "fmod", x, y)
    return cast(tirx.call_pure_extern("float32", "fmodf", cast(x, "float32"), cast(y, "float32")), scalar(x))


def power(x: Expr, y: Expr) -> Expr:
    """Raise x to the y, with C's rules for zeros, infinities and negative x; exact powers up to 31 are exact."""
    return let(x, lambda a: let(y, lambda b: _power(a, b)))


def _power(x: Expr, y: Expr) -> Expr:
    one, zero = full(x, 1.0), full(x, 0.0)
    whole = tirx.EQ(y, trunc(y))
    odd = tirx.And(whole, tirx.NE(y * 0.5, trunc(y * 0.5)))
    size = exp(y * log(fabs(x)))
    signed = let(size, lambda s: tirx.Select(tirx.And(x < 0.0, odd), -s, s))
    legal = tirx.Or(tirx.Or(x >= 0.0, whole), tirx.EQ(x, full(x, -math.inf)))
    general = tirx.Select(tirx.Or(legal, tirx.Not(tirx.EQ(x, x))), signed, full(x, math.nan))
    small = tirx.And(whole, fabs(y) < 32.0)
    value = tirx.Select(small, _whole_power(x, y), general)
    trivial = tirx.Or(tirx.EQ(y, zero), tirx.EQ(x, one))
    balanced = tirx.And(tirx.EQ(fabs(x), one), tirx.EQ(fabs(y), full(y, math.inf)))
    return tirx.Select(tirx.Or(trivial, balanced), one, value)


def _whole_power(x: Expr, y: Expr) -> Expr:
    """By repeated squaring, for whole y of at most five bits."""
    exponent = cast(clamp(fabs(y), 0.0, 31.0), "int32")

    def product(n: Expr, base: Expr, value: Expr, bit: int) -> Expr:
        if bit == 5:
            return let(value, lambda v: tirx.Select(y < 0.0, 1.0 / v, v))
        mask = full(n, 1 << bit)
        taken = tirx.Select(tirx.EQ(n & mask, mask), value * base, value)
        return let(taken, lambda v: let(base * base, lambda b: product(n, b, v, bit + 1)))

    return let(exponent, lambda n: product(n, x, full(x, 1.0), 0))
