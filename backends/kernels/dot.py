# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulate, one table row for each way an instruction set offers it.

The unit of work is a vector of 32-bit elements: one float32, or a word of four codes of neighbouring channels. An
activation is a code in 0..127, a weight an int8; each way sums the four products of a word exactly into int32:
a pair of products is at most 2 * 127 * 128 = 32512, so that 16-bit intermediates hold it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script import builder as T

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector

Expr = Any
Prepared = tuple[Expr, ...]
_QUAD = 4
_LOW, _HIGH = range(8), range(8, 16)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How one instruction set multiplies and accumulates vectors of one type.

    Attributes:
        dtype: Type of the 32-bit elements that are loaded: ``float32``, or ``int32`` for words of four codes.
        activation: Splits a vector of activations into what `accumulate` takes; done once, used for many rows.
        weight: The same for a vector of weights.
        accumulate: (accumulator, activation, weight) -> new accumulator, of `dtype`.
        pair: Splits two neighbouring vectors of activations, loaded as one, where that is cheaper than `activation`.
        lane: The weight in one lane of a vector of four, for all lanes; what goes with activations out of a `pair`.
    """

    dtype: str
    activation: Callable[[Expr], Prepared]
    weight: Callable[[Expr], Prepared]
    accumulate: Callable[[Expr, Prepared, Prepared], Expr]
    pair: Callable[[Expr], tuple[Prepared, Prepared]] | None = None
    lane: Callable[[Expr, int], Prepared] | None = None


def arithmetic(isa: Isa, dtype: str) -> Arithmetic:
    """The fastest exact way of `isa` for operands of `dtype` (``float32``, or ``uint8`` codes)."""
    return _INTEGER[_integer_way(isa)] if dtype == "uint8" else _FLOAT[_float_way(isa)]


def splats(isa: Isa, source: Expr, at: Expr, count: int, lanes: int) -> Iterator[Expr]:
    """`count` consecutive 32-bit weights, each in all lanes of a vector, each made when it is asked for.

    So that it stands before its use: LLVM runs out of registers where a full tile's weights are all made first.
    ARM multiplies by one lane of a register, so that one load serves four rows; the others broadcast from memory.
    """
    quads = count // 4 if isa.triple.startswith("aarch64") and lanes == 4 else 0
    loaded = [emit.bind(vector.load(source, at + 4 * i, 4)) for i in range(quads)]
    yield from [emit.bind(vector.pick(quad, [lane] * 4)) for quad in loaded for lane in range(4)]
    for i in range(4 * quads, count):
        yield emit.bind(vector.splat(source[at + i], lanes))


def activations(
    way: Arithmetic, load: Callable[[int, int], Expr], offsets: Sequence[int], lanes: int
) -> list[Prepared]:
    """Vectors of activations, each ready to be multiplied by many weights.

    Args:
        way: How.
        load: (offset, lanes) -> so many neighbouring elements.
        offsets: Of the vectors.
        lanes: Of each vector.
    """
    found: list[Prepared] = []
    while len(found) < len(offsets):
        first, *others = offsets[len(found) :]
        if way.pair and lanes == _QUAD and others[:1] == [first + lanes]:
            found += way.pair(emit.bind(load(first, 2 * lanes)))
        else:
            found.append(way.activation(emit.bind(load(first, lanes))))
    return found


def weights(isa: Isa, way: Arithmetic, source: Expr, at: Expr, count: int, lanes: int) -> Iterator[Prepared]:
    """`count` consecutive 32-bit weights, each in all lanes of a vector and ready to be multiplied."""
    if way.lane is None or lanes != _QUAD:
        yield from map(way.weight, splats(isa, source, at, count, lanes))
        return
    quads = count - count % _QUAD
    for first in range(0, quads, _QUAD):
        loaded = emit.bind(vector.load(source, at + first, _QUAD))
        yield from (way.lane(loaded, i) for i in range(_QUAD))
    for i in range(quads, count):
        yield way.lane(emit.bind(vector.splat(source[at + i], _QUAD)), 0)


def multiply_add(isa: Isa, a: Expr, b: Expr, c: Expr) -> Expr:
    """Multiply and add float32: a * b + c, in one instruction where there is one."""
    return _FLOAT[_float_way(isa)].accumulate(c, (a,), (b,))


def _float_way(isa: Isa) -> str:
    return "separate" if not isa.fma else "relaxed" if isa.wasm else "fused"


def _integer_way(isa: Isa) -> str:
    return isa.dot if isa.dot != "widen" else "widen-wasm" if isa.wasm else "widen-neon"


def _plain(value: Expr) -> Prepared:
    return (value,)


def _separate(c: Expr, a: Prepared, b: Prepared) -> Expr:
    return a[0] * b[0] + c


def _fused(c: Expr, a: Prepared, b: Prepared) -> Expr:
    return _call(c, "llvm.fma", a[0], b[0], c)


def _relaxed_fused(c: Expr, a: Prepared, b: Prepared) -> Expr:
    """WebAssembly has the instruction for four lanes only."""
    known = vector.lanes_of(c) == 4
    return _call(c, "llvm.wasm.relaxed.madd", a[0], b[0], c) if known else _separate(c, a, b)


def _call(like: Expr, name: str, *args: Expr) -> Expr:
    return T.call_llvm_pure_intrin(str(like.ty), name, *args)


def _as(value: Expr, dtype: str) -> Expr:
    """The same bits as elements of another type."""
    element = {"int8": 1, "uint8": 1, "int16": 2}[dtype]
    return T.reinterpret(vector.typed(dtype, vector.lanes_of(value) * 4 // element), value)


def _unsigned_bytes(value: Expr) -> Prepared:
    return (_as(value, "uint8"),)


def _signed_bytes(value: Expr) -> Prepared:
    return (_as(value, "int8"),)


def _vpdpbusd(c: Expr, x: Prepared, w: Prepared) -> Expr:
    return _call(c, f"llvm.x86.avx512.vpdpbusd.{vector.lanes_of(c) * 32}", c, x[0], w[0])


_PMADD = {4: ("llvm.x86.ssse3.pmadd.ub.sw.128", "llvm.x86.sse2.pmadd.wd"),
          8: ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd")}  # fmt: skip


def _pmaddubsw(c: Expr, x: Prepared, w: Prepared) -> Expr:
    lanes = vector.lanes_of(c)
    bytes_to_pairs, pairs_to_words = _PMADD[lanes]
    pairs = T.call_llvm_pure_intrin(f"int16x{2 * lanes}", bytes_to_pairs, x[0], w[0])
    return c + _call(c, pairs_to_words, pairs, vector.const(1, "int16", 2 * lanes))


def _sdot(c: Expr, x: Prepared, w: Prepared) -> Expr:
    return _call(c, "llvm.aarch64.neon.sdot.v4i32.v16i8", c, x[0], w[0])


def _relaxed(c: Expr, x: Prepared, w: Prepared) -> Expr:
    """The operand of 7 bits is the second; there the instruction means the same on every engine."""
    return _call(c, "llvm.wasm.relaxed.dot.i8x16.i7x16.add.signed", w[0], x[0], c)


def _wasm_activation(value: Expr) -> Prepared:
    """Even and odd bytes, each extended to 16 bits, so that products of one word stay in its lane."""
    half = _as(value, "int16")
    lanes = vector.lanes_of(half)
    even, odd = half & vector.const(255, "int16", lanes), half >> vector.const(8, "int16", lanes)
    return (emit.bind(even), emit.bind(odd))


def _wasm_weight(value: Expr) -> Prepared:
    half = _as(value, "int16")
    eight = vector.const(8, "int16", vector.lanes_of(half))
    return (emit.bind((half << eight) >> eight), emit.bind(half >> eight))


def _wasm_pairs(c: Expr, x: Prepared, w: Prepared) -> Expr:
    even, odd = (_call(c, "llvm.wasm.dot", a, b) for a, b in zip(x, w, strict=True))
    return c + even + odd


def _halves(value: Expr) -> Prepared:
    """The lower and the upper 16 bits of each word, as bytes: NEON multiplies eight of them by eight."""
    whole = emit.bind(_as(value, "int16"))
    return tuple(_bytes_of(vector.pick(whole, range(i, vector.lanes_of(whole), 2))) for i in (0, 1))


def _pair_of_halves(value: Expr) -> tuple[Prepared, Prepared]:
    """Of two vectors, whose halves fill registers: one load parts them. The second's are in the upper parts."""
    halves = [fenced(half) for half in _halves(value)]
    low, high = (tuple(vector.pick(half, part) for half in halves) for part in (_LOW, _HIGH))
    return low, (None, None, *high)


