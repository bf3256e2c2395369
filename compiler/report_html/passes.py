# SPDX-License-Identifier: Apache-2.0
"""The passes: what each did and what fidelity was left, as a table, and as curves of accuracy beside size and speed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsec.compiler.report_html import chart
from sparsec.compiler.report_html.chart import Chart, Dot, Line, Tick
from sparsec.compiler.report_html.units import NONE, decibels, factor, in_bytes, in_count, in_percent, ratio, scientific
from sparsec.compiler.text import shortened

Json = Mapping[str, Any]
_MOST_NAMES = 12
_MOST_CURVES = 6
_MOST_POINTS = 24
_EXACT_DB = 100.0
"""Where a curve ends: a signal a hundred thousand times the noise is as good as no noise."""
_HEIGHT = 230


@dataclass(frozen=True, slots=True)
class Reason:
    """Why layers were left alone, and which."""

    note: str
    layers: str
    count: int


@dataclass(frozen=True, slots=True)
class PassRow:
    """A pass.

    Attributes:
        name: Of the pass.
        text: With all its options.
        changed: How many layers.
        reasons: Why others were left alone.
        sizes: Weights, multiply-adds, zeros of the model after it.
        outputs: By output: name, relative error, SQNR, correlation, same top class, KL.
        note: In place of outputs.
    """

    name: str
    text: str
    changed: int
    reasons: Sequence[Reason]
    sizes: tuple[str, ...]
    outputs: Sequence[tuple[str, ...]]
    note: str

    @property
    def left(self) -> int:
        """How many layers were left alone."""
        return sum(reason.count for reason in self.reasons)


_SIZES = (("weight_bytes", in_bytes), ("macs", in_count), ("zeros", in_percent))
_FIDELITY = (("sqnr_db", decibels), ("correlation", "{:.4f}".format), ("top1", in_percent), ("kl", scientific))


def rows(steps: Sequence[Json]) -> list[PassRow]:
    """A row for each pass."""
    return [
        PassRow(
            name=step["name"],
            text=step["text"],
            changed=sum(not record["skipped"] for record in step["records"]),
            reasons=_reasons(step["records"]),
            sizes=tuple(NONE if step[key] is None else tell(step[key]) for key, tell in _SIZES),
            outputs=[(name, *_numbers(found)) for name, found in sorted(step["fidelity"].items())],
            note="not measured" if step["changed"] else "no change",
        )
        for step in steps
    ]


def _numbers(found: Json) -> Iterable[str]:
    yield "not finite" if found["relative_error"] is None else scientific(found["relative_error"])
    yield from (NONE if found[key] is None else tell(found[key]) for key, tell in _FIDELITY)


def _reasons(records: Iterable[Json]) -> list[Reason]:
    """Layers left alone, by reason."""
    names: dict[str, list[str]] = {}
    for record in records:
        if record["skipped"]:
            names.setdefault(record["note"], []).append(record["layer"])
    return [Reason(note, _listed(layers), len(layers)) for note, layers in names.items()]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f", and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Two charts over the passes, one above the other, and the speed-up at their end."""

    fidelity: Chart
    size: Chart
    speed_up: str
    outputs_left_out: int


def trajectory(report: Json) -> Trajectory | None:
    """Fidelity of the outputs and size of the model after each pass; None where fewer than two points are known."""
    steps = [step for step in report["steps"] if step["changed"]][-_MOST_POINTS:]
    if not any(step["fidelity"] for step in steps):
        return None
    x = chart.across(-0.1 * len(steps), 1.1 * len(steps))
    ticks = [
        Tick(x.place(0), "as it was"),
        *(Tick(x.place(i + 1), shortened(s["name"], 18)) for i, s in enumerate(steps)),
    ]
    worst = sorted({name for step in steps for name in step["fidelity"]}, key=lambda name: (_least(steps, name), name))
    totals = report["totals"]
    return Trajectory(
        _fidelity_chart(steps, worst[:_MOST_CURVES], x, ticks),
        _size_chart(steps, report, x, ticks),
        factor(ratio(totals["dense_price"], totals["price"])),
        max(0, len(worst) - _MOST_CURVES),
    )


def _least(steps: Sequence[Json], name: str) -> float:
    return min((_decibels(step["fidelity"][name]) for step in steps if name in step["fidelity"]), default=0.0)


def _decibels(found: Json) -> float:
    return 0.0 if found["sqnr_db"] is None else min(float(found["sqnr_db"]), _EXACT_DB)


def _fidelity_chart(steps: Sequence[Json], names: Sequence[str], x: chart.Scale, ticks: Sequence[Tick]) -> Chart:
    points = {name: [(i + 1, _decibels(s["fidelity"][name])) for i, s in enumerate(steps) if name in s["fidelity"]]
              for name in names}  # fmt: skip
    values = [value for found in points.values() for _, value in found]
    low, high = min(0.0, *values), max(20.0, *values)
    y = chart.upwards(low - 0.08 * (high - low), high + 0.15 * (high - low), _HEIGHT)
    lines = [
        chart.line([(0, _EXACT_DB), *found], x, y, f"c{n}", name) for n, (name, found) in enumerate(points.items())
    ]
    dots = [
        Dot(
            x.place(at),
            y.place(value),
            4,
            f"c{n}",
            f"{name} after {steps[at - 1]['name']}: {decibels(value)}",
            decibels(value) if len(names) == 1 else "",
        )
        for n, (name, found) in enumerate(points.items())
        for at, value in found
    ]
    y_ticks = [Tick(y.place(value), f"{value:g}") for value in y.ticks()]
    return Chart(
        "Fidelity after each pass", "", "signal to noise of each output, dB", ticks, y_ticks, lines, dots, _HEIGHT
    )


def _size_chart(steps: Sequence[Json], report: Json, x: chart.Scale, ticks: Sequence[Tick]) -> Chart:
    y = chart.upwards(0, 1.08, _HEIGHT)
    before = report["before"]
    kept = [(0, 1 - before["zeros"]), *((i + 1, 1 - s["zeros"]) for i, s in enumerate(steps) if s["zeros"] is not None)]
    whole = before["weight_bytes"] or 1
    stored = [
        (0, 1.0),
        *((i + 1, s["weight_bytes"] / whole) for i, s in enumerate(steps) if s["weight_bytes"] is not None),
    ]
    lines: list[Line] = []
    dots: list[Dot] = []
    for number, (label, found) in enumerate((("bytes of weights", stored), ("weights that are not zero", kept))):
        lines.append(chart.line(found, x, y, f"c{number}", label))
        dots += [Dot(x.place(a), y.place(b), 4, f"c{number}", f"{label}: {in_percent(b)}") for a, b in found]
    y_ticks = [Tick(y.place(value), f"{value:.0%}") for value in y.ticks()]
    return Chart("Size after each pass", "", "share of the original model", ticks, y_ticks, lines, dots, _HEIGHT)
