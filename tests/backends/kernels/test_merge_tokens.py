# SPDX-License-Identifier: Apache-2.0
"""Kernels of token merging against numpy: every parity, tails of vectors, ties, padding, protected tokens."""

import numpy as np
import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.match_tokens import MatchTokensKernel
from sparsec.backends.kernels.merge_tokens import MergeTokensKernel, UnmergeTokensKernel
from sparsec.compiler.lowering.ops import MatchTokens, MergeTokens, UnmergeTokens
from tests.backends.harness import Case, relative_error, run

MATCH, MERGE, UNMERGE = MatchTokensKernel(), MergeTokensKernel(), UnmergeTokensKernel()
SIZES = ((2, 0), (3, 1), (4, 2), (7, 3), (16, 0), (17, 1), (34, 2), (67, 1))
"""Tokens, and how many of them are protected."""


def match_cases(rng):
    """Each pair of tokens is drawn apart, so that no two cosines are nearly equal; some tokens are padding."""
    for number, (tokens, guarded) in enumerate(SIZES):
        most, depth = (tokens - guarded) // 2, (3, 7, 10, 35)[number % 4]
        op = MatchTokens(1 + number % 2, tokens, depth, most if number % 3 else most // 2, guarded)
        (spec,) = MATCH.candidates(op, "dense", 8)
        metric = rng.standard_normal((op.batch, tokens, op.depth)).astype(np.float32)
        size = np.float32(rng.integers(0 if number % 2 else 1, 4, (op.batch, tokens)))
        yield spec, metric, size, np.full((op.batch, tokens), -1, np.int64)


@pytest.mark.parametrize("isa", ISAS)
def test_matches_as_numpy_does(isa):
    found = list(match_cases(np.random.default_rng(1)))
    results = run([Case(MATCH.build(spec, ISAS[isa]), arrays) for spec, *arrays in found], isa)
    for (spec, metric, size, _), (_, _, slot) in zip(found, results, strict=True):
        np.testing.assert_array_equal(slot, MATCH.reference(spec, None, metric, size), str(spec))


@pytest.mark.parametrize("isa", ISAS)
def test_the_first_of_equal_tokens_wins(isa):
    op = MatchTokens(1, 8, 4, 2, 0)
    metric, size = np.ones((1, 8, 4), np.float32), np.ones((1, 8), np.float32)
    (spec,) = MATCH.candidates(op, "dense", 8)
    ((_, _, slot),) = run([Case(MATCH.build(spec, ISAS[isa]), [metric, size, np.zeros((1, 8), np.int64)])], isa)
    np.testing.assert_array_equal(slot, [[2, 2, 2, 3, 0, 4, 1, 5]])


def test_zero_vectors_and_nan_stay_in_bounds():
    op = MatchTokens(1, 9, 4, 3, 1)
    metric, size = np.zeros((1, 9, 4), np.float32), np.ones((1, 9), np.float32)
    metric[0, 3:6] = np.nan
    (spec,) = MATCH.candidates(op, "dense", 8)
    ((_, _, slot),) = run([Case(MATCH.build(spec, ISAS["avx2"]), [metric, size, np.zeros((1, 9), np.int64)])], "avx2")
    assert slot.min() >= 0
    assert slot.max() < 6


def merge_cases(rng):
    for number, width in enumerate((1, 3, 4, 12, 64)):
        op = MergeTokens(1 + number % 2, 9, 5, width)
        (spec,) = MERGE.candidates(op, "dense", 8)
        x = rng.standard_normal((op.batch, 9, width)).astype(np.float32)
        size = np.float32(rng.integers(0, 4, (op.batch, 9)))
        slot = rng.integers(0, 5, (op.batch, 9))
        yield spec, x, size, slot, np.full((op.batch, 5, width), 9, np.float32), np.full((op.batch, 5), 9, np.float32)


@pytest.mark.parametrize("isa", ISAS)
def test_merges_as_numpy_does(isa):
    found = list(merge_cases(np.random.default_rng(2)))
    results = run([Case(MERGE.build(spec, ISAS[isa]), arrays) for spec, *arrays in found], isa)
    for (spec, x, size, slot, *_), (*_, out, sizes) in zip(found, results, strict=True):
        expected = MERGE.reference(spec, None, x, size, slot)
        assert relative_error(out, expected[..., :-1]) < 1e-6, spec
        np.testing.assert_array_equal(sizes, expected[..., -1], str(spec))


@pytest.mark.parametrize("isa", ISAS)
def test_unmerges_as_numpy_does(isa):
    rng = np.random.default_rng(3)
    cases = []
    for number, words in enumerate((1, 2, 7, 35)):
        (spec,) = UNMERGE.candidates(UnmergeTokens(1 + number % 2, 9, 5, words), "dense", 8)
        x = rng.integers(-(2**31), 2**31, (spec.op.batch, 5, words)).astype(np.int32)
        cases.append((spec, x, rng.integers(0, 5, (spec.op.batch, 9)), np.zeros((spec.op.batch, 9, words), np.int32)))
    results = run([Case(UNMERGE.build(spec, ISAS[isa]), arrays) for spec, *arrays in cases], isa)
    for (spec, x, slot, _), (*_, out) in zip(cases, results, strict=True):
        np.testing.assert_array_equal(out, UNMERGE.reference(spec, None, x, slot))
