# SPDX-License-Identifier: Apache-2.0
"""Pooling against numpy: strides, pads, dilation, ceil mode, counted padding, extents around every vector length."""

import itertools

import numpy as np
import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.pool import PoolKernel
from sparsec.compiler.lowering.ops import Pool
from tests.backends.harness import Case, relative_error, run

KERNEL = PoolKernel()


def pool(
    kind, size, kernel, stride=(1, 1), pads=(0, 0, 0, 0), dilation=(1, 1), ceil=False, count_pad=False, channels=2
):
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    spare = [s + pads[i] + pads[i + 2] - r for i, (s, r) in enumerate(zip(size, reach, strict=True))]
    up = [step - 1 if ceil else 0 for step in stride]
    out = tuple((e + u) // step + 1 for e, u, step in zip(spare, up, stride, strict=True))
    out = tuple(o - ((o - 1) * s >= e + p) for o, s, e, p in zip(out, stride, size, pads, strict=False))
    return Pool(kind, channels, size, out, kernel, stride, dilation, pads, count_pad)


def ops():
    for kind, width, stride in itertools.product(("max", "average"), (3, 9, 18, 67), (1, 2, 3)):
        yield pool(kind, (4, width), (2, 3), (stride, stride))
        yield pool(kind, (5, width), (3, 3), (stride, stride), (1, 1, 1, 1), count_pad=width % 2 == 0)
    for kind, count_pad in (("max", False), ("average", False), ("average", True)):
        yield pool(kind, (9, 20), (3, 3), (2, 2), ceil=True, count_pad=count_pad)
        yield pool(kind, (9, 20), (3, 3), (2, 2), (0, 0, 1, 1), ceil=True, count_pad=count_pad)
        yield pool(kind, (9, 20), (2, 3), (1, 2), (2, 3, 1, 2), (2, 3), count_pad=count_pad)
        yield pool(kind, (12, 30), (7, 9), (3, 1), (3, 4, 3, 4), count_pad=count_pad)
        yield pool(kind, (1, 40), (1, 5), (1, 4), (0, 2, 0, 2), count_pad=count_pad, channels=5)
        yield pool(kind, (2, 2), (2, 2), channels=1)


@pytest.mark.parametrize("isa", ISAS)
def test_equals_numpy(isa):
    rng = np.random.default_rng(1)
    found = [next(iter(KERNEL.candidates(op, "dense", 8))) for op in dict.fromkeys(ops())]
    data = [(rng.standard_normal((s.op.channels, *s.op.size)) - 2).astype(np.float32) for s in found]
    expected = [KERNEL.reference(s, None, x) for s, x in zip(found, data, strict=True)]
    zipped = zip(found, data, expected, strict=True)
    cases = [Case(KERNEL.build(s, ISAS[isa]), [x, np.zeros_like(e)]) for s, x, e in zipped]
    for spec, right, (_, out) in zip(found, expected, run(cases, isa), strict=True):
        assert relative_error(out, right) < (1e-12 if spec.op.kind == "max" else 1e-6), spec


def test_max_keeps_nan():
    x = np.arange(128, dtype=np.float32).reshape(1, 8, 16)
    x[0, 3, 9] = np.nan
    (spec,) = KERNEL.candidates(pool("max", (8, 16), (3, 3), pads=(1, 1, 1, 1), channels=1), "dense", 8)
    ((_, out),) = run([Case(KERNEL.build(spec, ISAS["avx2"]), [x, np.zeros_like(x)])], "avx2")
    np.testing.assert_array_equal(out, KERNEL.reference(spec, None, x))
    assert np.isnan(out).sum() == 9
