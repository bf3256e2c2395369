# SPDX-License-Identifier: Apache-2.0
"""Layer normalization against numpy: columns around every vector length, one row, a large mean."""

import numpy as np
import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.layernorm import LayerNormKernel
from sparsec.compiler.lowering.ops import LayerNorm
from tests.backends.harness import Case, relative_error, run

KERNEL = LayerNormKernel()
COLUMNS = (*range(1, 10), 15, 16, 17, 33, 65, 100, 384)


def cases(rng):
    for columns in COLUMNS:
        (spec,) = KERNEL.candidates(LayerNorm(columns % 3 + (columns != 9), columns, 1e-5), "dense", 8)
        x = rng.standard_normal((spec.op.rows, columns)) * 3 + (100 if columns == 100 else 1)
        yield spec, [array.astype(np.float32) for array in (x, rng.random(columns), rng.random(columns))]


@pytest.mark.parametrize("isa", ISAS)
def test_equals_numpy(isa):
    found = list(cases(np.random.default_rng(1)))
    built = [Case(KERNEL.build(spec, ISAS[isa]), [*arrays, np.zeros_like(arrays[0])]) for spec, arrays in found]
    for (spec, arrays), (*_, out) in zip(found, run(built, isa), strict=True):
        assert relative_error(out, KERNEL.reference(spec, None, *arrays)) < 1e-5, spec
