# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from sparsec.compiler.encoding import Quant, as_half
from sparsec.passes.column_sweep import MaskRule, sweep
from sparsec.passes.weight_grids import GridQuantizer, fit

QUANTS = [
    Quant(bits, "group" if group else "channel", symmetric, group)
    for bits in (2, 3, 4, 8)
    for group in (0, 5, 16)
    for symmetric in (True, False)
    if group or symmetric
]


@pytest.mark.parametrize("quant", QUANTS, ids=str)
def test_nearest_code_of_each_element(quant, normal):
    matrix = normal(6, 32)
    grids = fit(matrix, quant)
    codes, rounded = grids.codes(matrix), grids.rounded(matrix)
    step = grids.scales.repeat(quant.group, axis=1)[:, :32] if quant.group else grids.scales[:, None]
    assert codes.dtype == (np.int8 if quant.symmetric else np.uint8)
    assert np.abs(codes.astype(int)).max() == quant.highest
    assert (np.abs(rounded - matrix) <= step * (0.501 if quant.symmetric else 1.001)).all()
    np.testing.assert_array_equal(grids.codes(rounded), codes)


def test_asymmetric_span_is_that_of_the_published_formula():
    low, high = -1.0, 2.0
    grids = fit(np.float32([[low, 0.5, high, 0.0]]), Quant(4, "group", False, 4))
    scale = as_half(np.float64([(high - low) / 15]))
    assert grids.scales.ravel() == scale
    assert grids.zeros.ravel() == np.rint(-low / scale)


def test_span_holds_zero_even_where_all_weights_are_positive():
    grids = fit(np.float32([[3, 4, 5, 6]]), Quant(4, "group", False, 4))
    assert grids.zeros.ravel() == 0
    assert grids.rounded(np.zeros((1, 4))).tolist() == [[0] * 4]


def test_pruned_elements_do_not_widen_a_span():
    matrix, mask = np.float32([[100, 0.5, -0.5, 0.25]]), np.array([[False, True, True, True]])
    assert fit(matrix, Quant(4, "group", True, 4), mask).scales.max() < 0.1


@pytest.mark.parametrize("quant", [q for q in QUANTS if q.bits < 8], ids=str)
def test_least_squares_range_is_never_worse(quant, normal):
    matrix = normal(6, 32) ** 3
    errors = [np.square(fit(matrix, quant, choice=c).rounded(matrix) - matrix).sum() for c in ("minmax", "mse")]
    assert errors[1] <= errors[0]
    assert errors[1] < errors[0] or quant.group == 5


def test_percentile_clips_an_outlier(normal):
    matrix = normal(2, 4000)
    matrix[0, 0] = 1000
    wide, clipped = (fit(matrix, Quant(8, "channel"), choice=c).scales for c in ("minmax", "percentile"))
    assert clipped[0] < wide[0] / 100


@pytest.mark.parametrize("quant", QUANTS, ids=str)
def test_sweep_with_unit_hessian_rounds_to_nearest(quant, normal):
    matrix, quantizer = normal(6, 32), GridQuantizer(quant)
    swept = sweep(matrix, np.eye(32), None, quantizer)
    grids = fit(matrix, quant)
    np.testing.assert_array_equal(quantizer.grids.scales, grids.scales)
    np.testing.assert_array_equal(quantizer.grids.codes(swept.values), grids.codes(matrix))


def test_sweep_values_are_codes_on_the_grids_and_pruned_ones_zero(normal):
    matrix, quant = normal(6, 32), Quant(4, "group", False, 8)
    mask, inputs = normal(6, 32, seed=3) > 0, normal(200, 32, seed=4) @ normal(32, 32, seed=5)
    quantizer = GridQuantizer(quant)
    swept = sweep(matrix, inputs.T @ inputs / 100.0, MaskRule.settled(mask), quantizer)
    np.testing.assert_array_equal(quantizer.grids.rounded(swept.values), swept.values)
    assert not swept.values[~mask].any()
