# SPDX-License-Identifier: Apache-2.0
"""Prices of the products with 4-bit groups, from instructions and bytes."""

from collections.abc import Sequence

import numpy as np

from sparsec.backends.kernels.group_format import NIBBLES, Format
from sparsec.backends.kernels.product_cost import epilogue_us
from sparsec.compiler.lowering.kernel import Array, Profile
from sparsec.compiler.lowering.ops import GroupedLinear


def group_cost(
    op: GroupedLinear, form: Format, unroll: int, kept: Sequence[int] | Array, *, sparse: bool, profile: Profile
) -> float:
    """Microseconds of a product with so many kept groups in each row."""
    groups = float(np.sum(kept))
    steps = float(np.sum(-(-np.asarray(kept) // form.together)))
    nibbles = NIBBLES[form.lanes]
    step = form.units * (1 + nibbles * (3.0 + 2 * op.positions)) + form.together * (5.0 if sparse else 3.0)
    vectors = steps * (step + 2.0 / unroll) + form.outputs * (12 + 4 * op.positions)
    compute = vectors * form.lanes / profile["float32_ops_per_us"] / 2
    streamed = form.stream_bytes(int(groups)) / profile["bytes_per_us"]
    finish = op.positions * epilogue_us(op.epilogue, form.outputs / form.lanes, profile)
    return profile["call_us"] + max(compute, streamed) + finish
