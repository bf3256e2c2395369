# SPDX-License-Identifier: Apache-2.0
"""Findings: what a reader of a report must not overlook, in lines; the command line and the page show the same ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparsec.compiler.text import shortened

Json = Mapping[str, Any]
_MOST_REASONS = 2


def warning_lines(steps: Sequence[Json]) -> list[str]:
    """Outputs that are no nearer to the original's than zeros would be, after the last pass that was measured.

    Args:
        steps: The passes, as in `report.json`.
    """
    measured = [step["fidelity"] for step in steps if step["fidelity"]]
    return [
        f"'{shortened(name)}' is no nearer to the original's than zeros would be; loosen the passes, or recover"
        for name, found in (sorted(measured[-1].items()) if measured else ())
        if found["sqnr_db"] is None or found["sqnr_db"] <= 0
    ]


def idle_lines(steps: Sequence[Json], where: str = " in the report") -> list[str]:
    """Passes that found layers but changed none, with the reasons; exact rewrites may well find nothing to do.

    Args:
        steps: The passes, as in `report.json`.
        where: Where the reasons stand for which a line has no room; empty for nowhere.
    """
    lines = []
    for step in steps:
        reasons = list(dict.fromkeys(record["note"] for record in step["records"] if record["skipped"]))
        if reasons and not step["changed"] and all(record["skipped"] for record in step["records"]):
            left = len(reasons) - _MOST_REASONS
            more = f"; {left} more{where}" if left > 0 else ""
            lines.append(f"'{step['name']}' left all layers alone: {'; '.join(reasons[:_MOST_REASONS])}{more}")
    return lines
