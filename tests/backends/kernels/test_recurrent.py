# SPDX-License-Identifier: Apache-2.0
"""Recurrent cells against numpy: every kind, hidden sizes around every block, several steps."""

import itertools

import numpy as np
import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.recurrent import GATES, RecurrentKernel
from sparsec.compiler.lowering.ops import RecurrentCell
from tests.backends.harness import Case, relative_error, run

KERNEL = RecurrentKernel()
KINDS = (("lstm", False), ("gru", False), ("gru", True), ("rnn", False))


def case(spec, rng):
    """Weight, operands of the reference, arrays of the function."""
    op = spec.op
    hidden, rows = op.hidden, GATES[op.kind] * op.hidden
    weight = (rng.standard_normal((rows, hidden)) / np.sqrt(hidden)).astype(np.float32)
    x, bias, h, c = (rng.standard_normal(n).astype(np.float32) for n in (rows, hidden, hidden, hidden))
    extra, carry = [bias] if op.linear_before_reset else [], [c] if op.kind == "lstm" else []
    news = [np.zeros(hidden, np.float32) for _ in range(2)]
    arrays = [x, *KERNEL.pack(spec, weight), *extra, h, news[0], *carry, *news[1 : 1 + len(carry)]]
    return weight, [x, *extra, h, *carry], arrays


@pytest.mark.parametrize("isa", ISAS)
def test_equals_numpy(isa):
    rng = np.random.default_rng(1)
    lanes = ISAS[isa].lanes("float32")
    ops = [RecurrentCell(kind, n, linear) for (kind, linear), n in itertools.product(KINDS, (1, 6, 37, 260))]
    specs = [next(iter(KERNEL.candidates(op, "dense", lanes))) for op in ops]
    cases = [case(spec, rng) for spec in specs]
    results = run([Case(KERNEL.build(s, ISAS[isa]), c[2]) for s, c in zip(specs, cases, strict=True)], isa)
    for spec, (weight, operands, _), arrays in zip(specs, cases, results, strict=True):
        found = np.concatenate([arrays[-3], arrays[-1]]) if spec.op.kind == "lstm" else arrays[-1]
        assert relative_error(found, KERNEL.reference(spec, weight, *operands).ravel()) < 1e-5, spec


@pytest.mark.parametrize("isa", ["avx2", "simd128"])
def test_the_carried_state_may_be_updated_in_place(isa):
    rng = np.random.default_rng(2)
    (spec,) = KERNEL.candidates(RecurrentCell("lstm", 23), "dense", ISAS[isa].lanes("float32"))
    weight, operands, arrays = case(spec, rng)
    (after,) = run([Case(KERNEL.build(spec, ISAS[isa]), [*arrays[:-1], arrays[-2]])], isa)
    assert relative_error(np.stack([after[-3], after[-1]]), KERNEL.reference(spec, weight, *operands)) < 1e-5


def test_twins_share_packed_weights():
    weight = np.random.default_rng(3).standard_normal((4 * 20, 20)).astype(np.float32)
    (spec,) = KERNEL.candidates(RecurrentCell("lstm", 20), "dense", 4)
    (packed,) = KERNEL.pack(spec, weight)
    assert sorted(packed) == sorted(weight.ravel())
    assert packed[:8].tolist() == weight[:8, 0].tolist()
