# SPDX-License-Identifier: Apache-2.0
"""What an op would cost if more of its weight were zero, and from which density its sparse kernel pays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sparsec.compiler.lowering.kernel import Array, Backend, KernelSpec
from sparsec.compiler.lowering.ops import Op
from sparsec.compiler.pattern import NM, Block, Pattern, parse_pattern

MARGIN = 0.95
"""A sparse kernel is kept if its price is at most this share of its dense rival's."""
Relayout = Callable[[KernelSpec], float]
"""Microseconds of the changes of layout that a spec asks for."""
Priced = tuple[float, KernelSpec]

_TRIED = 3
"""Specs that are priced at every density: the cheapest of the densest, a middling and the sparsest weight."""
_STEPS = 100
"""Densities are looked for in steps of one in so many."""


def no_relayout(_: KernelSpec) -> float:
    """Every layout is there already."""
    return 0.0


def priced(
    backend: Backend, op: Op, weight: Array | None, pattern: str, relayout: Relayout = no_relayout
) -> list[Priced]:
    """Every candidate for `op` with its price in microseconds, the cheapest first."""
    specs = [spec for kernel in backend.kernels.values() for spec in kernel.candidates(op, pattern, backend.lanes)]
    return price_specs(backend, specs, weight, relayout)


def price_specs(
    backend: Backend, specs: Sequence[KernelSpec], weight: Array | None, relayout: Relayout = no_relayout
) -> list[Priced]:
    """The specs with their prices, the cheapest first; the same order in every run."""
    found = [
        (backend.kernels[spec.family].cost(spec, weight, backend.profile) + relayout(spec), spec) for spec in specs
    ]
    return sorted(found, key=lambda pair: (pair[0], repr(pair[1])))


def possible_densities(pattern: Pattern, below: float = 1.0) -> list[float]:
    """The densities under `below` that a pattern can have, ascending; in hundredths where any is possible."""
    steps = pattern.m if isinstance(pattern, NM) else _STEPS
    return [step / steps for step in range(1, steps) if step / steps < below]


class Thinning:
    """A weight whose least units go first: those of its pattern, by the sum of their magnitudes."""

    def __init__(self, weight: Array, pattern: Pattern) -> None:
        """Rank the units of `weight`, [out, ...]; a pattern ``nm`` is ranked in each run."""
        self._weight, self._pattern = weight, pattern
        self._scores = np.abs(weight.reshape(len(weight), -1).astype(np.float64))
        self._units = np.zeros((0, 0)) if isinstance(pattern, NM) else _first_wins(_unit_scores(self._scores, pattern))
        self._ascending = np.sort(self._units, axis=None)

    @property
    def density(self) -> float:
        """Share of the units that hold something."""
        if isinstance(self._pattern, NM):
            return self._pattern.n / self._pattern.m
        return float(np.count_nonzero(self._units)) / max(1, self._units.size)

    def at(self, density: float) -> Array:
        """The weight with at most this share of its units, at least one."""
        if isinstance(self._pattern, NM):
            fewer = NM(round(density * self._pattern.m), self._pattern.m, self._pattern.width)
            mask = fewer.project(self._scores, fewer.n / fewer.m)
        else:
            kept = max(1, round(density * self._units.size))
            mask = _spread(self._units >= self._ascending[-kept], self._pattern, self._scores.shape)
        return self._weight * mask.reshape(self._weight.shape)


def _unit_scores(scores: Array, pattern: Pattern) -> Array:
    """Sums over blocks, those cut by the edge included."""
    if not isinstance(pattern, Block):
        return scores
    rows = np.add.reduceat(scores, np.arange(0, scores.shape[0], pattern.rows), axis=0)
    return np.asarray(np.add.reduceat(rows, np.arange(0, scores.shape[1], pattern.cols), axis=1))


def _first_wins(scores: Array) -> Array:
    """The scores, of which no two are equal but zeros."""
    falling = 1 - 1e-9 * np.arange(scores.size) / max(1, scores.size)
    return scores * falling.reshape(scores.shape)


def _spread(units: Array, pattern: Pattern, shape: tuple[int, ...]) -> Array:
    if not isinstance(pattern, Block):
        return units
    return units.repeat(pattern.rows, axis=0).repeat(pattern.cols, axis=1)[: shape[0], : shape[1]]


@dataclass(frozen=True, slots=True)
class Repricer:
    """Prices the sparse kernels of one op at any density of its weight; see `repricer`."""

    backend: Backend
    thinning: Thinning
    specs: tuple[KernelSpec, ...]
    relayout: Relayout = no_relayout

    def price(self, density: float) -> float:
        """Microseconds of the cheapest spec."""
        return price_specs(self.backend, self.specs, self.thinning.at(density), self.relayout)[0][0]


def repricer(
    backend: Backend, specs: Sequence[KernelSpec], weight: Array, pattern: str, relayout: Relayout = no_relayout
) -> Repricer:
    """Keep the few specs that are cheapest at the ends and amid the densities: a price counts the weight's blocks.

    Args:
        backend: Of the target.
        specs: Sparse candidates for one op.
        weight: Of the op; it has at least one zero unit or none.
        pattern: Its text form, not ``dense``.
        relayout: See `Relayout`.
    """
    thinning, densities = Thinning(weight, parse_pattern(pattern)), possible_densities(parse_pattern(pattern))
    some = (weight, thinning.at(densities[len(densities) // 2]), thinning.at(densities[0]))
    ranked = [price_specs(backend, specs, array, relayout)[:_TRIED] for array in some]
    kept = dict.fromkeys(spec for found in ranked for _, spec in found)
    return Repricer(backend, thinning, tuple(kept), relayout)


def pays_from(price: Callable[[float], float], rival: float, densities: Sequence[float]) -> float | None:
    """The highest density at which `price` is at most `MARGIN` of the rival's; None if there is none.

    Args:
        price: Microseconds by density, which never falls while the density rises.
        rival: Microseconds of the best dense kernel.
        densities: Ascending.
    """
    paying, failing = -1, len(densities)
    while failing - paying > 1:
        middle = (paying + failing) // 2
        if price(densities[middle]) <= MARGIN * rival:
            paying = middle
        else:
            failing = middle
    return densities[paying] if paying >= 0 else None
