# SPDX-License-Identifier: Apache-2.0
"""From words of nibbles to float32, one table row for each way an instruction set offers it."""

from collections.abc import Callable
from typing import Any

from tvm.tirx.script import builder as T

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.group_format import NIBBLES

Expr = Any
Unpack = Callable[[Expr], Expr]

_NIBBLE = 15
_HALF_SHIFT, _HALF_GAIN = 13, 2.0**112
"""A float16 over 0 is its bits, so far up, as float32, times the difference of the exponents' offsets."""


def unpacker(isa: Isa, lanes: int) -> Callable[[Expr], list[Expr]]:
    """Makes, out of a vector of words, vectors of codes as float32; called once in a function, outside of its loops."""
    if isa.name == "avx512vnni" and lanes == 16:
        table = emit.Registers(1, "float32", lanes, [_counting(lanes)])
        return lambda words: [_looked_up(table[0], part) for part in _shifted(words)]
    return lambda words: [_converted(part) for part in _masked(words)]


def widened_scales(bits: Expr) -> Expr:
    """float16 numbers over 0, given by their bits, as float32; exact."""
    lanes = vector.lanes_of(bits)
    whole = T.cast(bits, vector.typed("int32", lanes)) << vector.const(_HALF_SHIFT, "int32", lanes)
    return T.reinterpret(vector.typed("float32", lanes), whole) * vector.const(_HALF_GAIN, "float32", lanes)


def _counting(lanes: int) -> Expr:
    return T.cast(T.ramp(vector.index(0), vector.index(1), lanes), vector.typed("float32", lanes))


def _words(words: Expr) -> Expr:
    lanes = vector.lanes_of(words)
    return emit.bind(T.cast(words, vector.typed("int32", lanes)))


def _shifted(words: Expr) -> list[Expr]:
    """Each nibble at the bottom of its lane, others above it."""
    wide = _words(words)
    lanes = vector.lanes_of(wide)
    return [wide >> vector.const(4 * j, "int32", lanes) if j else wide for j in range(NIBBLES[lanes])]


def _masked(words: Expr) -> list[Expr]:
    """Each nibble alone in its lane; nothing is above the last."""
    *others, last = _shifted(words)
    return [part & vector.const(_NIBBLE, "int32", vector.lanes_of(part)) for part in others] + [last]


def _converted(code: Expr) -> Expr:
    return emit.bind(T.cast(code, vector.typed("float32", vector.lanes_of(code))))


def _looked_up(table: Expr, index: Expr) -> Expr:
    """The instruction looks at four bits of the index only."""
    return emit.bind(T.call_llvm_pure_intrin(str(table.ty), "llvm.x86.avx512.permvar.sf.512", table, index))
