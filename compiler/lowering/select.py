# SPDX-License-Identifier: Apache-2.0
"""Selection: the cheapest kernel for an op; a sparse one only where it beats the best dense one of its precision."""

from dataclasses import dataclass
from math import prod

from sparsec.compiler.lowering.kernel import Array, Backend, KernelSpec
from sparsec.compiler.lowering.ops import Op
from sparsec.compiler.lowering.repricing import (
    MARGIN,
    Priced,
    Relayout,
    no_relayout,
    pays_from,
    possible_densities,
    priced,
    repricer,
)
from sparsec.compiler.pattern import NM, Unstructured, parse_pattern

_ALIKE = 1.005
"""Prices that differ by less than this factor count as equal."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The kernel taken for an op.

    Attributes:
        spec: The kernel.
        price: Its predicted microseconds, changes of layout included.
        rival_price: The best dense kernel's.
        refused: Why a sparse kernel was not taken although the weight has a pattern; empty otherwise.
        breakeven_density: Share of the pattern's units from which on downwards a sparse kernel would have been taken;
            None where none was refused, or none pays.
    """

    spec: KernelSpec
    price: float
    rival_price: float
    refused: str = ""
    breakeven_density: float | None = None


def choose(
    backend: Backend,
    op: Op,
    weight: Array | None = None,
    pattern: str = "dense",
    relayout: Relayout = no_relayout,
) -> Choice | None:
    """The cheapest candidate for `op`; None if no kernel of the back end computes it.

    `relayout` prices the changes of layout that a spec asks for, in microseconds.
    """
    found = priced(backend, op, weight, pattern, relayout)
    dense = [pair for pair in found if pair[1].pattern == "dense"]
    if not dense:
        return None
    rival = dense[0][0]
    price, spec = shortest(dense)
    offered = [pair for pair in found if pair[1].pattern != "dense"]
    sparse = [pair for pair in offered if _holds(backend, pair[1], spec, weight)]
    if sparse and sparse[0][0] <= MARGIN * rival:
        price, spec = shortest(sparse)
        return Choice(spec, price, rival)
    if pattern == "dense":
        return Choice(spec, price, price)
    if not offered or weight is None:
        return Choice(spec, price, price, f"no {pattern} kernel of this precision and shape for {backend.name}")
    if offered[0][0] <= MARGIN * rival:
        return Choice(spec, price, price, f"{pattern} kernel is slower than dense in the artifact's slower module")
    density = _breakeven(backend, [spec for _, spec in offered], weight, pattern, relayout, rival)
    return Choice(spec, price, price, _reason(pattern, offered[0], rival, density), density)


def shortest(found: list[Priced]) -> Priced:
    """Of the kernels that cost about as little as the cheapest, the one with the smallest tile: the shortest code."""
    return min((pair for pair in found if pair[0] <= _ALIKE * found[0][0]), key=lambda pair: prod(pair[1].tile))


def _holds(backend: Backend, sparse: KernelSpec, dense: KernelSpec, weight: Array | None) -> bool:
    """Whether a sparse kernel is no slower than the dense one in the artifact's other code, too."""
    kernels = backend.kernels
    costs = ((kernels[s.family].cost(s, weight, twin) for s in (sparse, dense)) for twin in backend.twins)
    return all(mine <= other for mine, other in costs)


def _breakeven(
    backend: Backend, specs: list[KernelSpec], weight: Array, pattern: str, relayout: Relayout, rival: float
) -> float | None:
    """The density that would have paid, if still more of the same weight were pruned by magnitude."""
    prices = repricer(backend, specs, weight, pattern, relayout)
    return pays_from(prices.price, rival, possible_densities(parse_pattern(pattern), prices.thinning.density))


def _reason(pattern: str, sparse: Priced, rival: float, density: float | None) -> str:
    gain = f"{rival / sparse[0]:.2f}x" if sparse[0] else "unknown"
    would = f"no density pays{_advice(pattern)}" if density is None else f"pays from density {density:.2g} down"
    return f"{pattern} kernel reaches {gain} of dense, needs {1 / MARGIN:.2f}x; {would}"


def _advice(pattern: str) -> str:
    """What would help zeros that each row has in places of its own."""
    parsed = parse_pattern(pattern)
    alone = isinstance(parsed, Unstructured) or (isinstance(parsed, NM) and parsed.width == 1)
    return ": prune in blocks, whose rows share their zeros" if alone else ""
