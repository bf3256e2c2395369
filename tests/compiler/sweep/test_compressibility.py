# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from sparsec.compiler.sweep.compressibility import kept, pq_index


def test_golden_values():
    one_hot = np.eye(16)[3]
    assert pq_index(one_hot) == pytest.approx(0.9375)
    assert kept(16, pq_index(one_hot)) == 1
    assert pq_index(-np.ones((3, 5))) == pytest.approx(0, abs=1e-12)
    assert kept(15, pq_index(np.ones(15))) == 15
    few = np.array([4.0, 3, 2, 1])
    assert pq_index(few) == pytest.approx(0.055586, abs=5e-7)
    assert 4 * (1 - pq_index(few)) == pytest.approx(3.7777, abs=5e-5)
    assert kept(4, pq_index(few)) == 4


def test_the_index_is_the_papers_formula():
    weights = np.random.RandomState(0).standard_normal(1000)
    for p, q in ((0.5, 1.0), (1.0, 2.0), (0.2, 1.5)):
        norms = [float((np.abs(weights) ** power).sum() ** (1 / power)) for power in (p, q)]
        assert pq_index(weights, p=p, q=q) == pytest.approx(1 - 1000 ** (1 / q - 1 / p) * norms[0] / norms[1])


def test_scale_order_sign_and_shape_do_not_matter():
    weights = np.random.RandomState(1).standard_normal((30, 40)).astype(np.float32)
    index = pq_index(weights)
    for other in (weights * np.float32(1e-20), weights * 1e30, -weights.T, weights.reshape(-1)[::-1]):
        assert pq_index(other) == pytest.approx(index, rel=1e-5)


def test_zeros_count_only_where_the_mask_says_so():
    weights = np.array([4.0, 3, 2, 1])
    padded = np.concatenate((weights, np.zeros(4)))
    assert pq_index(padded, padded != 0) == pytest.approx(pq_index(weights))
    assert pq_index(padded) == pytest.approx(1 - (1 - pq_index(weights)) / 2)


def test_nothing_to_compare_is_zero():
    assert pq_index(np.zeros(5)) == 0
    assert pq_index(np.ones(5), np.zeros(5, bool)) == 0


def test_fewer_are_kept_the_higher_the_index():
    counts = [kept(1000, index) for index in np.linspace(0, 0.999, 50)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 1000


def test_slack_keeps_fewer():
    assert kept(1000, 0.1, slack=0.1) < kept(1000, 0.1) == 900
    assert kept(1000, 0.1, slack=-0.9) == 1000


def test_norms_out_of_order_are_refused():
    with pytest.raises(ValueError, match="found p=1 and q=1, expected 0 < p < q"):
        pq_index(np.ones(3), p=1, q=1)
