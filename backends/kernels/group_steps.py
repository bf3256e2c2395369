# SPDX-License-Identifier: Apache-2.0
"""The inner loop of a product with 4-bit groups: each weight becomes the float32 that it stands for, exactly.

Rounding activations to 16 bits instead, with a scale for each group of them so that outliers cost nobody else digits,
and adding pairs of int16 products was slower on AVX-512: it takes more loads, which are what limits.
"""

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.dot import multiply_add
from sparsec.backends.kernels.group_format import Format
from sparsec.backends.kernels.group_unpack import splats, unpacked, widened_scales
from sparsec.compiler.lowering.ops import GroupedLinear

Expr = Any


@dataclass(frozen=True, slots=True)
class Arrays:
    """The function's parameters; `places` and `ends` of the dense kernel are None."""

    x: Expr
    words: Expr
    bits: Expr
    zeros: Expr
    places: Expr | None
    ends: Expr | None


@dataclass(frozen=True, slots=True)
class Tokens:
    """Neighbouring tokens that share the unpacked weights."""

    first: Expr
    count: int


def _row_groups(form: Format) -> int:
    """Groups of a row, and a vector's that are prepared beyond."""
    return form.row_steps * form.together + form.lanes


class Steps:
    """Emits the steps of rows; made where the function begins."""

    def __init__(self, op: GroupedLinear, form: Format, isa: Isa, arrays: Arrays) -> None:
        self._inputs, self._form, self._isa, self._arrays = op.inputs, form, isa, arrays
        self._scales, self._shifts = (T.alloc_buffer((_row_groups(form),), "float32") for _ in range(2))

    def widen(self, start: Expr, groups: Expr) -> None:
        """Scales, and what each adds to a code's product: minus scale times zero point."""
        lanes, arrays = self._form.lanes, self._arrays
        with emit.loop_range(0, tirx.truncdiv(groups + (lanes - 1), lanes)) as i:
            scale = emit.bind(widened_scales(vector.load(arrays.bits, start + i * lanes, lanes)))
            zero = T.cast(vector.load(arrays.zeros, start + i * lanes, lanes), vector.typed("int32", lanes))
            shift = T.cast(zero, vector.typed("float32", lanes)) * scale * vector.const(-1, "float32", lanes)
            emit.store(self._scales, i * lanes, scale)
            emit.store(self._shifts, i * lanes, shift)

    def step(self, sums: emit.Registers, tokens: Tokens, first: Expr, step: Expr, chain: int) -> None:
        """Add one step, the row's `step`th, to the sums; `first` is the row's first, `chain` the sum to begin with.

        Each weight is scale * code + shift. A step is the groups of one unit, or all units of one group.
        """
        form = self._form
        number = step * form.together
        scales = [emit.bind(vector.splat(self._scales[number + g], form.lanes)) for g in range(form.together)]
        shifts = splats(self._shifts, number, form.together, form.lanes)
        at = [self._start(first * form.together, number + g) for g in range(form.together)]
        for unit in range(form.units):
            start = ((first + step) * form.units + unit) * form.lanes
            for j, code in enumerate(unpacked(vector.load(self._arrays.words, start, form.lanes))):
                inside = unit * form.unit + j * form.lanes
                g = inside // form.group
                weight = emit.bind(multiply_add(self._isa, code, scales[g], shifts[g]))
                for token in range(tokens.count):
                    place = at[g] + (tokens.first + token) * self._inputs + inside % form.group
                    x = emit.bind(vector.load(self._arrays.x, place, form.lanes))
                    index = _index(len(sums), tokens.count, token, chain)
                    sums[index] = multiply_add(self._isa, weight, x, sums[index])
                chain += 1

    def _start(self, first: Expr, number: Expr) -> Expr:
        """Where a group's activations start; a group that fills up a dense row reads those of the last."""
        form, places = self._form, self._arrays.places
        if places is not None:
            return emit.bind(T.cast(places[first + number], "int32") * form.group)
        place = number if form.groups % form.together == 0 else T.min(number, form.groups - 1)
        return emit.bind(place * form.group)


def _index(sums: int, tokens: int, token: int, chain: int) -> int:
    """Which of a token's sums."""
    chains = sums // tokens
    return token * chains + chain % chains
