# SPDX-License-Identifier: Apache-2.0
"""The break-even plot: predicted gain against density, with this model's layers on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsec.compiler.report_html import chart
from sparsec.compiler.report_html.chart import Chart, Dot, Line, Scale, Tick
from sparsec.compiler.report_html.units import factor, in_percent

Json = Mapping[str, Any]
MOST_DOTS = 300
"""Layers drawn, the dearest first."""
MOST_CURVES = 6
NEEDED = 1 / 0.95
"""A sparse kernel is taken where it is this much faster."""
_HEIGHT = 400
_LEAST, _MOST = 0.5, 16.0
_RADII = (3.5, 11.0)


@dataclass(frozen=True, slots=True)
class Plot:
    """The chart, and how many layers are on it, refused among them, and left out."""

    chart: Chart
    layers: int
    refused: int
    left_out: int


def plot(report: Json) -> Plot | None:
    """Curves and layers; None without both."""
    curves = [curve for curve in report.get("breakeven") or () if len(curve["densities"]) == len(curve["ratios"])]
    layers = [
        layer for layer in report["layers"] if layer["verdict"] != "dense" and layer["rival_price"] and layer["price"]
    ]
    if not curves and not layers:
        return None
    layers.sort(key=lambda layer: (-layer["rival_price"], layer["name"]))
    drawn, curves = layers[:MOST_DOTS], curves[:MOST_CURVES]
    x, y = chart.across(0.0, 1.0), _gains(drawn, curves)
    largest = max((layer["rival_price"] for layer in drawn), default=1.0)
    marks = [_dot(layer, x, y, largest) for layer in drawn]
    return Plot(
        Chart(
            "Predicted gain against density",
            "density: share of weights that are kept",
            "times faster than the best dense kernel",
            [Tick(x.place(value), f"{value:.0%}") for value in x.ticks()],
            [Tick(y.place(value), f"{value:g}\N{MULTIPLICATION SIGN}") for value in y.ticks()],
            [*_rules(x, y), *_lines(curves, x, y), *_ways(drawn, x, y)],
            [*marks, *_goals(drawn, x, y)],
            _HEIGHT,
        ),
        len(drawn),
        sum(layer["verdict"] == "refused" for layer in drawn),
        len(layers) - len(drawn),
    )


def _gains(layers: Sequence[Json], curves: Sequence[Json]) -> Scale:
    """From the least to the greatest gain, by powers of two, within bounds."""
    gains = [layer["rival_price"] / layer["price"] for layer in layers]
    gains += [ratio for curve in curves for ratio in curve["ratios"] if ratio]
    high, low = 2.0, 1.0
    while high < min(max(gains, default=2.0), _MOST):
        high *= 2
    while low > 1.12 * max(min(gains, default=1.0), _LEAST):
        low /= 2
    return chart.upwards(low / 1.1, high * 1.1, _HEIGHT, by_powers=True)


def _rules(x: Scale, y: Scale) -> list[Line]:
    """As fast as dense, and what a kernel without any cost but its multiply-adds would reach."""
    ideal = [(1 / gain, gain) for gain in (y.high * (1 - step / 40) for step in range(41)) if gain >= 1]
    return [
        chart.line([(0, NEEDED), (1, NEEDED)], x, y, "rule", f"pays: {NEEDED:.2f}\N{MULTIPLICATION SIGN}"),
        chart.line([*ideal, (1, 1)], x, y, "ideal", "ideal: time in proportion to density"),
    ]


def _lines(curves: Sequence[Json], x: Scale, y: Scale) -> list[Line]:
    found = []
    for number, curve in enumerate(curves):
        points = [(d, ratio) for d, ratio in zip(curve["densities"], curve["ratios"], strict=True) if ratio]
        pays = "never pays" if curve["pays_from"] is None else f"pays from {in_percent(curve['pays_from'])} down"
        label = f"{curve['pattern']} {curve['precision']}, layer {curve['shape']}: {pays}"
        found.append(chart.line(points, x, y, f"c{number}", label))
    return found


def _dot(layer: Json, x: Scale, y: Scale, largest: float) -> Dot:
    """A layer; its area is the dense kernel's time. A refused one runs dense: it stands at 1."""
    gain, small, large = layer["rival_price"] / layer["price"], *_RADII
    radius = small + (large - small) * (layer["rival_price"] / largest) ** 0.5
    label = f"{layer['name']}: {layer['pattern']}, density {in_percent(layer['density'])}, {factor(gain)}"
    why = f"; refused: {layer['refused']}" if layer["refused"] else ""
    return Dot(x.place(layer["density"]), y.place(gain), round(radius, 1), layer["verdict"], label + why)


def _ways(layers: Sequence[Json], x: Scale, y: Scale) -> list[Line]:
    """From each refused layer to the density that would have paid."""
    return [
        chart.line([(layer["density"], 1.0), (layer["breakeven_density"], NEEDED)], x, y, "way", "")
        for layer in layers
        if layer["verdict"] == "refused" and layer.get("breakeven_density") is not None
    ]


def _goals(layers: Sequence[Json], x: Scale, y: Scale) -> list[Dot]:
    return [
        Dot(x.place(layer["breakeven_density"]), y.place(NEEDED), 3.5, "goal",
            f"{layer['name']}: would have paid from density {in_percent(layer['breakeven_density'])} down")
        for layer in layers
        if layer["verdict"] == "refused" and layer.get("breakeven_density") is not None
    ]  # fmt: skip
