# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest

from sparsec.compiler.errors import RecipeError
from sparsec.compiler.sweep.allocation import LEAST, allocate, allocate_by_index, hull

GRID = (0.25, 0.5, 0.75)


def _total(curves, found):
    """The sum of losses, between points by straight lines on the hulls."""
    ends = {name: np.array(hull([*points, (1.0, 0.0)])).T for name, points in curves.items()}
    return sum(np.interp(found[name], *ends[name]) for name in curves)


def _convex(random):
    """Losses at `GRID` with falling slopes: convex together with (1, 0)."""
    steps = np.sort(random.rand(4))
    return [(density, float(steps[: 4 - i].sum() * 0.25)) for i, density in enumerate((0.25, 0.5, 0.75), 1)]


@pytest.mark.parametrize("seed", range(12))
def test_no_choice_of_measured_points_is_better(seed):
    random = np.random.RandomState(seed)
    curves = {name: _convex(random) for name in "abcd"}
    sizes = {name: int(size) for name, size in zip("abcd", random.randint(1, 20, 4), strict=True)}
    total = sum(sizes.values())
    for budget in (0.3, 0.45, 0.62, 0.8, 1.0):
        found = allocate(curves, sizes, budget)
        assert sum(sizes[name] * found[name] for name in sizes) <= budget * total * (1 + 1e-9)
        best = min(
            sum(dict([*curves[name], (1.0, 0.0)])[density] for name, density in zip("abcd", choice, strict=True))
            for choice in itertools.product((*GRID, 1.0), repeat=4)
            if sum(sizes[name] * density for name, density in zip("abcd", choice, strict=True)) <= budget * total
        )
        assert _total(curves, found) <= best + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_no_choice_between_points_is_better(seed):
    """Against a fine grid of two layers' densities."""
    random = np.random.RandomState(100 + seed)
    curves, sizes, budget = {name: _convex(random) for name in "ab"}, {"a": 3, "b": 7}, 0.55
    found = _total(curves, allocate(curves, sizes, budget))
    for a in np.linspace(0.25, 1, 301):
        b = min(1.0, (budget * 10 - 3 * a) / 7)
        if b >= 0.25:
            assert found <= _total(curves, {"a": a, "b": b}) + 1e-9


def test_all_layers_but_one_end_on_a_measured_point():
    random = np.random.RandomState(5)
    curves = {str(i): [(d, float(random.rand())) for d in GRID] for i in range(20)}
    found = allocate(curves, dict.fromkeys(curves, 10), 0.6)
    between = [density for density in found.values() if round(density, 9) not in (*GRID, 1.0)]
    assert len(between) <= 1
    assert sum(found.values()) == pytest.approx(0.6 * 20)


def test_a_layer_that_loses_nothing_gets_nothing():
    curves = {"free": [(0.25, 0.0), (0.5, 0.0)], "dear": [(0.25, 9.0), (0.5, 4.0)]}
    assert allocate(curves, {"free": 10, "dear": 10}, 0.9) == {"free": 0.25, "dear": 1.0}


def test_the_hull_leaves_out_what_lies_above_it():
    assert hull([(0.2, 5.0), (0.4, 4.9), (0.6, 1.0), (0.8, 2.0), (1.0, 0.0)]) == [(0.2, 5.0), (0.6, 1.0), (1.0, 0.0)]
    assert hull([(0.2, 0.1), (0.6, 0.3), (1.0, 0.1)]) == [(0.2, 0.1)]
    assert hull([(0.5, 3.0), (0.5, 2.0), (1.0, 0.0)]) == [(0.5, 2.0), (1.0, 0.0)]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0.0, "Budget 0: expected more than 0 and at most 1, the share of the weights to keep."),
        (1.5, "Budget 1.5: expected more than 0 and at most 1, the share of the weights to keep."),
        (0.1, "Budget 0.1 is below 0.25, the share that the lowest densities measured keep. Sweep lower."),
    ],
)
def test_budgets_out_of_reach_are_refused(budget, message):
    with pytest.raises(RecipeError) as caught:
        allocate({"a": [(0.25, 1.0)]}, {"a": 4}, budget)
    assert str(caught.value) == message


INDICES, SIZES = {"flat": 0.0, "low": 0.1, "high": 0.4}, {"flat": 100, "low": 1000, "high": 500}


@pytest.mark.parametrize("budget", [LEAST, 0.1, 0.3, 0.6, 0.95, 1.0])
def test_without_data_the_budget_comes_out_and_the_index_decides(budget):
    found = allocate_by_index(INDICES, SIZES, budget)
    assert sum(SIZES[name] * found[name] for name in SIZES) == pytest.approx(budget * 1600, rel=1e-6)
    assert found["flat"] >= found["low"] >= found["high"] >= LEAST


def test_without_data_a_budget_below_the_least_density_is_refused():
    with pytest.raises(RecipeError, match=r"Budget 0.01 is below 0.05, the least density of a layer without data."):
        allocate_by_index(INDICES, SIZES, 0.01)
