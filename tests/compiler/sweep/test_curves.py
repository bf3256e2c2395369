# SPDX-License-Identifier: Apache-2.0
import math

import pytest

from sparsec.compiler.comparison import Comparison
from sparsec.compiler.sweep.curves import Curve, Point, find_knee, point, quality


def _points(qualities):
    """Density falling from 0.9 in steps of 0.1, in a shuffled order."""
    points = [Point(round(0.9 - i / 10, 1), 0.0, q, Comparison(0.1, 20.0, q)) for i, q in enumerate(qualities)]
    return points[1::2] + points[::2]


def test_the_knee_is_the_first_density_beyond_the_drop():
    curve = Curve.of("block(4x4)", _points([1.0, 0.998, 0.991, 0.97, 0.99, 0.5]))
    assert [point.density for point in curve.points] == [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert (curve.knee, curve.recommended) == (0.6, 0.7)


def test_the_knee_of_a_synthetic_curve_moves_with_the_drop():
    qualities = [1 - math.exp(14 * (i / 20 - 0.9)) for i in range(20)]
    for drop in (0.001, 0.01, 0.1, 0.5):
        first = find_knee(qualities, drop)
        assert qualities[first] < 1 - drop <= qualities[first - 1]


def test_a_curve_without_a_knee_recommends_its_end():
    curve = Curve.of("nm(2:4)", _points([1.0, 0.995]))
    assert (curve.knee, curve.recommended) == (None, 0.8)


def test_beyond_the_knee_from_the_start_stays_dense():
    curve = Curve.of("nm(2:4)", _points([0.9, 1.0]))
    assert (curve.knee, curve.recommended) == (0.9, 1.0)


def test_a_quality_that_is_no_number_is_beyond_any_knee():
    assert find_knee([1.0, math.nan, 1.0]) == 1


FEW = Comparison(0.1, 20.0, 0.8, 0.5, 0.1, 20)
MANY = Comparison(0.2, 20.0, 0.8, 0.5, 0.1, 200)
MAP = Comparison(0.3, 20.0, 0.7)


@pytest.mark.parametrize(
    ("found", "measure", "expected"),
    [
        (FEW, "auto", 0.8),
        (MANY, "auto", 0.5),
        (FEW, "agreement", 0.5),
        (MANY, "correlation", 0.8),
        (MAP, "agreement", 0.7),
        (Comparison(math.nan, -300.0, math.nan), "auto", 0.0),
    ],
)
def test_what_quality_is(found, measure, expected):
    assert quality({"y": found}, measure) == expected


def test_the_worst_output_counts():
    found = point(0.5, 0.48, {"a": MANY, "b": MAP, "c": FEW})
    assert (found.quality, found.comparison) == (0.5, MAP)
    assert found.loss == pytest.approx(0.09)
    broken = point(0.5, 0.48, {"a": MANY, "b": Comparison(math.nan, -300.0, math.nan)})
    assert (broken.quality, broken.loss) == (0.0, 1e6)
