# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsec.compiler.calibration import BINS, Statistics
from sparsec.passes.ranges import CHOICES, LEVELS, Grid

ENDS = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=40, deadline=None)
@given(ENDS, ENDS)
def test_a_grid_has_zero_and_reaches_both_ends_within_a_step(first, second):
    low, high = sorted((first, second))
    grid = Grid.over(low, high)
    assert grid.scale > 0
    assert 0 <= grid.zero_point <= LEVELS
    assert grid.low <= 0 <= grid.high
    if high - low > 1e-30:
        assert grid.low <= min(low, 0) + grid.scale * 0.51
        assert grid.high >= max(high, 0) - grid.scale * 0.51


@settings(max_examples=40, deadline=None)
@given(ENDS, ENDS)
def test_clipping_to_the_grid_gives_codes_of_seven_bits(first, second):
    grid = Grid.over(*sorted((first, second)))
    assert grid.holds(float(grid.low), float(grid.high))
    assert np.rint(grid.high / grid.scale) + grid.zero_point == LEVELS
    assert np.rint(grid.low / grid.scale) + grid.zero_point == 0


def test_relu6_fits_and_a_symmetric_clip_does_not():
    assert Grid.over(0, 6) == Grid(np.float32(6 / 127), 0)
    assert Grid.over(0, 6).holds(0, 6)
    assert not Grid.over(-1, 1).holds(-1, 1)


def _statistics(samples):
    low, high = float(samples.min()), float(samples.max())
    return Statistics(low, high, np.histogram(samples, BINS, (low, high))[0])


def test_an_outlier_moves_minmax_but_neither_percentile_nor_mse():
    samples = np.append(np.random.RandomState(0).standard_normal(100_000), 400.0)
    seen = _statistics(samples)
    assert CHOICES["minmax"](seen)[1] == 400
    assert CHOICES["percentile"](seen)[1] < 10
    low, high = CHOICES["mse"](_statistics(np.append(samples[:-1], 9.0)))
    assert high < 9
    assert low < 0


@pytest.mark.parametrize("choice", CHOICES)
def test_a_value_that_is_always_zero_gets_a_grid(choice):
    seen = Statistics(0.0, 0.0, np.histogram(np.zeros(9), BINS, (0.0, 0.0))[0])
    assert Grid.over(*CHOICES[choice](seen)).holds(0, 0)
