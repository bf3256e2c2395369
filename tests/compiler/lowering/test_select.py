# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import pytest

from sparsec.backends.targets import backend
from sparsec.compiler.lowering.kernel import Backend, KernelSpec
from sparsec.compiler.lowering.ops import Convolution, Linear
from sparsec.compiler.lowering.repricing import MARGIN, Thinning, pays_from, possible_densities, priced
from sparsec.compiler.lowering.select import choose
from sparsec.compiler.pattern import NM, parse_pattern
from sparsec.compiler.target import Target

PATTERNS = ("block(4x4)", "block(3x5)", "unstructured", "nm(2:4)", "nm(3:8)")
TARGETS = ("x86", "x86+avx512vnni", "arm", "arm+dotprod", "wasm", "wasm+relaxed-simd")

OPS = (Convolution("", 48, 40, (7, 7)), Linear("", 9, 64, 32), Linear("", 1, 256, 64))


def weight_of(pattern, density, shape=(64, 64), dtype=np.float32):
    values = np.random.default_rng(3).uniform(0.5, 1, shape)
    mask = parse_pattern(pattern).project(values, density)
    return (np.round(127 * values) if dtype == np.int8 else values).astype(dtype) * mask


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_thinned_weight_keeps_its_pattern_and_its_largest_units(pattern):
    parsed = parse_pattern(pattern)
    start = parsed.n / parsed.m if isinstance(parsed, NM) else 0.7
    weight = weight_of(pattern, start, (30, 34))
    thinning, before = Thinning(weight, parsed), np.zeros(weight.shape, bool)
    assert thinning.density == pytest.approx(start, abs=0.01)
    for density in possible_densities(parsed, start):
        found = thinning.at(density)
        assert parsed.check(found != 0)
        assert (found[found != 0] == weight[found != 0]).all()
        assert ((found != 0) | ~before).all(), "a sparser weight holds nothing that a denser one lacks"
        before = found != 0
    assert before.any()


@pytest.mark.parametrize("pattern", ["block(4x4)", "unstructured"])
def test_a_thinned_weight_is_what_the_pattern_projects(pattern):
    parsed, weight = parse_pattern(pattern), weight_of(pattern, 0.7, (30, 34))
    for density in (0.01, 0.2, 0.55):
        mask = parsed.project(np.abs(weight).astype(np.float64), density)
        assert np.array_equal(Thinning(weight, parsed).at(density), weight * mask)


def test_equal_weights_are_thinned_too():
    thinned = Thinning(np.full((8, 8), 7, np.int8), parse_pattern("unstructured")).at(0.25)
    assert np.count_nonzero(thinned) == 16
    assert thinned.dtype == np.int8


@pytest.mark.parametrize(("limit", "expected"), [(50, 0.5), (0.5, None), (1, 0.01), (99, 0.99), (200, 0.99)])
def test_the_highest_density_that_pays(limit, expected):
    densities = possible_densities(parse_pattern("block(4x4)"))
    assert pays_from(lambda density: 100 * density, limit / MARGIN + 1e-9, densities) == expected


@dataclass(frozen=True)
class Priced:
    """A kernel that costs a constant, and something for each nonzero if it is sparse."""

    family: str
    start: float
    each: float = 0.0

    def candidates(self, op, pattern, lanes):
        if (pattern == "dense") <= (self.family == "dense"):
            yield KernelSpec(self.family, op, "dense" if self.family == "dense" else pattern)

    def cost(self, spec, weight, profile):
        return self.start + self.each * np.count_nonzero(weight)


def backend_of(start):
    """Dense costs 100; sparse `start` and 100 for all of a weight of 64 x 64."""
    kernels = {"dense": Priced("dense", 100.0), "sparse": Priced("sparse", start, 100 / 64**2)}
    return Backend("paper", 4, kernels, {}, "a desk", None)


OP = Linear("float32", 4, 64, 64)


def test_a_sparse_kernel_is_taken_where_it_pays():
    choice = choose(backend_of(5.0), OP, weight_of("block(4x4)", 0.75), "block(4x4)")
    assert (choice.spec.family, choice.price, choice.rival_price) == ("sparse", 80.0, 100.0)
    assert (choice.refused, choice.breakeven_density) == ("", None)


def test_changes_of_layout_count():
    weight = weight_of("block(4x4)", 0.75)
    choice = choose(backend_of(5.0), OP, weight, "block(4x4)", lambda spec: 30.0 * (spec.family == "sparse"))
    assert (choice.spec.family, choice.breakeven_density) == ("dense", 0.59), "154 of 256 blocks cost 95.16"


def test_a_refusal_names_the_density_that_would_have_paid():
    choice = choose(backend_of(45.0), OP, weight_of("block(4x4)", 0.75), "block(4x4)")
    assert (choice.spec.family, choice.price, choice.rival_price) == ("dense", 100.0, 100.0)
    assert choice.refused == "block(4x4) kernel reaches 0.83x of dense, needs 1.05x; pays from density 0.5 down"
    assert choice.breakeven_density == 0.5


def test_n_of_m_would_pay_with_fewer_of_m():
    choice = choose(backend_of(50.0), OP, weight_of("nm(2:4)", 0.5), "nm(2:4)")
    assert choice.refused == "nm(2:4) kernel reaches 1.00x of dense, needs 1.05x; pays from density 0.25 down"
    assert choice.breakeven_density == 0.25


