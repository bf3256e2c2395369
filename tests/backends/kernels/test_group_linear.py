# SPDX-License-Identifier: Apache-2.0
"""4-bit groups times a few tokens of float32, dense and of kept groups only, on every instruction set."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.group_format import Format, pack
from sparsec.backends.kernels.group_linear import TOGETHER, GroupLinearKernel, SparseGroupLinearKernel
from sparsec.compiler.lowering.groups import Groups, join, split
from sparsec.compiler.lowering.ops import GroupedLinear, Linear
from tests.backends.kernels.products import EPILOGUES, PLAIN_SUM, check, linear_problem

DENSE, SPARSE = GroupLinearKernel(), SparseGroupLinearKernel()
SIZES = [(1, 48, 33, 16), (1, 64, 7, 32), (3, 256, 17, 128), (8, 64, 16, 64), (2, 80, 1, 16), (11, 128, 20, 32)]
"""Tokens, inputs, outputs, group."""


def groups(op, seed=0, density=0.5):
    """Random codes with many at both ends; the first rows empty, the next ones full."""
    rng = np.random.default_rng(seed)
    shape = (op.outputs, op.inputs // op.group)
    kept = rng.random(shape) < density
    kept[: len(kept) // 4], kept[len(kept) // 4 : len(kept) // 3 + 1] = False, True
    codes = rng.choice(np.array([0, 15, *range(16)], np.uint8), (*shape, op.group))
    zeros = rng.choice(np.array([0, 15, *range(16)], np.uint8), shape)
    return Groups(codes, zeros, rng.uniform(0.001, 0.02, shape).astype(np.float16), kept)


def problem(op, found, scale=1.0):
    """Data whose right answer is made from the values that the groups stand for."""
    values = (found.codes.astype(np.float32) - found.zeros[..., None]) * found.scales.astype(np.float32)[..., None]
    values = (values * found.kept[..., None]).reshape(op.outputs, op.inputs)
    plain = Linear("float32", op.positions, op.inputs, op.outputs, op.epilogue)
    made = linear_problem(plain, op.positions, values, plain=True)
    x = made.x * np.float32(scale)
    if scale != 1:
        expected = (x.astype(np.float64) @ values.T.astype(np.float64)).astype(np.float32)
        made = replace(made, x=x, expected=expected)
    return replace(made, op=op, weight=join(found), pattern=f"block(1x{op.group})")


def check_both(problems, isa, folder):
    for kernel in (DENSE, SPARSE):
        own = folder / kernel.family
        own.mkdir()
        assert check(kernel, problems, isa, own) == len(problems)


@pytest.mark.parametrize("kernel", [DENSE, SPARSE], ids=lambda kernel: kernel.family)
@pytest.mark.parametrize("isa", ISAS)
def test_against_plain_numpy(kernel, isa: str, tmp_path: Path) -> None:
    problems = []
    for i, (tokens, inputs, outputs, group) in enumerate(SIZES):
        op = GroupedLinear(tokens, inputs, outputs, group, EPILOGUES[i % len(EPILOGUES)])
        problems.append(problem(op, groups(op, seed=i)))
    assert check(kernel, problems, isa, tmp_path, every=True) == len(SIZES)


@pytest.mark.parametrize("tokens", [*range(1, TOGETHER + 2), 2 * TOGETHER, 2 * TOGETHER + 3])
def test_every_number_of_tokens(tokens: int, tmp_path: Path) -> None:
    op = GroupedLinear(tokens, 96, 19, 16, PLAIN_SUM)
    check_both([problem(op, groups(op, seed=tokens))], "avx2", tmp_path)


@pytest.mark.parametrize("isa", ISAS)
def test_huge_tiny_and_no_activations(isa: str, tmp_path: Path) -> None:
    op = GroupedLinear(2, 64, 18, 16, PLAIN_SUM)
    problems = [problem(op, groups(op), scale) for scale in (1e30, 1e-30, 0.0)]
    check_both(problems, isa, tmp_path)


@pytest.mark.parametrize("isa", ISAS)
def test_an_outlier_does_not_cost_the_others_their_digits(isa: str, tmp_path: Path) -> None:
    op = GroupedLinear(1, 256, 18, 16, PLAIN_SUM)
    made = problem(op, groups(op))
    x = made.x.copy()
    x[0, 3] = 1e4
    values = split(made.weight, op.group).values.astype(np.float64)
    values[:, :16] = 0  # nobody reads the outlier: every digit of the answer is the others'
    kept = split(made.weight, op.group)
    kept.kept[:, 0] = False
    expected = (x.astype(np.float64) @ values.T).astype(np.float32)
    quiet = replace(made, x=x, weight=join(kept), expected=expected)
    check_both([quiet], isa, tmp_path)


@pytest.mark.parametrize("isa", ISAS)
def test_the_least_and_the_greatest_scales(isa: str, tmp_path: Path) -> None:
    op = GroupedLinear(1, 64, 18, 16, PLAIN_SUM)
    ends = np.finfo(np.float16).smallest_subnormal, np.finfo(np.float16).max
    found = [replace(groups(op), scales=np.full((18, 4), scale, np.float16)) for scale in ends]
    check_both([problem(op, one) for one in found], isa, tmp_path)


@pytest.mark.parametrize("isa", ISAS)
def test_no_group_and_every_group(isa: str, tmp_path: Path) -> None:
    op = GroupedLinear(1, 80, 18, 16, PLAIN_SUM)
    found = [replace(groups(op), kept=np.full((18, 5), kept)) for kept in (False, True)]
    check_both([problem(op, one) for one in found], isa, tmp_path)


def test_places_of_many_groups_take_two_bytes(tmp_path: Path) -> None:
    op = GroupedLinear(1, 257 * 16, 3, 16, PLAIN_SUM)
    assert Format(8, 16, op.inputs, 3).place_dtype == "uint16"
    check(SPARSE, [problem(op, groups(op, density=0.9))], "avx2", tmp_path)


def test_what_is_stored() -> None:
    op = GroupedLinear(1, 64, 3, 16)
    found = groups(op)
    found.kept[:] = [[True, False, True, True], [False] * 4, [False, True, False, False]]
    for lanes, filled in ((4, 4), (8, 4), (16, 8)):  # sixteen lanes take four groups at once
        streams = pack(Format(lanes, 16, 64, 3), found)
        assert streams.words.nbytes == 8 * filled
        assert len(streams.scales) == len(streams.zeros) == filled + lanes
        assert streams.places.nbytes == filled
        assert len(streams.ends) == -(-3 // lanes) * lanes + 1
        assert streams.ends[0] == 0
        assert streams.ends[-1] == streams.ends[3]


def test_one_array_of_words_and_back() -> None:
    op = GroupedLinear(1, 64, 9, 16)
    found = groups(op)
    back = split(join(found), 16)
    np.testing.assert_array_equal(back.kept, found.kept)
    for name in ("codes", "zeros", "scales"):
        np.testing.assert_array_equal(getattr(back, name)[found.kept], getattr(found, name)[found.kept])


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_sparse_costs_less_where_groups_are_gone(lanes: int) -> None:
    profile = {"float32_ops_per_us": 4e4, "bytes_per_us": 4e4, "call_us": 0.05, "vector_lanes": lanes}
    op = GroupedLinear(1, 768, 2048, 16)
    (dense,), (sparse,) = DENSE.candidates(op, "dense", lanes), SPARSE.candidates(op, "block(1x16)", lanes)
    half, full = (join(replace(groups(op), kept=np.random.default_rng(0).random((2048, 48)) < d)) for d in (0.5, 1.0))
    assert SPARSE.cost(sparse, half, profile) < 0.7 * DENSE.cost(dense, half, profile)
    assert SPARSE.cost(sparse, full, profile) > DENSE.cost(dense, full, profile)


def test_what_is_not_its_job() -> None:
    for op in (
        GroupedLinear(1, 64, 8, 8),
        GroupedLinear(1, 72, 8, 16),
        Linear("float32", 1, 64, 8),
    ):
        assert not list(DENSE.candidates(op, "dense", 8))
        assert not list(SPARSE.candidates(op, "block(1x16)", 8))
    whole = GroupedLinear(1, 64, 8, 16)
    for pattern in ("dense", "nm(2:4)", "block(1x8)", "block(4x16)", "unstructured"):
        assert not list(SPARSE.candidates(whole, pattern, 8))
    assert list(SPARSE.candidates(whole, "block(1x32)", 8))
