# SPDX-License-Identifier: Apache-2.0
"""The page's beginning: what was compiled, the figures that matter most, before against after, and what to heed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from sparsec.compiler.findings import idle_lines, warning_lines
from sparsec.compiler.report_html.units import (
    NONE,
    decibels,
    factor,
    in_bytes,
    in_count,
    in_percent,
    ratio,
    share,
    sides,
    time,
)

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page says besides the content of `report.json`; all of it is in the manifest too.

    Attributes:
        sparsec: Version that compiled the artifact.
        recipe: The resolved recipe as text; empty without one.
        code_bytes: Machine code with its constants.
        arena_bytes: Scratch memory of a run.
        ports: Inputs and outputs: ``input`` or ``output``, name, type, shape.
        threads: How many it was compiled for.
    """

    sparsec: str
    recipe: str
    code_bytes: int
    arena_bytes: int
    ports: tuple[tuple[str, str, str, tuple[int, ...]], ...] = ()
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Card:
    """One figure: a title, the value, a note below it."""

    title: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity before and after; `left` is the share that is left, for a bar."""

    title: str
    before: str
    after: str
    change: str
    left: float | None


def head(report: Json, facts: Facts) -> dict[str, Any]:
    """Name, target, version, machine, recipe, ports."""
    profile = report.get("profile") or {}
    return {
        "name": report["name"],
        "target": report["target"],
        "sparsec": facts.sparsec,
        "threads": facts.threads,
        "source": _SOURCES.get(profile.get("source", ""), "a profile of"),
        "machine": profile.get("machine", "a machine that the report does not name"),
        "recipe": facts.recipe.splitlines(),
        "ports": [(kind, name, dtype, sides(shape)) for kind, name, dtype, shape in facts.ports],
    }


_SOURCES = {"built-in": "sparsec's profile of", "file": "the profile that was given, of"}


def cards(report: Json) -> list[Card]:
    """Speed, size, sparse layers, fidelity: what one wants to know first."""
    totals, before, after = report["totals"], report["before"], report["after"]
    gain = ratio(totals["dense_price"], totals["price"])
    old, new = before["weight_bytes"], after["weight_bytes"]
    return [
        Card("Predicted speed-up", factor(gain), f"{time(totals['price'])} a run; dense {time(totals['dense_price'])}"),
        Card("Stored weights", in_bytes(new), f"{share(ratio(new, old))} of {in_bytes(old)}"),
        Card("Sparse layers", f"{totals['sparse']} of {totals['layers']}", f"{totals['refused']} refused"),
        _fidelity(report["steps"]),
    ]  # fmt: skip


def last_fidelity(steps: Sequence[Json]) -> Json:
    """Outputs after the last pass that was measured; empty without any."""
    return next((step["fidelity"] for step in reversed(steps) if step["fidelity"]), {})


def _fidelity(steps: Sequence[Json]) -> Card:
    measured = last_fidelity(steps)
    if not measured:
        changed = any(step["changed"] for step in steps)
        return Card("Fidelity", NONE, "not measured: no samples" if changed else "the model is as it was")
    name, found = max(
        sorted(measured.items()),
        key=lambda item: inf if item[1]["relative_error"] is None else item[1]["relative_error"],
    )
    which = f"'{name}'" if len(measured) == 1 else f"'{name}', the worst of {len(measured)} outputs"
    if found["top1"] is not None:
        return Card("Same top class", in_percent(found["top1"]), which)
    return Card("Signal to noise", decibels(found["sqnr_db"]), which)


def before_after(report: Json, facts: Facts) -> list[Row]:
    """The model that came in against what was written."""
    before, after, totals = report["before"], report["after"], report["totals"]
    unpriced = f", without {_layers(totals['unpriced'])} of general code" if totals["unpriced"] else ""
    rows = [
        (f"Predicted time of a run{unpriced}", totals["dense_price"], totals["price"], time),
        ("Stored weights", before["weight_bytes"], after["weight_bytes"], in_bytes),
        ("Multiply-adds done", before["macs"], after["macs"], in_count),
    ]
    return [
        *(Row(title, tell(old), tell(new), share(ratio(new, old)), ratio(new, old)) for title, old, new, tell in rows),
        Row("Zeros in weights", share(before["zeros"]), share(after["zeros"]), "", None),
        Row("Machine code", NONE, in_bytes(facts.code_bytes), "", None),
        Row("Scratch memory", NONE, in_bytes(facts.arena_bytes), "", None),
    ]  # fmt: skip


def warnings(report: Json) -> list[str]:
    """What to heed, in sentences."""
    steps, totals = report["steps"], report["totals"]
    lines = [f"Output {line}." for line in warning_lines(steps)]
    lines += [f"Pass {line}." for line in idle_lines(steps)]
    if any(step["changed"] for step in steps) and not last_fidelity(steps):
        lines.append("Fidelity was not measured: there were no calibration samples.")
    if totals["unpriced"]:
        lines.append(f"No time is predicted for {_layers(totals['unpriced'])} of general code.")
    return lines


def _layers(count: int) -> str:
    return f"{count} layer{'' if count == 1 else 's'}"
