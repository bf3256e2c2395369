# SPDX-License-Identifier: Apache-2.0
"""Prices of the products with 4-bit groups, from instructions and bytes."""

from collections.abc import Sequence

import numpy as np

from sparsec.backends.kernels.group_format import NIBBLES, Format
from sparsec.backends.kernels.product_cost import epilogue_us
from sparsec.compiler.lowering.kernel import Array, Profile
from sparsec.compiler.lowering.ops import GroupedLinear

_UNPACK = {4: 2.5, 8: 2.2, 16: 1.0}
"""Instructions from a nibble to a weight, by lanes: shift, mask, conversion, scale; or shift, table, scale."""
_MULTIPLY = {4: 5.0, 8: 2.2, 16: 2.2}
"""The same for a token, by what it takes: loads are what there is least of."""
_WIDEN = 9.0
"""Instructions for a vector of scales and zero points."""
_ROW, _TOKEN = 20.0, 4.0
"""Instructions for each row, and each of its tokens: where it starts and ends, sums across lanes."""
_OVERLAP = 2.0
"""So many times as many instructions a microsecond as in the profile's chain of sums: nothing waits for the last."""


def group_cost(
    op: GroupedLinear, form: Format, kept: Sequence[int] | Array, together: int, *, sparse: bool, profile: Profile
) -> float:
    """Microseconds of a product with so many kept groups in each row; `together` tokens share an unpacked weight."""
    counts = np.asarray(kept, np.int64)
    steps = float((-(-counts // form.together)).sum())
    blocks = -(-op.positions // together)
    unit = 1 + NIBBLES[form.lanes] * _UNPACK[form.lanes]
    shared = form.units * unit + form.together * ((3 if sparse else 2) + _WIDEN / form.lanes)
    own = form.units * NIBBLES[form.lanes] * _MULTIPLY[form.lanes]
    instructions = steps * (blocks * shared + op.positions * own)
    instructions += form.outputs * (blocks * _ROW + op.positions * _TOKEN)
    compute = instructions * form.lanes / (_OVERLAP * profile["float32_ops_per_us"])
    streamed = blocks * form.stream_bytes(int(counts.sum())) / profile["bytes_per_us"]
    finish = op.positions * epilogue_us(op.epilogue, form.outputs / form.lanes, profile)
    return profile["call_us"] + max(compute, streamed) + finish
