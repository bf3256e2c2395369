# SPDX-License-Identifier: Apache-2.0
"""From what a group stores to float32: words of nibbles to codes, bits of float16 to scales."""

from typing import Any

from tvm.tirx.script import builder as T

from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.group_format import NIBBLES

Expr = Any
_NIBBLE = 15
_TABLE_LANES = 16
_HALF_SHIFT, _HALF_GAIN = 13, 2.0**112
"""A float16 over 0 is its bits, so far up, as float32, times the difference of the exponents' offsets."""


def unpacked(words: Expr) -> list[Expr]:
    """Vectors of codes as float32, the first nibbles first; nothing is above the last nibble."""
    lanes = vector.lanes_of(words)
    if lanes == _TABLE_LANES:
        return _looked_up(words)
    *others, last = _shifted(words)
    masked = [part & vector.const(_NIBBLE, "int32", lanes) for part in others] + [last]
    return [emit.bind(T.cast(code, vector.typed("float32", lanes))) for code in masked]


def _shifted(words: Expr) -> list[Expr]:
    """Each nibble at the bottom of its lane, others above it."""
    lanes = vector.lanes_of(words)
    wide = emit.bind(T.cast(words, vector.typed("int32", lanes)))
    return [wide >> vector.const(4 * j, "int32", lanes) if j else wide for j in range(NIBBLES[lanes])]


def _looked_up(words: Expr) -> list[Expr]:
    """The same by a table of sixteen numbers: the instruction looks at four bits of an index only."""
    lanes = vector.lanes_of(words)
    table = T.cast(T.ramp(vector.index(0), vector.index(1), lanes), vector.typed("float32", lanes))
    return [
        emit.bind(T.call_llvm_pure_intrin(str(table.ty), "llvm.x86.avx512.permvar.sf.512", table, part))
        for part in _shifted(words)
    ]


def splats(array: Expr, start: Expr, count: int, lanes: int) -> list[Expr]:
    """Neighbouring float32, each in all lanes; several by one load and shuffles, where loads are what limits."""
    if count == 1:
        return [emit.bind(vector.splat(array[start], lanes))]
    runs = vector.concat([vector.load(array, start, count)] * (lanes // count))
    fenced = emit.bind(T.call_llvm_pure_intrin(str(runs.ty), "llvm.arithmetic.fence", runs))
    return [emit.bind(vector.pick(fenced, [i - i % count + lane for i in range(lanes)])) for lane in range(count)]


def widened_scales(bits: Expr) -> Expr:
    """float16 numbers over 0, given by their bits, as float32; exact."""
    lanes = vector.lanes_of(bits)
    whole = T.cast(bits, vector.typed("int32", lanes)) << vector.const(_HALF_SHIFT, "int32", lanes)
    return T.reinterpret(vector.typed("float32", lanes), whole) * vector.const(_HALF_GAIN, "float32", lanes)
