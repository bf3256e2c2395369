# SPDX-License-Identifier: Apache-2.0
"""The report as a page: one HTML file that loads nothing and runs nothing; bars are inline SVG.

Names come from models, which may be anyone's: every text goes through `_text`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import sparsec
from sparsec.compiler.text import in_bytes, in_count, in_error, in_percent, in_time, printable

FILE = "report.html"
Json = Mapping[str, Any]

_BAR = 120
_MOST_OPERATORS = 12


def page(report: Json, code_bytes: int, arena_bytes: int) -> str:
    """The page for the content of `report.json`; equal reports give equal pages.

    Args:
        report: See `report.contents`.
        code_bytes: Machine code with its constants.
        arena_bytes: Scratch memory of a run.
    """
    title = f"{_text(report['name'])} for {_text(report['target'])}"
    style = files("sparsec.compiler").joinpath("report.css").read_text("utf-8")
    body = [
        f"<header><h1>{title}</h1><p>Compiled by sparsec {_text(sparsec.__version__)}. Times are predicted from "
        "the target's machine profile, for one run on one thread.</p></header>",
        _cards(report, code_bytes, arena_bytes),
        _steps(report["steps"]),
        _operators(report["layers"]),
        _layers(report["layers"]),
    ]
    return _FRAME.format(title=title, style=style, body="\n".join(body))


_FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def _text(value: object) -> str:
    return escape(printable(str(value)))


def _cards(report: Json, code_bytes: int, arena_bytes: int) -> str:
    before, after, totals = report["before"], report["after"], report["totals"]
    unpriced = f", without {totals['unpriced']} layers of general code" if totals["unpriced"] else ""
    rival = f"{in_time(totals['dense_price'])} with dense kernels only{unpriced}"
    sparse, layers = totals["sparse"], totals["layers"]
    cards = [
        _change("Weights", before["weight_bytes"], after["weight_bytes"], in_bytes),
        _change("Multiply-adds", before["macs"], after["macs"], in_count),
        _card("Zeros in weights", in_percent(after["zeros"]), f"{in_percent(before['zeros'])} before", after["zeros"]),
        _card("Predicted time", in_time(totals["price"]), rival, _ratio(totals["price"], totals["dense_price"])),
        _card("Sparse layers", f"{sparse} of {layers}", f"{totals['refused']} refused", _ratio(sparse, layers)),
        _card("Code", in_bytes(code_bytes), f"and {in_bytes(arena_bytes)} of scratch memory"),
    ]
    return f"<section class='cards'>{''.join(cards)}</section>"


def _change(title: str, before: float, after: float, tell: Any) -> str:
    return _card(title, tell(after), f"{tell(before)} before", _ratio(after, before))


def _card(title: str, value: str, note: str, share: float | None = None) -> str:
    bar = "" if share is None else _bars((("now", share),), title=in_percent(share), width=200)
    return f"<div><h2>{_text(title)}</h2><p class='value'>{_text(value)}</p>{bar}<p>{_text(note)}</p></div>"


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if whole and part is not None else None


def _bars(parts: Iterable[tuple[str, float]], title: str, mark: float | None = None, width: int = _BAR) -> str:
    """A bar whose parts are shares of its width, one after the other, with a tick at `mark`."""
    rects, start = [f"<rect class='track' width='{width}' height='10' rx='2'/>"], 0.0
    for kind, share in parts:
        length = max(0.0, min(share, 1.0)) * width
        rects.append(f"<rect class='{kind}' x='{start:.1f}' width='{length:.1f}' height='10' rx='2'/>")
        start += length
    if mark is not None:
        rects.append(f"<rect class='mark' x='{max(0.0, min(mark, 1.0)) * width - 1:.1f}' width='2' height='10'/>")
    label = _text(title)
    return f"<svg width='{width}' height='10' role='img' aria-label='{label}'>{''.join(rects)}</svg>"


def _steps(steps: Sequence[Json]) -> str:
    if not steps:
        return "<section><h2>Passes</h2><p>None but exact ones: the model was compiled as it is.</p></section>"
    head = (
        "<tr><th>pass<th>layers changed<th>left alone<th>weights<th>multiply-adds<th>zeros"
        "<th>output<th>relative error<th>SQNR<th>correlation<th>same top class<th>KL</tr>"
    )
    rows = "".join(_step(step) for step in steps)
    return f"<section><h2>Passes, and fidelity to the original after each</h2><table>{head}{rows}</table></section>"


def _step(step: Json) -> str:
    skipped = [record for record in step["records"] if record["skipped"]]
    reasons = "".join(f"<li><b>{_text(r['layer'])}</b> {_text(r['note'])}</li>" for r in skipped)
    left = f"<details><summary>{len(skipped)}</summary><ul>{reasons}</ul></details>" if skipped else "0"
    sizes = (tell(step[key]) if step[key] is not None else "" for key, tell in _SIZES)
    first = f"<code>{_text(step['text'])}</code>", f"{len(step['records']) - len(skipped)}", left, *sizes
    found = [(name, *_fidelity(numbers)) for name, numbers in step["fidelity"].items()] or [
        ("", "not measured" if step["changed"] else "no change", "", "", "", "")
    ]
    lines = [(*(first if index == 0 else ("",) * len(first)), *line) for index, line in enumerate(found)]
    return "".join(_step_row(line) for line in lines)


_SIZES = (("weight_bytes", in_bytes), ("macs", in_count), ("zeros", in_percent))


def _step_row(cells: Sequence[str]) -> str:
    text, changed, left, weights, macs, zeros, name, *numbers = cells
    middle = "".join(f"<td class='number'>{_text(number)}" for number in (weights, macs, zeros))
    tail = "".join(f"<td class='number'>{_text(number)}" for number in numbers)
    return f"<tr><td>{text}<td class='number'>{changed}<td>{left}{middle}<td>{_text(name)}{tail}</tr>"


def _fidelity(found: Json) -> tuple[str, ...]:
    cells = (("sqnr_db", "{:.1f} dB"), ("correlation", "{:.4f}"), ("top1", "{:.1%}"), ("kl", "{:.2e}"))
    told = (form.format(found[key]) if found[key] is not None else "" for key, form in cells)
    return in_error(found["relative_error"]), *told


def _operators(layers: Sequence[Json]) -> str:
    """Where the time goes: operators, with what is fused into them, by their share of it."""
    sums: dict[str, float] = defaultdict(float)
    for layer in layers:
        sums[layer["op"].split("+")[0]] += layer["price"] or 0.0
    most = sorted(sums.items(), key=lambda item: (-item[1], item[0]))[:_MOST_OPERATORS]
    whole, top = sum(sums.values()), max(sums.values(), default=0.0)
    rows = "".join(
        f"<tr><td>{_text(op)}<td>{_bars((('now', _ratio(time, top) or 0.0),), in_time(time), width=320)}"
        f"<td class='number'>{in_time(time)}<td class='number'>{in_percent(_ratio(time, whole) or 0.0)}</tr>"
        for op, time in most
    )
    return f"<section><h2>Where the time goes</h2><table>{rows}</table></section>"


def _layers(layers: Sequence[Json]) -> str:
    slowest = max((max(layer["price"] or 0.0, layer["rival_price"] or 0.0) for layer in layers), default=0.0)
    largest = max((layer["bytes"] for layer in layers), default=0)
    head = "<tr><th>layer<th>operator<th>pattern<th>density<th>kernel<th>predicted time<th>weights<th>verdict</tr>"
    rows = "".join(_layer(layer, slowest, largest) for layer in layers)
    legend = "The tick on the time of a layer with zeros is the best dense kernel of the same precision."
    return f"<section><h2>Layers</h2><p>{legend}</p><table class='layers'>{head}{rows}</table></section>"


def _layer(layer: Json, slowest: float, largest: float) -> str:
    rival = layer["rival_price"]
    ticks = f"{in_time(layer['price'])}, dense rival {in_time(rival)}"
    mark = None if layer["verdict"] == "dense" else _ratio(rival, slowest)
    time = _bars(((layer["verdict"], _ratio(layer["price"], slowest) or 0.0),), ticks, mark)
    size = _bars((("now", _ratio(layer["bytes"], largest) or 0.0),), in_bytes(layer["bytes"]), width=_BAR // 2)
    reason = f"<p>{_text(layer['refused'])}</p>" if layer["refused"] else ""
    cells = [
        f"<td class='name'>{_text(layer['name'])}",
        f"<td>{_text(layer['op']).replace('+', '+<wbr>')}",
        f"<td>{_text(layer['pattern'])}",
        f"<td class='number'>{in_percent(layer['density'])}",
        f"<td>{_text(layer['kernel'])}",
        f"<td>{time}<p>{'not predicted' if layer['kernel'] == 'fallback' else in_time(layer['price'])}</p>",
        f"<td>{size}<p>{_text(in_bytes(layer['bytes']))}</p>",
        f"<td><span class='badge {_text(layer['verdict'])}'>{_text(layer['verdict'])}</span>{reason}",
    ]
    return f"<tr>{''.join(cells)}</tr>"
