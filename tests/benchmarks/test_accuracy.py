# SPDX-License-Identifier: Apache-2.0
"""The table of accuracy: its rows can be run, its metrics measure, and it says where a goal is missed."""

import numpy as np
import pytest

from benchmarks.accuracy import page
from benchmarks.accuracy_metrics import METRICS, agreement, correlation
from benchmarks.accuracy_rows import ROWS
from sparsec.models.catalog import MODELS

RESULT = {
    "values": {"accuracy": 0.99, "agreement": 0.5},
    "naive": {"accuracy": 0.2},
    "dense": {"accuracy": 0.997},
    "bytes": [2e6, 1e6],
    "macs": [100, 70],
    "samples": 64,
    "seconds": 12.3,
    "passes": ["prune-nm{n=2}", "quantize{bits=8}"],
}


def runner(array):
    return lambda feeds: {"y": array * feeds["x"]}


@pytest.fixture
def inputs():
    return {"x": np.random.RandomState(0).normal(size=(6, 1, 3))}


def test_rows_name_what_there_is():
    keys = [row.key for row in ROWS]
    assert len(keys) == len(set(keys))
    for row in ROWS:
        assert row.model in MODELS
        assert row.model in METRICS
        rivals = row.goal if isinstance(row.goal, tuple) else ()
        assert all(key in keys and next(r for r in ROWS if r.key == key).model == row.model for key in rivals)


def test_agreement_is_the_share_of_equal_places(inputs):
    assert agreement(runner(1), runner(2), inputs) == 1
    expected = np.mean(inputs["x"].argmax(-1) == (inputs["x"] * [1, 1, -1]).argmax(-1))
    assert agreement(runner(1), runner(np.array([1, 1, -1])), inputs) == expected < 1


def test_correlation_over_all_and_of_each(inputs):
    assert correlation(runner(1), runner(3), inputs) == pytest.approx((1, 1))
    assert correlation(runner(1), runner(-1), inputs) == pytest.approx((-1, -1))


def test_less_is_better_for_perplexity_alone():
    assert {name for name, metric in METRICS.items() if not metric.rising} == {"smollm2"}
    assert METRICS["smollm2"].reaches(30, 31)
    assert not METRICS["smollm2"].reaches(31, 31)
    assert METRICS["digits"].reaches(0.99, 0.99)


def test_page_says_what_is_reached_and_missed():
    text = page({"digits-nm": RESULT, "digits-blocks": {**RESULT, "naive": "collapses"}})
    assert (
        "| digits | 2:4 + int8 | 0.9900 (missed) | 0.9960 | 0.2000 | 0.9970 | 2.00 to 1.00 MB | 70% | 64 | 12 |" in text
    )
    assert "| **0.9900** | 0.9900 | collapses | 0.9970 |" in text
    assert "Reached: accuracy 0.9900, agreement 0.5000." in text
    assert "prune-nm{n=2}\nquantize{bits=8}\n" in text


def test_a_row_that_has_to_beat_others_needs_them_all():
    def result(value):
        return {**RESULT, "values": {"perplexity": value}, "naive": "-", "dense": {"perplexity": 34}}

    results = {"smollm2-gqsa": result(40.0), "smollm2-nm": result(50.0)}
    assert "40.0000 (missed) | < 50.0000, < smollm2-2bit |" in page(results)
    assert "**40.0000** | < 50.0000, < 60.0000 |" in page({**results, "smollm2-2bit": result(60.0)})
    assert "40.0000 (missed) | < 50.0000, < 39.0000 |" in page({**results, "smollm2-2bit": result(39.0)})
