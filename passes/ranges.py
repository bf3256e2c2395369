# SPDX-License-Identifier: Apache-2.0
"""From what a value did on calibration samples to the scale and zero point of its 7-bit codes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from sparsec.compiler.calibration import Statistics
from sparsec.compiler.pattern import Array

LEVELS = 127
"""Activation codes run from 0 to this: 7 bits, so that the dot product of every instruction set is exact."""
_TAIL = 1e-4
_SHRINKS = np.linspace(1.0, 0.3, 71)


@dataclass(frozen=True, slots=True)
class Grid:
    """Codes 0..LEVELS of an activation; a code c stands for ``(c - zero_point) * scale``.

    Attributes:
        scale: A float32 number over 0.
        zero_point: 0 to LEVELS.
    """

    scale: np.float32
    zero_point: int

    @classmethod
    def over(cls, low: float, high: float) -> "Grid":
        """The grid from `low` to `high`, widened to hold 0, which it represents exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = np.float32((high - low) / LEVELS)
        if not scale >= np.finfo(np.float32).tiny:
            return cls(np.float32(1), 0)
        return cls(scale, int(np.clip(np.rint(-low / float(scale)), 0, LEVELS)))

    @property
    def low(self) -> np.float32:
        """What code 0 stands for."""
        return np.float32(np.float32(-self.zero_point) * self.scale)

    @property
    def high(self) -> np.float32:
        """What code LEVELS stands for."""
        return np.float32(np.float32(LEVELS - self.zero_point) * self.scale)

    def holds(self, low: float, high: float) -> bool:
        """Whether all values from `low` to `high` round to codes of the grid, so that no clipping is needed."""
        ends = np.rint(np.array([low, high], np.float32) / self.scale) + self.zero_point
        return bool(ends[0] >= 0 and ends[1] <= LEVELS)


def _minmax(seen: Statistics) -> tuple[float, float]:
    return seen.low, seen.high


def _percentile(seen: Statistics) -> tuple[float, float]:
    """All but one in ten thousand at either end."""
    return seen.quantile(_TAIL), seen.quantile(1 - _TAIL)


def _mse(seen: Statistics) -> tuple[float, float]:
    """The shrunken range with the least squared error of rounding and clipping over the histogram."""
    ends = [(seen.low * shrink, seen.high * shrink) for shrink in _SHRINKS]
    errors = [_squared_error(Grid.over(*pair), seen) for pair in ends]
    return ends[int(np.argmin(errors))]


def _squared_error(grid: Grid, seen: Statistics) -> float:
    assert seen.counts is not None
    codes = np.clip(np.rint(seen.centers / float(grid.scale)) + grid.zero_point, 0, LEVELS)
    difference: Array = seen.centers - (codes - grid.zero_point) * float(grid.scale)
    return float((seen.counts * difference**2).sum())


CHOICES: Mapping[str, Callable[[Statistics], tuple[float, float]]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "mse": _mse,
}
"""How the range of an activation follows from its statistics; all but ``minmax`` need a histogram."""
