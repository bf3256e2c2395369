# SPDX-License-Identifier: Apache-2.0
"""What ``sparsec sweep`` prints: a table of curves, and the same as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sparsec.cli.tables import print_line, print_table
from sparsec.compiler.text import distinct, in_count, in_percent, shortened

if TYPE_CHECKING:
    from sparsec.compiler.sweep.curves import Curve, Point
    from sparsec.compiler.sweep.recipe import Choice
    from sparsec.compiler.sweep.sweep import LayerSweep, Sweep

_MOST_SKIPPED = 4


def sweep_json(found: "Sweep", chosen: "Choice", notes: Sequence[str]) -> dict[str, Any]:
    """The sweep as JSON values."""
    from sparsec.compiler.report import finite

    data: dict[str, Any] = finite(
        {
            "samples": found.samples,
            "whole": [_curve(curve) for curve in found.whole],
            "layers": [
                {**asdict(layer), "curves": [_curve(curve) for curve in layer.curves]} for layer in found.layers
            ],
            "skipped": {
                pattern: [{"layer": record.layer, "reason": record.note} for record in records]
                for pattern, records in found.skipped.items()
            },
            "densities": dict(chosen.densities),
            "chosen": chosen.found and _point(chosen.found),
            "uniform": chosen.uniform and _point(chosen.uniform),
            "notes": list(notes),
        }
    )
    return data


def _curve(curve: "Curve") -> dict[str, Any]:
    points = [_point(point) for point in curve.points]
    return {"pattern": curve.pattern, "knee": curve.knee, "recommended": curve.recommended, "points": points}


def _point(point: "Point") -> dict[str, Any]:
    told = {"density": point.density, "realised": point.realised, "fidelity": point.quality}
    return {**told, **asdict(point.comparison)}


def print_sweep(found: "Sweep", chosen: "Choice", title: str, notes: Sequence[str]) -> None:
    """Fidelity at each density: a row for the whole model and for each layer, a table for each pattern."""
    print_line(f"{title}: fidelity, 1 where nothing is lost, of the model with layers pruned to a density")
    for curve in found.whole:
        print_line()
        print_line(f"{curve.pattern}, measured on {found.samples} samples")
        _print_pattern(curve, found.layers, chosen.densities)
    if not found.whole:
        _print_weights(found.layers, chosen.densities)
    for pattern, records in found.skipped.items():
        for record in records[:_MOST_SKIPPED]:
            print_line(f"skipped    {shortened(record.layer)} under {pattern}: {record.note}")
        if len(records) > _MOST_SKIPPED:
            print_line(f"skipped    and {len(records) - _MOST_SKIPPED} more; --json lists them")
    for note in notes:
        print_line(f"note       {note}")
    if chosen.found is not None and chosen.uniform is not None:
        kept, others = in_percent(chosen.found.realised), in_percent(chosen.uniform.realised)
        print_line(f"chosen     keeps {kept} of the weights: fidelity {chosen.found.quality:.3f}")
        print_line(f"uniform    keeps {others} of the weights: fidelity {chosen.uniform.quality:.3f}")


def _print_pattern(whole: "Curve", layers: Sequence["LayerSweep"], chosen: Mapping[str, float]) -> None:
    densities = [point.density for point in whole.points]
    rows = [_row("all layers", "", "", "", whole, densities, "")]
    names = distinct([layer.name for layer in layers], 36)
    for name, layer in zip(names, layers, strict=True):
        curve = next((c for c in layer.curves if c.pattern == whole.pattern), None)
        if curve is not None:
            dead = "-" if layer.dead is None else in_percent(layer.dead.dead)
            told = f"{chosen[layer.name]:.3g}" if layer.name in chosen else ""
            rows.append(_row(name, in_count(layer.weights), f"{layer.pq_index:.3f}", dead, curve, densities, told))
    headings = ["layer", "weights", "PQ", "dead", *(f"{density:.3g}" for density in densities), "knee", "take"]
    headings += ["chosen"] if chosen else []
    print_table(headings, (row[: len(headings)] for row in rows), range(1, len(headings)))


def _row(
    name: str, size: str, index: str, dead: str, curve: "Curve", densities: Sequence[float], chosen: str
) -> list[str]:
    found = {point.density: f"{point.quality:.3f}" for point in curve.points}
    knee = "none" if curve.knee is None else f"{curve.knee:.3g}"
    return [name, size, index, dead, *(found.get(d, "") for d in densities), knee, f"{curve.recommended:.3g}", chosen]


def _print_weights(layers: Sequence["LayerSweep"], chosen: Mapping[str, float]) -> None:
    """What the weights alone say."""
    headings = ("layer", "weights", "PQ index", "density by SAP", "chosen")
    rows = [
        (
            name,
            in_count(layer.weights),
            f"{layer.pq_index:.3f}",
            f"{layer.pq_density:.3f}",
            f"{chosen[layer.name]:.3f}" if layer.name in chosen else "",
        )
        for name, layer in zip(distinct([layer.name for layer in layers], 50), layers, strict=True)
    ]
    print_table(headings, rows, (1, 2, 3, 4))
