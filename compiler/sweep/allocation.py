# SPDX-License-Identifier: Apache-2.0
"""Allocation: spends one density budget over many layers where it hurts least.

With a curve of loss against density for each layer: the lower convex hull of each curve is cut into segments, and
segments are bought steepest first (Shoham and Gersho, "Efficient Bit Allocation for an Arbitrary Set of Quantizers",
1988). That is optimal for the hulls; all layers but one end on a measured point. Without data: from the PQ index.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sparsec.compiler.errors import RecipeError
from sparsec.compiler.sweep.compressibility import kept

LEAST = 0.05
"""The lowest density that the data-free rule hands out."""
Losses = Sequence[tuple[float, float]]
"""(density, loss) points of one layer."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A straight part of a layer's hull, from a lower density to a higher one."""

    layer: str
    low: float
    high: float
    weights: float
    gain: float

    @property
    def steepness(self) -> float:
        """Loss avoided for each weight bought."""
        return self.gain / self.weights


def allocate(curves: Mapping[str, Losses], sizes: Mapping[str, int], budget: float) -> dict[str, float]:
    """Densities that spend the budget with the least sum of losses.

    Args:
        curves: Layer name -> measured points; the point (1, 0) of the dense layer is added.
        sizes: Layer name -> number of weights.
        budget: Share of all the layers' weights to keep, in (0, 1].

    Returns:
        Layer name -> density; weights kept are at most ``budget`` of all.

    Raises:
        RecipeError: If the budget is out of range, or less than the lowest densities measured take.
    """
    _check_budget(budget)
    hulls = {name: hull([*points, (1.0, 0.0)]) for name, points in curves.items()}
    found = {name: points[0][0] for name, points in hulls.items()}
    total = sum(sizes[name] for name in curves)
    left = budget * total - sum(sizes[name] * density for name, density in found.items())
    if left < -1e-9 * total:
        least = sum(sizes[name] * density for name, density in found.items()) / total
        msg = f"Budget {budget:g} is below {least:.3g}, the share that the lowest densities measured keep. Sweep lower."
        raise RecipeError(msg)
    segments = (segment for name, points in hulls.items() for segment in _segments(name, points, sizes[name]))
    for segment in sorted(segments, key=lambda s: (-s.steepness, s.layer, s.low)):
        share = min(1.0, max(0.0, left) / segment.weights)
        found[segment.layer] += share * (segment.high - segment.low)
        left -= share * segment.weights
    return found


def hull(points: Losses) -> list[tuple[float, float]]:
    """The lower convex hull of (density, loss) points, density rising, where loss falls.

    Of equal densities the least loss counts. A point that loses no less than one of lower density is left out.
    """
    best: dict[float, float] = {}
    for density, loss in points:
        best[density] = min(loss, best.get(density, loss))
    chain: list[tuple[float, float]] = []
    for point in sorted(best.items()):
        while len(chain) > 1 and _slope(chain[-2], chain[-1]) >= _slope(chain[-2], point):
            chain.pop()
        chain.append(point)
    while len(chain) > 1 and chain[-1][1] >= chain[-2][1]:
        chain.pop()
    return chain


def allocate_by_index(indices: Mapping[str, float], sizes: Mapping[str, int], budget: float) -> dict[str, float]:
    """Densities from the layers' PQ indices, without data: what SAP's rule prunes of each, scaled to the budget.

    A layer's density is ``1 - g (1 - m/d)``, m of its d weights being kept by SAP's rule (`compressibility.kept`), and
    not less than `LEAST`; the factor g, one for all layers, is what makes the budget come out.

    Raises:
        RecipeError: If the budget is out of range or below `LEAST`.
    """
    _check_budget(budget)
    if budget < LEAST:
        msg = f"Budget {budget:g} is below {LEAST:g}, the least density of a layer without data."
        raise RecipeError(msg)
    spare = {name: max(_TINY, 1 - kept(sizes[name], index) / sizes[name]) for name, index in indices.items()}
    total = sum(sizes[name] for name in indices)
    low, high = 0.0, (1 - LEAST) / min(spare.values())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if _kept_share(spare, sizes, middle) <= budget * total else (middle, high)
    return {name: max(LEAST, 1 - high * share) for name, share in spare.items()}


_TINY = 1e-6
"""The spare share of a layer whose index spares nothing: it is pruned when all others have given what they can."""


def _kept_share(spare: Mapping[str, float], sizes: Mapping[str, int], factor: float) -> float:
    return sum(sizes[name] * max(LEAST, 1 - factor * share) for name, share in spare.items())


def _segments(name: str, points: Losses, size: int) -> Iterator[Segment]:
    for (low, before), (high, after) in pairwise(points):
        yield Segment(name, low, high, size * (high - low), before - after)


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])


def _check_budget(budget: float) -> None:
    if not 0 < budget <= 1:
        msg = f"Budget {budget:g}: expected more than 0 and at most 1, the share of the weights to keep."
        raise RecipeError(msg)
