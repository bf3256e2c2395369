# SPDX-License-Identifier: Apache-2.0
"""Four vectors of numbers, one a channel, as one vector of words of four codes: the last step of an integer kernel.

Everywhere: a clamped number plus 2**23 has its code in the low byte, and shifts put the bytes together. x86 has
instructions that convert with rounding and narrow with saturation, which makes the lower clamp unnecessary; so has
WebAssembly's relaxed SIMD, whose conversion may make anything of a number that is too large, but always a negative
integer of one that is too small. ARM converts to unsigned integers, and has a shift that inserts.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.compiler.lowering.expression import Expression
from sparsec.compiler.lowering.ops import Epilogue

Expr = Any
_WORD = 4
_EXPONENT = 0x4B000000
"""The bits of 2**23 as float32."""
_BYTES = {"int8": 1, "int16": 2}
_CURRENT_ROUNDING = 4
_ROUNDED: dict[int, tuple[str, Callable[[Expr], Sequence[Expr]]]] = {
    4: ("llvm.x86.sse2.cvtps2dq", lambda value: [value]),
    8: ("llvm.x86.avx.cvt.ps2dq.256", lambda value: [value]),
    16: (
        "llvm.x86.avx512.mask.cvtps2dq.512",
        lambda value: [
            value,
            vector.const(0, "int32", 16),
            tirx.const(-1, "int16"),
            tirx.const(_CURRENT_ROUNDING, "int32"),
        ],
    ),
}
_NARROWED = {
    4: ("llvm.x86.sse2.packssdw.128", "llvm.x86.sse2.packuswb.128"),
    8: ("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb"),
    16: ("llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512"),
}


def before_joining(epilogue: Epilogue, isa: Isa, lanes: int) -> Expression:
    """The expression without what `joined` does anyway: the last rounding, and a clamp at 0 where it saturates."""
    *steps, (name, *operands) = epilogue.expression.steps
    if epilogue.dtype != "uint8" or name != "round" or operands != [len(steps) - 1]:
        return epilogue.expression
    return Expression(_open_below(tuple(steps)) if _saturates(isa, lanes) else tuple(steps))


def joined(values: Sequence[Expr], isa: Isa, lanes: int) -> Expr:
    """Up to four vectors of numbers, at most 127, as one of words, rounded half to even; missing ones are 0.

    Numbers are at least 0, unless `before_joining` left that clamp out.
    """
    if _is_neon(isa, lanes):
        return _inserted(values)
    if _is_relaxed(isa, lanes):
        return _in_words(_narrow_relaxed(values), lanes)
    return _in_words(_narrow(values, lanes), lanes) if _packs(isa, lanes) else _shifted(values, lanes)


def joined_quads(values: Sequence[Expr], isa: Isa, lanes: int) -> Expr:
    """The same for four vectors whose 16-byte lanes hold four channels: in each lane of the result a word of each."""
    if _packs(isa, lanes):
        return tirx.reinterpret(vector.typed("int32", lanes), _narrow(values, lanes))
    if _is_relaxed(isa, lanes):
        return tirx.reinterpret("int32x4", _narrow_relaxed(values))
    whole = _unsigned if _is_neon(isa, lanes) else partial(_integer, lanes=lanes)
    integers = [emit.bind(whole(value)) for value in values]
    if isa.wasm and lanes == _WORD:
        small = [emit.bind(value - vector.const(_EXPONENT, "int32", _WORD)) for value in integers]
        return tirx.reinterpret("int32x4", _narrow_wasm(small))
    a, b, c, d = integers
    low, high = _lower_halves(a, b, "int16"), _lower_halves(c, d, "int16")
    return tirx.reinterpret(vector.typed("int32", lanes), _lower_halves(low, high, "int8"))


def _lower_halves(a: Expr, b: Expr, dtype: str) -> Expr:
    """The lower half of each element, in each 16 bytes those of a before those of b."""
    size = _BYTES[dtype]
    count = 2 * vector.lanes_of(a)
    parts = [emit.bind(T.reinterpret(vector.typed(dtype, count), value)) for value in (a, b)]
    per = 16 // size
    order = [side * count + start + i for start in range(0, count, per) for side in (0, 1) for i in range(0, per, 2)]
    return emit.bind(tirx.Shuffle(parts, [vector.index(i) for i in order]))


def _narrow_wasm(integers: Sequence[Expr]) -> Expr:
    """Four codes of each vector of integers; with saturation."""
    shorts = [T.call_llvm_pure_intrin("int16x8", "llvm.wasm.narrow.signed", *integers[i : i + 2]) for i in (0, 2)]
    return emit.bind(T.call_llvm_pure_intrin("uint8x16", "llvm.wasm.narrow.unsigned", *shorts))


def _narrow_relaxed(values: Sequence[Expr]) -> Expr:
    nearest = [T.call_llvm_pure_intrin("float32x4", "llvm.nearbyint", value) for value in values]
    whole = [emit.bind(T.call_llvm_pure_intrin("int32x4", "llvm.wasm.relaxed.trunc.signed", n)) for n in nearest]
    return _narrow_wasm(whole + [vector.const(0, "int32", _WORD)] * (_WORD - len(whole)))


def _saturates(isa: Isa, lanes: int) -> bool:
    return _packs(isa, lanes) or _is_neon(isa, lanes) or _is_relaxed(isa, lanes)


def _packs(isa: Isa, lanes: int) -> bool:
    return isa.triple.startswith("x86_64") and lanes in _ROUNDED


def _is_relaxed(isa: Isa, lanes: int) -> bool:
    return isa.dot == "relaxed" and lanes == _WORD


def _is_neon(isa: Isa, lanes: int) -> bool:
    return isa.triple.startswith("aarch64") and lanes == _WORD


def _open_below(steps: tuple[Any, ...]) -> tuple[Any, ...]:
    """min(max(x, 0), roof) at the end becomes min(x, roof)."""
    if len(steps) < _WORD or steps[-1][0] != "min" or steps[-1][1:] != (len(steps) - 3, len(steps) - 2):
        return steps
    name, *operands = steps[-3]
    bounded = name == "max" and steps[-2][0] == "const" and steps[operands[1]] == ("const", 0.0)
    return (*steps[:-1], ("min", operands[0], len(steps) - 2)) if bounded else steps


def _shifted(values: Sequence[Expr], lanes: int) -> Expr:
    first, *others = [emit.bind(_integer(value, lanes)) for value in values]
    result = first & vector.const(255, "int32", lanes)
    for i, value in enumerate(others, 1):
        result = result | (value << vector.const(8 * i, "int32", lanes))
    return result


def _inserted(values: Sequence[Expr]) -> Expr:
    """Each shifted into the bits above those of the one before; first by bytes, then by halves."""
    whole = [emit.bind(_unsigned(value)) for value in values]
    a, b, c, d = whole + [vector.const(0, "int32", _WORD)] * (_WORD - len(whole))
    return _insert(_insert(a, b, 8), _insert(c, d, 8), 16)


def _insert(low: Expr, high: Expr, bits: int) -> Expr:
    return emit.bind(T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.vsli.v4i32", low, high, bits))


def _unsigned(value: Expr) -> Expr:
    """The nearest integer, half to even; 0 for what is negative."""
    return T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.fcvtnu.v4i32.v4f32", value)


def _integer(value: Expr, lanes: int) -> Expr:
    """A number below 256, rounded, in the low byte, and bits that a shift by 8 drops: adding 2**23 puts it there."""
    return T.reinterpret(vector.typed("int32", lanes), value + vector.const(8388608.0, "float32", lanes))


def _in_words(codes: Expr, lanes: int) -> Expr:
    """A vector with, in each 16 bytes, four codes of each channel in turn, as words of four channels."""
    order = [block + _WORD * c + p for block in range(0, 4 * lanes, 16) for p in range(4) for c in range(_WORD)]
    return tirx.reinterpret(vector.typed("int32", lanes), vector.pick(codes, order))


def _narrow(values: Sequence[Expr], lanes: int) -> Expr:
    """In each 16 bytes, four codes of each vector."""
    name, arguments = _ROUNDED[lanes]
    kind = vector.typed("int32", lanes)
    whole = [emit.bind(T.call_llvm_pure_intrin(kind, name, *arguments(value))) for value in values]
    whole += [vector.const(0, "int32", lanes)] * (_WORD - len(whole))
    to_short, to_byte = _NARROWED[lanes]
    pairs = [T.call_llvm_pure_intrin(vector.typed("int16", 2 * lanes), to_short, *whole[i : i + 2]) for i in (0, 2)]
    return emit.bind(T.call_llvm_pure_intrin(vector.typed("uint8", 4 * lanes), to_byte, *pairs))
