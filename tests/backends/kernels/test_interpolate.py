# SPDX-License-Identifier: Apache-2.0
"""Resizing against numpy: up and down, one row or column, widths around every vector length."""

import itertools

import numpy as np
import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.interpolate import InterpolateKernel
from sparsec.compiler.lowering.ops import Interpolate
from tests.backends.harness import Case, relative_error, run

KERNEL = InterpolateKernel()
WIDTHS = ((1, 1), (1, 5), (2, 3), (3, 8), (7, 13), (20, 40), (16, 9), (33, 67))


def table(size, out, linear):
    """Half-pixel positions, clamped to the image."""
    place = np.clip((np.arange(out) + 0.5) * size / out - 0.5, 0, size - 1)
    low = np.floor(place) if linear else np.rint(place)
    return [low.astype(np.int32), (place - low if linear else 0 * place).astype(np.float32)]


@pytest.mark.parametrize("isa", ISAS)
def test_equals_numpy(isa):
    rng = np.random.default_rng(1)
    found = []
    for linear, (width, out) in itertools.product((True, False), WIDTHS):
        op = Interpolate(2, (width % 5 + 1, width), (out % 7 + 1, out), linear)
        (spec,) = KERNEL.candidates(op, "dense", 8)
        tables = [t for axis in (0, 1) for t in table(op.size[axis], op.out_size[axis], linear)]
        found.append((spec, [rng.standard_normal((2, *op.size)).astype(np.float32), *tables]))
    built = [Case(KERNEL.build(s, ISAS[isa]), [*a, np.zeros((2, *s.op.out_size), np.float32)]) for s, a in found]
    for (spec, arrays), (*_, out) in zip(found, run(built, isa), strict=True):
        assert relative_error(out, KERNEL.reference(spec, None, *arrays)) < 1e-6, spec
