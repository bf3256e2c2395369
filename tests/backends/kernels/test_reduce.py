# SPDX-License-Identifier: Apache-2.0
"""Reductions against numpy: the last axis and others, extents around every vector length, NaN."""

import itertools

import numpy as np
import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.reduce import KINDS, ReduceKernel
from sparsec.compiler.lowering.ops import Reduce
from tests.backends.harness import Case, relative_error, run

KERNEL = ReduceKernel()
EXTENTS = (1, 2, 3, 5, 8, 13, 16, 17, 49, 67, 150)


def specs():
    kinds = itertools.cycle(KINDS)
    for extent in EXTENTS:
        for outer in (1, 3):
            yield Reduce(next(kinds), outer, extent, 1)
            yield Reduce(next(kinds), outer, 3, extent)
        yield Reduce(next(kinds), 2, 1, extent)


@pytest.mark.parametrize("isa", ISAS)
def test_equals_numpy(isa):
    rng = np.random.default_rng(1)
    found = [next(iter(KERNEL.candidates(op, "dense", 8))) for op in specs()]
    data = [(rng.standard_normal(s.op.outer * s.op.axis * s.op.inner) + 3).astype(np.float32) for s in found]
    outs = [np.zeros((s.op.outer, s.op.inner), np.float32) for s in found]
    cases = [Case(KERNEL.build(s, ISAS[isa]), [x, out]) for s, x, out in zip(found, data, outs, strict=True)]
    for spec, x, (_, out) in zip(found, data, run(cases, isa), strict=True):
        expected = KERNEL.reference(spec, None, x)
        assert relative_error(out, expected) < (0 if spec.op.kind in ("max", "min") else 1e-6) + 1e-12, spec


@pytest.mark.parametrize("isa", ["avx2", "simd128"])
def test_empty_arrays(isa):
    ops = [Reduce(kind, 2, 0, inner) for kind in ("sum", "max", "min") for inner in (1, 5)]
    ops += [Reduce("sum", 0, 3, 1), Reduce("sum", 2, 3, 0)]
    found = [next(iter(KERNEL.candidates(op, "dense", 8))) for op in ops]
    empty = np.zeros(0, np.float32)
    outs = [np.ones((op.outer, op.inner), np.float32) for op in ops]
    cases = [Case(KERNEL.build(s, ISAS[isa]), [empty, out]) for s, out in zip(found, outs, strict=True)]
    for spec, (_, out) in zip(found, run(cases, isa), strict=True):
        np.testing.assert_array_equal(out, KERNEL.reference(spec, None, empty))


def test_extremes_keep_nan():
    x = np.arange(60, dtype=np.float32).reshape(3, 20)
    x[1, 7] = np.nan
    found = [next(iter(KERNEL.candidates(Reduce(kind, 3, 20, 1), "dense", 8))) for kind in ("max", "min")]
    cases = [Case(KERNEL.build(spec, ISAS["avx2"]), [x, np.zeros((3, 1), np.float32)]) for spec in found]
    for spec, (_, out) in zip(found, run(cases, "avx2"), strict=True):
        np.testing.assert_array_equal(out, KERNEL.reference(spec, None, x))
