# SPDX-License-Identifier: Apache-2.0
"""Curves of fidelity against density, their knee, and the density to choose.

Jaiswal et al., "The Emergence of Essential Sparsity in Large Pre-trained Models", 2023: quality stays as density falls,
until a knee after which it is lost fast.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from sparsec.compiler.comparison import Comparison, worst

Measure = Literal["auto", "agreement", "correlation"]
ENOUGH_ROWS = 100
"""Rows of scores from which agreement is fine enough to see a drop of 1 %; with fewer, ``auto`` takes correlation."""
KNEE = 0.01
"""The drop that makes a knee, by default."""


@dataclass(frozen=True, slots=True)
class Point:
    """Fidelity at one density.

    Attributes:
        density: Share of units asked for; what was got where the pattern leaves no choice.
        realised: Share of the weights that are not zero, counted.
        quality: Agreement or correlation with the dense model, 1.0 where nothing is lost; of the worst output.
        comparison: Of the output with the greatest relative error.
    """

    density: float
    realised: float
    quality: float
    comparison: Comparison

    @property
    def loss(self) -> float:
        """Squared relative error of the output: to first order, losses of several layers add up."""
        error = self.comparison.relative_error
        return min(error * error, _MOST_LOSS) if isfinite(error) else _MOST_LOSS


_MOST_LOSS = 1e6
"""The loss of a model whose output is not finite."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Fidelity against density under one pattern.

    Attributes:
        pattern: What was swept, such as ``block(4x4)``.
        points: Density falling.
        knee: The first density whose quality is more than the threshold below the dense model's; None without one.
        recommended: The least density before the knee; 1.0 where even the first one is beyond it.
    """

    pattern: str
    points: tuple[Point, ...]
    knee: float | None
    recommended: float

    @classmethod
    def of(cls, pattern: str, points: Sequence[Point], drop: float = KNEE) -> "Curve":
        """Order the points and find the knee."""
        ordered = tuple(sorted(points, key=lambda point: -point.density))
        first = find_knee([point.quality for point in ordered], drop)
        before = ordered[:first]
        return cls(
            pattern,
            ordered,
            None if first is None else ordered[first].density,
            before[-1].density if before else 1.0,
        )


def find_knee(qualities: Sequence[float], drop: float = KNEE, dense: float = 1.0) -> int | None:
    """The index of the first quality that lies more than ``drop * dense`` below `dense`; None if none does."""
    lowest = dense - drop * abs(dense)
    return next((index for index, quality in enumerate(qualities) if not quality >= lowest), None)


def quality(found: Mapping[str, Comparison], measure: Measure = "auto") -> float:
    """Agreement or correlation of the worst output; 0.0 for one that is not a number.

    ``agreement`` is the share of rows with the same top score, where the output has rows; else correlation stands in.
    """
    return min(_or_zero(_MEASURES[measure](comparison)) for comparison in found.values())


def _or_zero(number: float) -> float:
    return number if isfinite(number) else 0.0


def _agreement(found: Comparison) -> float:
    return found.correlation if found.top1 is None else found.top1


def _correlation(found: Comparison) -> float:
    return found.correlation


def _auto(found: Comparison) -> float:
    return _agreement(found) if found.rows >= ENOUGH_ROWS else found.correlation


_MEASURES: Mapping[str, Callable[[Comparison], float]] = {
    "auto": _auto,
    "agreement": _agreement,
    "correlation": _correlation,
}


def point(density: float, realised: float, found: Mapping[str, Comparison], measure: Measure = "auto") -> Point:
    """The point of a curve that a comparison of all outputs makes."""
    return Point(density, realised, quality(found, measure), worst(found))
