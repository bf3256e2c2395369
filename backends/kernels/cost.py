# SPDX-License-Identifier: Apache-2.0
"""Prices of kernels from bytes and operations, and the names of the profile's numbers they use.

A profile maps these names to measured numbers of one machine:

- ``call_us``: microseconds to call a kernel and fill its pipeline;
- ``bytes_per_us``: bytes a microsecond streamed between second-level cache and registers, reads and writes together;
- ``float32_ops_per_us``: float32 vector operations a microsecond, each lane counted, in code that is not a dot product.
"""

from math import prod

import numpy as np

from sparsec.compiler.lowering.expression import Expression
from sparsec.compiler.lowering.kernel import Profile

_WEIGHTS = {"exp": 14, "log": 18, "tanh": 20, "erf": 24, "sigmoid": 18, "div": 4, "sqrt": 5, "select": 2}
"""Vector instructions of what is not one instruction."""


def streaming(profile: Profile, nbytes: float, operations: float) -> float:
    """Microseconds of a kernel that reads and writes `nbytes` and does float32 `operations`, whichever takes longer."""
    return profile["call_us"] + max(nbytes / profile["bytes_per_us"], operations / profile["float32_ops_per_us"])


def expression_operations(expression: Expression) -> int:
    """float32 operations for one element."""
    return sum(_WEIGHTS.get(str(step[0]), 1) for step in expression.steps if step[0] not in ("arg", "const"))


def nbytes(dtype: str, *shape: int) -> int:
    """Bytes of an array; `dtype` is a numpy name."""
    return prod(shape) * np.dtype(dtype).itemsize
