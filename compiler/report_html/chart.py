# SPDX-License-Identifier: Apache-2.0
"""Charts as values: scales, ticks, and where lines and dots stand, in units of the drawing; `parts.html` draws them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log2, log10

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 16, 50


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values to the drawing; values beyond its ends stand at the ends.

    Attributes:
        low: Value at `start`.
        high: Value at `end`.
        start: Place in the drawing.
        end: Place in the drawing.
        by_powers: Whether equal factors are equal distances.
    """

    low: float
    high: float
    start: float
    end: float
    by_powers: bool = False

    def place(self, value: float) -> float:
        """Where a value stands, to a tenth of a unit."""
        low, high, value = (map(log2, (self.low, self.high, max(value, 1e-12)))) if self.by_powers else (
            self.low, self.high, value
        )  # fmt: skip
        part = min(max((value - low) / (high - low), 0.0), 1.0)
        return round(self.start + part * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Round values from `low` to `high`, five or so."""
        if self.by_powers:
            return [2.0**power for power in range(ceil(log2(self.low)), floor(log2(self.high)) + 1)]
        step = _round_step((self.high - self.low) / 5)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [round(number * step, 10) for number in range(first, last + 1)]


def _round_step(rough: float) -> float:
    """The next greater of 1, 2, 5, 10, ... times a power of ten."""
    power = 10.0 ** floor(log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def across(low: float, high: float) -> Scale:
    """A scale from left to right."""
    return Scale(low, high, LEFT, WIDTH - RIGHT)


def upwards(low: float, high: float, height: int = HEIGHT, *, by_powers: bool = False) -> Scale:
    """A scale from bottom to top."""
    return Scale(low, high, height - BOTTOM, TOP, by_powers)


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis and its label."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """A polyline.

    Attributes:
        points: ``x,y x,y ...``.
        kind: Class in the style sheet.
        label: For the legend, and shown when the pointer rests on it.
    """

    points: str
    kind: str
    label: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A point; the label is shown when the pointer rests on it, the caption always."""

    x: float
    y: float
    radius: float
    kind: str
    label: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with two axes.

    Attributes:
        title: What it shows, for those who do not see it.
        x_label: Of the axis at the bottom.
        y_label: Above the axis at the left.
        x_ticks: On the axis at the bottom.
        y_ticks: On the axis at the left.
        lines: Drawn first.
        dots: Drawn above them.
        height: Of the drawing.
    """

    title: str
    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line]
    dots: Sequence[Dot] = ()
    height: int = HEIGHT

    width = WIDTH
    left = LEFT
    right = WIDTH - RIGHT
    top = TOP

    @property
    def bottom(self) -> int:
        """Where the axis at the bottom stands."""
        return self.height - BOTTOM


def line(points: Iterable[tuple[float, float]], x: Scale, y: Scale, kind: str, label: str) -> Line:
    """A polyline through points given by their values."""
    return Line(" ".join(f"{x.place(a)},{y.place(b)}" for a, b in points), kind, label)
