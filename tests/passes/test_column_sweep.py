# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from sparsec.compiler.pattern import NM, Unstructured
from sparsec.passes.column_sweep import MaskRule, damped, inverse_diagonal, output_error, refit, sweep

IDENTITY = 2 * np.eye(24)


def normal(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape)


def correlated(inputs, rows=200, seed=1):
    """Vectors whose neighbours resemble each other, and their Hessian."""
    x = (
        normal(rows, inputs, seed=seed)
        @ np.linalg.cholesky(0.7 ** np.abs(np.subtract.outer(*[np.arange(inputs)] * 2))).T
    )
    return x, 2 / rows * x.T @ x


class Rounder:
    """One grid a group and row, steps of an eighth of the largest value there."""

    def __init__(self, group):
        self.group, self.fits = group, []

    def fit(self, start, weights, mask):
        self.fits.append((start, weights.shape[1]))
        self.step = np.maximum(np.abs(weights * mask).max(axis=1), 1e-9) / 8

    def round(self, column, values):
        return np.rint(values / self.step) * self.step


def best_of(rule, width=24):
    return MaskRule(width, lambda scores, start: rule.project(scores, 0.5))


def test_without_correlation_it_is_magnitude_pruning_without_updates():
    weights = normal(6, 24)
    swept = sweep(weights, IDENTITY, best_of(Unstructured()))
    mask = Unstructured().project(np.abs(weights), 0.5)
    np.testing.assert_array_equal(swept.mask, mask)
    np.testing.assert_allclose(swept.values, weights * mask, atol=1e-12)


def test_without_correlation_it_is_rounding_to_nearest():
    weights = normal(6, 24)
    swept = sweep(weights, IDENTITY, quantizer=Rounder(8))
    for start in range(0, 24, 8):
        group = weights[:, start : start + 8]
        step = np.abs(group).max(axis=1, keepdims=True) / 8
        np.testing.assert_allclose(swept.values[:, start : start + 8], np.rint(group / step) * step, atol=1e-12)


@pytest.mark.parametrize("inputs", [24, 128, 200, 300])
@pytest.mark.parametrize("rule", [NM(2, 4), NM(1, 4), Unstructured()])
def test_makes_less_error_than_the_mask_alone_and_refit_less_still(inputs, rule):
    weights, (x, hessian) = normal(16, inputs), correlated(inputs, 2 * inputs)
    share = 0.25 if rule == NM(1, 4) else 0.5
    width = 4 if isinstance(rule, NM) else 128
    swept = sweep(weights, hessian, MaskRule(width, lambda scores, start: rule.project(scores, share)), damping=1e-4)
    assert rule.check(swept.mask)
    assert not swept.values[~swept.mask].any()
    alone = output_error(weights * ~rule.project(np.abs(weights) * np.sqrt((x**2).mean(0)), share), hessian)
    best = refit(weights, hessian, swept.mask, damping=1e-4)
    assert not best[~swept.mask].any()
    errors = output_error(weights - best, hessian), output_error(weights - swept.values, hessian), alone
    assert errors[0] < errors[1] < errors[2]
    assert swept.loss == pytest.approx(errors[1], rel=0.05)
    np.testing.assert_allclose(errors[1], (((weights - swept.values) @ x.T) ** 2).sum() / len(x), rtol=1e-6)


def test_a_settled_mask_is_kept_and_values_are_on_the_grid():
    weights, (_, hessian) = normal(8, 40), correlated(40)
    mask = NM(2, 4).project(np.abs(weights), 0.5)
    rounder = Rounder(16)
    swept = sweep(weights, hessian, MaskRule.settled(mask), rounder)
    np.testing.assert_array_equal(swept.mask, mask)
    assert rounder.fits == [(0, 16), (16, 16), (32, 8)]
    steps = np.array([len(np.unique(np.round(np.abs(row[32:]), 9))) for row in swept.values])
    assert (steps <= 10).all()
    assert output_error(weights - swept.values, hessian) < output_error(
        weights - sweep(weights, np.diag(np.diag(hessian)), MaskRule.settled(mask), Rounder(16)).values, hessian
    )


def test_refit_is_least_squares():
    weights, (x, hessian) = normal(5, 12), correlated(12)
    mask = np.random.RandomState(3).rand(5, 12) < 0.5
    mask[4] = False
    found = refit(weights, hessian, mask, damping=0.0)
    for row, kept, got in zip(weights, mask, found, strict=True):
        want = np.linalg.lstsq(x[:, kept], x @ row, rcond=None)[0]
        np.testing.assert_allclose(got[kept], want, rtol=1e-6, atol=1e-8)
    assert not found[4].any()


def test_refit_on_a_full_mask_changes_nothing():
    weights, (_, hessian) = normal(5, 12), correlated(12)
    np.testing.assert_allclose(refit(weights, hessian, np.ones((5, 12), bool)), weights, rtol=1e-9)


def test_weights_of_inputs_that_no_sample_had_stay():
    weights, (_, hessian) = normal(5, 12), correlated(12)
    hessian[3] = hessian[:, 3] = 0
    assert np.isfinite(inverse_diagonal(hessian)).all()
    np.testing.assert_allclose(sweep(weights, hessian, damping=0.0).values, weights, atol=1e-9)
    mask = np.ones((5, 12), bool)
    mask[:, 7], mask[2, 3] = False, False
    for values in (sweep(weights, hessian, MaskRule.settled(mask)).values, refit(weights, hessian, mask)):
        np.testing.assert_allclose(values[:, 3], np.where(mask[:, 3], weights[:, 3], 0), atol=1e-9)


def test_weights_of_inputs_that_no_sample_had_count_least():
    hessian = correlated(12)[1]
    hessian[3] = hessian[:, 3] = 0
    worth = 1 / inverse_diagonal(hessian)
    assert 0 < worth[3] == worth.min()


@pytest.mark.parametrize("rounded", [0.0, 1e-4, 1.0, 30.0])
def test_a_hessian_that_rounding_made_indefinite_is_damped_until_it_is_definite(rounded):
    weights, (_, hessian) = normal(5, 12), correlated(12)
    noise = np.triu(normal(12, 12)) * rounded
    spoilt = hessian + (noise + noise.T) * np.diag(hessian).mean() - rounded * np.eye(12)
    safe, mask = damped(spoilt), np.arange(12) % 2 == 0
    assert np.linalg.eigvalsh(safe).min() > 0
    assert (np.diag(safe) - np.diag(spoilt) < 0.011 * np.diag(spoilt).mean()).all() == (rounded < 1e-3)
    np.testing.assert_array_equal(safe - np.diag(np.diag(safe)), spoilt - np.diag(np.diag(spoilt)))
    for values in (
        sweep(weights, spoilt, MaskRule.settled(mask & np.ones((5, 1), bool))).values,
        refit(weights, spoilt, mask & np.ones((5, 1), bool)),
    ):
        assert np.isfinite(values).all()
        assert np.abs(values).max() < 100


def test_an_error_is_never_negative():
    assert output_error(np.ones((1, 2)), -np.eye(2)) == 0
