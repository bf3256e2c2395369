# SPDX-License-Identifier: Apache-2.0
"""The parts of a report that the page shows, checked before they are drawn: the file may be old or damaged.

A form is a tuple of types, a one-element list (a list of that form), a mapping (an object with at least these keys; one
that ends in ``?`` may be missing), or `Named` (an object with any keys).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from sparsec.compiler.errors import ArtifactError
from sparsec.compiler.text import shortened

Form = Any


@dataclass(frozen=True, slots=True)
class Named:
    """An object whose keys are names, each value of the same form."""

    form: Form


TEXT, FLAG, LIST = (str,), (bool,), (list,)
COUNT, NUMBER = (int,), (int, float)
MAYBE = (int, float, type(None))

_SIDE = {"parameters": COUNT, "weight_bytes": COUNT, "zeros": NUMBER, "macs": COUNT}
_FIDELITY = dict.fromkeys(("relative_error", "sqnr_db", "correlation", "top1", "kl"), MAYBE)
_STEP = {
    "name": TEXT,
    "text": TEXT,
    "changed": FLAG,
    "weight_bytes": MAYBE,
    "macs": MAYBE,
    "zeros": MAYBE,
    "records": [{"layer": TEXT, "note": TEXT, "skipped": FLAG}],
    "fidelity": Named(_FIDELITY),
}
_LAYER = {
    **dict.fromkeys(("name", "op", "pattern", "kernel", "refused", "verdict"), TEXT),
    **dict.fromkeys(("price", "rival_price", "breakeven_density?"), MAYBE),
    "density": NUMBER,
    "bytes": COUNT,
    "shape?": [COUNT],
    "precision?": TEXT,
}
_CURVE = {
    **dict.fromkeys(("shape", "pattern", "precision"), TEXT),
    "densities": [NUMBER],
    "ratios": [MAYBE],
    "pays_from": MAYBE,
}
REPORT: Form = {
    "name": TEXT,
    "target": TEXT,
    "before": _SIDE,
    "after": _SIDE,
    "totals": {
        **dict.fromkeys(("layers", "sparse", "refused", "unpriced"), COUNT),
        "price": MAYBE,
        "dense_price": MAYBE,
    },
    "steps": [_STEP],
    "layers": [_LAYER],
    "profile?": {"machine": TEXT, "source": TEXT},
    "breakeven?": [_CURVE],
}
"""What the page needs of `report.json`."""


def check(report: Any, place: str) -> None:
    """Check a report from disk.

    Args:
        report: JSON values.
        place: The artifact's folder, for the message.

    Raises:
        ArtifactError: Naming the part that is missing, of another type, or not finite.
    """
    part = misfit(report, REPORT, "")
    if part is not None:
        found = f" at '{shortened(part.lstrip('.'))}'" if part else ""
        msg = f"Artifact '{place}': file 'report.json' is damaged{found}. Compile the model again."
        raise ArtifactError(msg)


def misfit(value: Any, form: Form, part: str) -> str | None:
    """The first part of `value` that is not of its form; None if all are."""
    if isinstance(form, tuple):
        return None if _plain(value, form) else part
    if isinstance(form, list):
        items = enumerate(value) if isinstance(value, list) else None
        return part if items is None else _first((item, form[0], f"{part}[{index}]") for index, item in items)
    if not isinstance(value, dict):
        return part
    if isinstance(form, Named):
        return _first((item, form.form, f"{part}.{key}") for key, item in value.items())
    return _first(_members(value, form, part))


def _plain(value: Any, types: tuple[type, ...]) -> bool:
    if isinstance(value, bool) and bool not in types:
        return False
    return isinstance(value, types) and (not isinstance(value, int | float) or isfinite(value))


_MISSING = object()


def _members(value: Mapping[str, Any], form: Mapping[str, Form], part: str) -> Any:
    for key, inner in form.items():
        name = key.removesuffix("?")
        if name in value or name == key:
            yield value.get(name, _MISSING), inner, f"{part}.{name}"


def _first(parts: Any) -> str | None:
    return next((found for item in parts if (found := misfit(*item)) is not None), None)
