# SPDX-License-Identifier: Apache-2.0
"""The layers: bars of predicted time and of bytes for the dearest, operators by their share, and the table of all."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from sparsec.compiler.report_html.units import NONE, brief, factor, in_bytes, in_percent, ratio, sides, time

Json = Mapping[str, Any]
MOST_BARS = 40
"""Layers that have bars; the table has all."""
MOST_OPERATORS = 12
_FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar before its rival's, both as shares of the longest.

    Attributes:
        name: Of the layer or operator; a long one abbreviated.
        kind: Verdict, which colours it; ``plain`` for none.
        share: Length.
        rival: Length of the pale bar behind it; None without one.
        value: What it stands for, in words.
        gain: The rival's over it, in words.
        title: Shown when the pointer rests on it.
    """

    name: str
    kind: str
    share: float
    rival: float | None
    value: str
    gain: str
    title: str


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars, dearest first, and how many were left out of how many."""

    bars: Sequence[Bar]
    left_out: int
    whole: int


def time_bars(layers: Sequence[Json]) -> Bars:
    """Predicted time of the kernel chosen, before the best dense one of the same precision."""
    timed = [layer for layer in layers if layer["kernel"] != "fallback" and layer["price"]]
    return _bars(timed, lambda layer: (layer["price"], layer["rival_price"]), time)


def byte_bars(layers: Sequence[Json]) -> Bars:
    """Stored bytes, indices and scales included, before those of the float32 weight without zeros left out."""
    return _bars(
        [layer for layer in layers if layer["bytes"]],
        lambda layer: (layer["bytes"], float32_bytes(layer)),
        in_bytes,
        "plain",
    )


def float32_bytes(layer: Json) -> int | None:
    """Of the dense weight; None where its shape is not known."""
    return _FLOAT32_BYTES * prod(layer["shape"]) if layer.get("shape") else None


def _bars(
    layers: Sequence[Json],
    measure: Callable[[Json], tuple[float, float | None]],
    tell: Callable[[Any], str],
    kind: str = "",
) -> Bars:
    """Of equal bars, the layer that runs first stands first."""
    measured = sorted(((*measure(layer), layer) for layer in layers), key=lambda item: -max(item[0], item[1] or 0))
    drawn = measured[:MOST_BARS]
    longest = max((max(own, rival or 0) for own, rival, _ in drawn), default=0.0)
    return Bars(
        [_bar(own, rival, layer, longest, tell, kind) for own, rival, layer in drawn],
        len(measured) - len(drawn),
        len(measured),
    )


def _bar(own: float, rival: float | None, layer: Json, longest: float, tell: Callable[[Any], str], kind: str) -> Bar:
    gain = ratio(rival, own)
    against = "" if rival is None else f", dense {tell(rival)}"
    return Bar(
        brief(layer["name"]),
        kind or layer["verdict"],
        own / longest,
        None if rival is None else rival / longest,
        tell(own),
        "" if gain is None or abs(gain - 1) < 0.005 else factor(gain),
        f"{layer['name']}: {tell(own)}{against}",
    )


def operators(layers: Sequence[Json]) -> list[Bar]:
    """Operators, with what is fused into them, by their share of the predicted time."""
    sums: dict[str, float] = defaultdict(float)
    for layer in layers:
        sums[layer["op"].split("+")[0]] += layer["price"] or 0.0
    most = sorted(((t, op) for op, t in sums.items() if t > 0), key=lambda item: (-item[0], item[1]))[:MOST_OPERATORS]
    whole = sum(sums.values())
    return [
        Bar(op, "plain", t / most[0][0], None, time(t), in_percent(t / whole), f"{op}: {time(t)}") for t, op in most
    ]


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the table: text, and the number it is sorted by; None for its text."""

    text: str
    order: float | None = None


@dataclass(frozen=True, slots=True)
class LayerRow:
    """A row of the table.

    Attributes:
        name: ONNX name.
        op: Operator and what is fused into it.
        kernel: Family, pattern that it exploits, precision.
        cells: The rest, in the order of `COLUMNS`.
        verdict: Which colours the badge.
        note: Why it was refused.
    """

    name: str
    op: Sequence[str]
    kernel: str
    cells: Sequence[Cell]
    verdict: str
    note: str


COLUMNS = (
    ("weight", ""), ("pattern", ""), ("density", "number"), ("time", "number"), ("dense rival", "number"),
    ("speed-up", "number"), ("bytes", "number"), ("float32", "number"),
)  # fmt: skip
"""Headings after the kernel, and the class of their cells."""


def table(layers: Sequence[Json]) -> list[LayerRow]:
    """A row for each layer, in order of execution."""
    return [
        LayerRow(
            layer["name"],
            layer["op"].split("+"),
            " ".join(filter(None, (layer["kernel"], layer.get("precision", "")))),
            _cells(layer),
            layer["verdict"],
            layer["refused"],
        )
        for layer in layers
    ]


def _cells(layer: Json) -> list[Cell]:
    weighted = layer["rival_price"] is not None
    priced = layer["price"] if layer["kernel"] != "fallback" else None
    gain, dense = ratio(layer["rival_price"], priced), float32_bytes(layer)
    return [
        Cell(sides(layer.get("shape") or ()), prod(layer.get("shape") or (0,))),
        Cell(layer["pattern"] if weighted else NONE),
        Cell(in_percent(layer["density"]) if weighted else NONE, layer["density"] if weighted else -1),
        Cell(time(priced), priced or 0),
        Cell(time(layer["rival_price"]), layer["rival_price"] or 0),
        Cell(factor(gain), gain or 0),
        Cell(in_bytes(layer["bytes"]) if layer["bytes"] else NONE, layer["bytes"]),
        Cell(NONE if dense is None else in_bytes(dense), dense or 0),
    ]