def test_a_layer_that_no_density_helps_says_so():
    choice = choose(backend_of(95.0), OP, weight_of("unstructured", 0.5), "unstructured")
    assert choice.refused == (
        "unstructured kernel reaches 0.69x of dense, needs 1.05x; "
        "no density pays: prune in blocks, whose rows share their zeros"
    )
    assert choice.breakeven_density is None


def test_blocks_that_no_density_helps_are_not_told_to_be_blocks():
    choice = choose(backend_of(95.0), OP, weight_of("block(4x4)", 0.5), "block(4x4)")
    assert choice.refused == "block(4x4) kernel reaches 0.69x of dense, needs 1.05x; no density pays"
    assert choice.breakeven_density is None


def test_two_of_four_codes_are_told_what_would_help():
    op = Convolution("uint8", 256, 256, (14, 14))
    choice = choose(backend(Target.parse("wasm")), op, weight_of("nm(2:4)", 0.5, (256, 256), np.int8), "nm(2:4)")
    assert choice.spec.pattern == "dense"
    assert choice.refused.endswith("no density pays: prune in blocks, whose rows share their zeros")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize(
    ("op", "taps"),
    [(Convolution("", 128, 128, (28, 28)), 1), (Convolution("", 64, 64, (28, 28), (3, 3), pads=(1, 1, 1, 1)), 9)],
    ids=["1x1", "3x3"],
)
def test_a_weight_without_zeros_is_compiled_dense(target, dtype, op, taps):
    found, op = backend(Target.parse(target)), replace(op, dtype=dtype)
    weight = np.full((op.filters, op.channels, *op.kernel), 7, np.int8 if dtype == "uint8" else np.float32)
    for rows, cols in ((8, 1), (4, 1), (2, 1), (4, 4)):
        assert choose(found, op, weight, f"block({rows}x{cols * taps})").spec.pattern == "dense", (rows, cols)
    alone = choose(found, op, weight, "unstructured")
    assert alone.price > 0.9 * alone.rival_price


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pattern", ["block(4x4)", "block(4x1)", "unstructured"])
def test_what_would_have_paid_is_taken(target, pattern):
    found, op = backend(Target.parse(target)), Convolution("uint8", 64, 48, (7, 7))
    weight = weight_of(pattern, 1.0, (48, 64), np.int8)
    refused = choose(found, op, weight, pattern)
    if refused.breakeven_density is not None:
        thinning = Thinning(weight, parse_pattern(pattern))
        taken = choose(found, op, thinning.at(refused.breakeven_density), pattern)
        assert (taken.spec.pattern, taken.refused) == (pattern, "")
    else:
        assert (refused.refused == "") == (refused.spec.pattern == pattern)


def test_a_sparse_kernel_must_not_lose_in_the_other_module():
    found, op = backend(Target("wasm")), Convolution("uint8", 64, 48, (7, 7))
    weight = weight_of("block(4x4)", 0.3, (48, 64), np.int8)
    assert [twin == found.profile for twin in found.twins] == [False]
    assert choose(found, op, weight, "block(4x4)").spec.family == "sparse"
    slow = replace(found, twins=({**found.twins[0], "block_us": 1.0},))
    choice = choose(slow, op, weight, "block(4x4)")
    assert choice.spec.pattern == "dense"
    assert choice.refused == "block(4x4) kernel is slower than dense in the artifact's slower module"


def test_of_kernels_that_cost_alike_the_smallest_tile_is_taken():
    found, op = backend(Target("wasm")), Convolution("float32", 64, 48, (14, 14))
    cheapest, *_ = priced(found, op, None, "dense")
    alike = [spec for price, spec in priced(found, op, None, "dense") if price <= 1.005 * cheapest[0]]
    taken = choose(found, op).spec
    assert taken in alike
    assert prod(taken.tile) == min(prod(spec.tile) for spec in alike)


def test_what_no_kernel_exploits_says_so():
    found = backend(Target.parse("wasm"))
    op = Convolution("float32", 64, 64, (14, 14), groups=64)
    choice = choose(found, op, np.ones((64, 1, 1, 1), np.float32), "block(4x4)")
    assert choice.refused == "no block(4x4) kernel of this precision and shape for wasm"
    assert choice.breakeven_density is None


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize(
    "op", [Convolution("", 48, 40, (7, 7)), Linear("", 9, 64, 32), Linear("", 1, 256, 64)], ids=str
)
def test_less_density_never_costs_more(target, dtype, op):
    found = backend(Target.parse(target))
    op = replace(op, dtype=dtype)
    shape = (op.filters, op.channels) if isinstance(op, Convolution) else (op.outputs, op.inputs)
    for pattern in ("block(4x4)", "block(4x1)", "unstructured"):
        weight = weight_of(pattern, 1.0, shape, np.int8 if dtype == "uint8" else np.float32)
        thinning = Thinning(weight, parse_pattern(pattern))
        prices = [choose(found, op, thinning.at(density), pattern).price for density in (0.05, 0.3, 0.6, 0.9)]
        assert prices == sorted(prices), pattern
