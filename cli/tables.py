# SPDX-License-Identifier: Apache-2.0
"""Tables and lines on stdout: plain where it is a pipe, never wider than a terminal."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparsec.compiler.findings import idle_lines, warning_lines
from sparsec.compiler.text import in_bytes, in_count, in_error, in_percent, in_time, printable, shortened

if TYPE_CHECKING:
    from rich.console import Console

Json = Mapping[str, Any]
_PIPE_WIDTH = 160
_MOST_REFUSALS = 8


def print_json(data: Any) -> None:
    """Write JSON, all in ASCII."""
    sys.stdout.write(json.dumps(data, indent=1, ensure_ascii=True, allow_nan=False) + "\n")


def print_line(text: str = "") -> None:
    """Write a line whose text may come from a model."""
    sys.stdout.write(printable(text) + "\n")


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> None:
    """Write a table.

    Args:
        headings: One for each column.
        rows: Cells; shorten what may be very long.
        numbers: Columns that stand flush right.
    """
    from rich import box
    from rich.table import Table

    right = set(numbers)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    console = _console()
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def print_compiled(
    report: Json, sizes: Mapping[str, int], seconds: Sequence[float], place: str, notes: Sequence[str]
) -> None:
    """The short table after a compilation.

    Args:
        report: Content of `report.json`.
        sizes: Bytes of ``code`` and ``arena``.
        seconds: Of each pass.
        place: Where the artifact stands.
        notes: What was decided without being asked.
    """
    print_line(f"{report['name']} for {report['target']}")
    print_table(("", "before", "after", ""), _sides(report["before"], report["after"]), (1, 2, 3))
    print_steps(report["steps"], seconds)
    totals = report["totals"]
    print_line(f"code       {in_bytes(sizes['code'])}, and {in_bytes(sizes['arena'])} of scratch memory")
    print_line(f"layers     {totals['layers']}, {totals['sparse']} sparse, {totals['refused']} refused")
    with_dense = f"; {in_time(totals['dense_price'])} with dense kernels only" if totals["sparse"] else ""
    unpriced = f", without {totals['unpriced']} layers of general code" if totals["unpriced"] else ""
    print_line(f"predicted  {in_time(totals['price'])} a run{unpriced}{with_dense}")
    print_findings(report["steps"], " in the report")
    for line in _refusals(report["layers"]):
        print_line(f"refused    {line}")
    for note in notes:
        print_line(f"note       {note}")
    print_line(f"artifact   {place}")


def print_findings(steps: Sequence[Json], where: str = "") -> None:
    """What was lost in the end, what must not be overlooked, and which passes did nothing.

    Args:
        steps: The passes, as in `report.json`.
        where: Where the reasons stand for which a line has no room; empty for nowhere.
    """
    for line in fidelity_lines(steps):
        print_line(f"fidelity   {line}")
    for line in warning_lines(steps):
        print_line(f"warning    {line}")
    for line in idle_lines(steps, where):
        print_line(f"idle       {line}")


def fidelity_lines(steps: Sequence[Json]) -> list[str]:
    """How each output compares with the original's after the last pass that was measured."""
    measured = [step["fidelity"] for step in steps if step["fidelity"]]
    if not measured:
        changed = any(step["changed"] for step in steps)
        return ["not measured: no calibration samples"] if changed else []
    return [f"'{shortened(name)}' {_comparison(found)}" for name, found in measured[-1].items()]


def print_steps(steps: Sequence[Json], seconds: Sequence[float] = ()) -> None:
    """A row for each pass: what the model was made of after it, and what fidelity was left; nothing without passes.

    Of several outputs, the one with the greatest relative error counts.
    """
    headings = ["pass", "weights", "multiply-adds", "zeros", "error", "SQNR", "correlation", "same top", "KL"]
    timed = len(seconds) == len(steps)
    rows = [_step(step) for step in steps]
    for row, time in zip(rows, seconds, strict=False) if timed else ():
        row.append(in_time(time * 1e6))
    if rows:
        print_table(headings + ["time"] * timed, rows, range(1, 11))


def _step(step: Json) -> list[str]:
    fidelity = list(step["fidelity"].values())
    found = max(fidelity, key=_error, default=dict.fromkeys(key for key, _ in _FIDELITY))
    sizes = (("weight_bytes", in_bytes), ("macs", in_count), ("zeros", in_percent))
    error = ("-" if step["changed"] else "no change") if not fidelity else in_error(found["relative_error"])
    told = [form.format(found[key]) if found[key] is not None else "-" for key, form in _FIDELITY]
    return [step["name"], *(tell(step[key]) if step[key] is not None else "-" for key, tell in sizes), error, *told]


_FIDELITY = (("sqnr_db", "{:.1f} dB"), ("correlation", "{:.4f}"), ("top1", "{:.1%}"), ("kl", "{:.2e}"))


def _error(found: Json) -> float:
    return float("inf") if found["relative_error"] is None else float(found["relative_error"])


def print_layers(layers: Sequence[Json]) -> None:
    """The table of an artifact's layers."""
    headings = ("layer", "operator", "pattern", "density", "bytes", "kernel", "predicted", "dense rival", "refused")
    print_table(headings, map(_layer, layers), (3, 4, 6, 7))


def _layer(layer: Json) -> tuple[str, ...]:
    return (
        shortened(str(layer["name"]), 40),
        shortened(str(layer["op"]), 30),
        str(layer["pattern"]),
        in_percent(layer["density"]),
        in_bytes(layer["bytes"]),
        str(layer["kernel"]),
        in_time(None if layer["kernel"] == "fallback" else layer["price"]),
        in_time(layer["rival_price"]),
        str(layer["refused"]),
    )


def _sides(before: Json, after: Json) -> list[tuple[str, str, str, str]]:
    quantities = (("weights", "weight_bytes", in_bytes), ("multiply-adds", "macs", in_count))
    rows = [
        (title, tell(before[key]), tell(after[key]), _share(after[key], before[key])) for title, key, tell in quantities
    ]
    return [*rows, ("zeros in weights", in_percent(before["zeros"]), in_percent(after["zeros"]), "")]


def _share(after: float, before: float) -> str:
    return f"{100 * after / before:.0f} %" if before else ""


def _comparison(found: Json) -> str:
    top1 = "" if found["top1"] is None else f", same top class in {in_percent(found['top1'])}"
    sqnr = "" if found["sqnr_db"] is None else f", SQNR {found['sqnr_db']:.1f} dB"
    correlation = "" if found["correlation"] is None else f", correlation {found['correlation']:.4f}"
    return f"relative error {in_error(found['relative_error'])}{sqnr}{correlation}{top1}"


def _refusals(layers: Sequence[Json]) -> list[str]:
    refused = [f"{shortened(layer['name'])}: {layer['refused']}" for layer in layers if layer["refused"]]
    more = len(refused) - _MOST_REFUSALS
    return refused if more <= 0 else [*refused[:_MOST_REFUSALS], f"and {more} more; 'sparsec inspect' lists them"]


def _console() -> "Console":
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(file=sys.stdout, width=width, markup=False, emoji=False, highlight=False)