def _lane_of_halves(quad: Expr, lane: int) -> Prepared:
    """In both parts of a register."""
    shorts = _as(quad, "int16")
    halves = [fenced(vector.pick(shorts, [2 * lane + i] * 8)) for i in (0, 1)]
    return tuple(vector.pick(half, part) for part in (_LOW, _HIGH) for half in halves)


def _bytes_of(shorts: Expr) -> Expr:
    return emit.bind(T.reinterpret(vector.typed("int8", 2 * vector.lanes_of(shorts)), emit.bind(shorts)))


def fenced(value: Expr) -> Expr:
    """16 bytes as a register of which LLVM does not know what it holds, and so takes halves of it where they are."""
    fence = _call(T.reinterpret("float32x4", value), "llvm.arithmetic.fence", T.reinterpret("float32x4", value))
    return emit.bind(T.reinterpret("int8x16", fence))


def _neon_pairs(c: Expr, x: Prepared, w: Prepared) -> Expr:
    """Of a weight in both parts of a register, the part that the activation is in."""
    given = [(a, b) for a, b in zip(x, w[: len(x)], strict=True) if a is not None]
    low, high = (T.call_llvm_pure_intrin("int16x8", "llvm.aarch64.neon.smull.v8i16", a, b) for a, b in given)
    return c + _call(c, "llvm.aarch64.neon.saddlp.v4i32.v8i16", low + high)


