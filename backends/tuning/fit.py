# SPDX-License-Identifier: Apache-2.0
"""From times of kernels to the costs by which the kernels' own price formulas come nearest to them.

Least squares on the logarithm of price over time, so that a kernel of microseconds counts as much as one of
milliseconds; with a loss that outliers bend only linearly, and a slight pull to the costs known before, which decides
what the samples cannot tell apart.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sparsec.compiler.lowering.kernel import Array, Profile

Price = Callable[[Profile], float]
"""Microseconds of one kernel by a profile."""

FIXED = ("call_us", "vector_lanes")
"""Costs that are kept: a property of the instruction set, and what is too small beside a kernel to be told."""
COUNTED: Mapping[str, tuple[int, ...]] = {
    "vector_registers": (0, -1, -2, -3, -4, -5, -6, -7, -8),
    "int8_registers": (0, -1, -2, -3, -4, -5, -6, -7, -8),
    "mac_chains": (0, -4, -3, -2, -1, 1, 2, 3, 4, 6),
    "int8_chains": (0, -4, -3, -2, -1, 1, 2, 3, 4, 6),
}
"""Whole numbers: what is tried on top of the known one. More registers than there are is none of it."""
_PULL = 0.1
_OUTLIER = 0.25
_WIDEST = float(np.log(30.0))
"""A cost moves by this factor at most; beyond it, the formulas no longer describe the machine."""
_NARROW = {"load_macs": float(np.log(1.5)), "first_cache_kb": float(np.log(4.0))}
"""Costs that may move less: samples can hardly tell slow loads from slow multiplication, other layers can."""
_SMALLEST = 1e-6


def fit(prices: Sequence[Price], times: Sequence[float], known: Profile) -> dict[str, float]:
    """The costs with which prices come nearest to times; three digits.

    Args:
        prices: Of each kernel measured.
        times: Microseconds of each.
        known: Where to start, and what to keep where the samples say nothing.
    """
    costs = _fit_continuous(prices, times, known, known)
    for name, shifts in COUNTED.items():
        tried = [{**costs, name: known[name] + shift} for shift in shifts if known[name] + shift >= 1]
        best = min(tried, key=lambda candidate: _loss(_errors(prices, times, candidate)))
        costs = _fit_continuous(prices, times, known, best)
    return costs


def _fit_continuous(
    prices: Sequence[Price], times: Sequence[float], known: Profile, start: Profile
) -> dict[str, float]:
    """From `start`, with a pull to `known`."""
    from scipy.optimize import least_squares

    names = [name for name in sorted(known) if name not in FIXED and name not in COUNTED]
    origin = np.log([max(known[name], _SMALLEST) for name in names])

    def residuals(shift: Array) -> Array:
        costs = {**start, **dict(zip(names, np.exp(origin + shift).tolist(), strict=True))}
        return np.concatenate([_errors(prices, times, costs), _PULL * shift])

    reach = np.array([_NARROW.get(name, _WIDEST) for name in names])
    begin = np.log([max(start[name], _SMALLEST) for name in names]) - origin
    guess = begin if start is not known else _first_guess(prices, times, known, names)
    guess = np.clip(guess, -reach, reach)
    found = least_squares(
        residuals, guess, loss="soft_l1", f_scale=_OUTLIER, bounds=(-reach, reach), xtol=1e-4, ftol=1e-4
    )
    fitted = np.exp(origin + found.x).tolist()
    return {**start, **{name: float(f"{value:.3g}") for name, value in zip(names, fitted, strict=True)}}


def _loss(errors: Array) -> float:
    return float(np.sum(np.sqrt(1 + (errors / _OUTLIER) ** 2)))


def typical_error(prices: Sequence[Price], times: Sequence[float], costs: Profile) -> float:
    """The factor minus one by which half of the prices are off at most: 0.1 is ten percent."""
    return float(np.expm1(np.median(np.abs(_errors(prices, times, costs)))))


def ranking_loss(
    groups: Mapping[str, Sequence[int]], prices: Sequence[Price], times: Sequence[float], costs: Profile
) -> float:
    """How much slower than the best the kernels are that the prices pick, on average: 0.02 is two percent.

    Args:
        groups: Kernels among which selection picks, by index.
        prices: Of each kernel.
        times: Of each kernel.
        costs: To price by.
    """
    losses = []
    for members in groups.values():
        taken = min(members, key=lambda index: prices[index](costs))
        losses.append(times[taken] / min(times[index] for index in members) - 1)
    return float(np.mean(losses)) if losses else 0.0


def _errors(prices: Sequence[Price], times: Sequence[float], costs: Profile) -> Array:
    return np.log([price(costs) for price in prices]) - np.log(times)


def _first_guess(prices: Sequence[Price], times: Sequence[float], known: Profile, names: Sequence[str]) -> Array:
    """A machine that is faster or slower than the known one as a whole."""
    factor = float(np.clip(np.median(_errors(prices, times, known)), -_WIDEST / 2, _WIDEST / 2))
    signs = {"_per_us": 1.0, "_us": -1.0}
    return np.array([next((sign for end, sign in signs.items() if n.endswith(end)), 0.0) * factor for n in names])
