# SPDX-License-Identifier: Apache-2.0
"""Softmax against numpy: columns around every vector length, one row, extreme values."""

import itertools

import numpy as np
import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.softmax import SoftmaxKernel
from sparsec.compiler.lowering.ops import Softmax
from tests.backends.harness import Case, relative_error, run

KERNEL = SoftmaxKernel()
COLUMNS = (*range(1, 10), 15, 16, 17, 31, 33, 65, 197)


def cases(rng):
    for log, columns in itertools.product((False, True), COLUMNS):
        (spec,) = KERNEL.candidates(Softmax(1 if columns % 2 else 3, columns, log), "dense", 8)
        x = (rng.standard_normal((spec.op.rows, columns)) * rng.choice([1, 10, 80])).astype(np.float32)
        yield spec, x


@pytest.mark.parametrize("isa", ISAS)
def test_equals_numpy(isa):
    found = list(cases(np.random.default_rng(1)))
    results = run([Case(KERNEL.build(spec, ISAS[isa]), [x, np.zeros_like(x)]) for spec, x in found], isa)
    for (spec, x), (_, out) in zip(found, results, strict=True):
        assert relative_error(out, KERNEL.reference(spec, None, x)) < 1e-6, spec


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_empty_arrays(shape):
    for log in (False, True):
        (spec,) = KERNEL.candidates(Softmax(*shape, log), "dense", 8)
        run([Case(KERNEL.build(spec, ISAS["avx2"]), [np.zeros(shape, np.float32)] * 2)], "avx2")


def test_extreme_rows():
    x = np.array(
        [[1e30, -1e30, 0, 5], [-np.inf, 0, -np.inf, 0], [np.nan, 1, 2, 3], [-200, -201, -202, -203]], np.float32
    )
    (spec,) = KERNEL.candidates(Softmax(4, 4), "dense", 8)
    ((_, out),) = run([Case(KERNEL.build(spec, ISAS["avx2"]), [x, np.zeros_like(x)])], "avx2")
    np.testing.assert_allclose(out, KERNEL.reference(spec, None, x), rtol=1e-6, atol=1e-37)