def _products(c: Expr, x: Prepared, w: Prepared) -> Expr:
    """Plain integer arithmetic on each byte, for vectors that the instructions do not know."""
    for shift in (24, 16, 8, 0):
        c = c + _byte(x[0], shift) * _byte(w[0], shift)
    return c


def _byte(word: Expr, shift: int) -> Expr:
    lanes = vector.lanes_of(word)
    return (word << vector.const(shift, "int32", lanes)) >> vector.const(24, "int32", lanes)


_SCALAR = Arithmetic("int32", _plain, _plain, _products)


def _from(widths: Sequence[int], way: Arithmetic) -> Arithmetic:
    """`way` for vectors of these lanes, `_SCALAR` for all others."""

    def pick(value: Expr) -> Arithmetic:
        return way if vector.lanes_of(value) in widths else _SCALAR

    return Arithmetic(
        "int32",
        lambda value: pick(value).activation(value),
        lambda value: pick(value).weight(value),
        lambda c, x, w: pick(c).accumulate(c, x, w),
        way.pair,
        way.lane,
    )


_FLOAT = {
    "fused": Arithmetic("float32", _plain, _plain, _fused),
    "relaxed": Arithmetic("float32", _plain, _plain, _relaxed_fused),
    "separate": Arithmetic("float32", _plain, _plain, _separate),
}
_INTEGER = {
    "vpdpbusd": _from((4, 8, 16), Arithmetic("int32", _unsigned_bytes, _signed_bytes, _vpdpbusd)),
    "pmaddubsw": _from((4, 8), Arithmetic("int32", _unsigned_bytes, _signed_bytes, _pmaddubsw)),
    "sdot": _from((4,), Arithmetic("int32", _signed_bytes, _signed_bytes, _sdot)),
    "relaxed": _from((4,), Arithmetic("int32", _signed_bytes, _signed_bytes, _relaxed)),
    "widen-wasm": _from((4,), Arithmetic("int32", _wasm_activation, _wasm_weight, _wasm_pairs)),
    "widen-neon": _from((4,), Arithmetic("int32", _halves, _halves, _neon_pairs, _pair_of_halves, _lane_of_halves)),
}
