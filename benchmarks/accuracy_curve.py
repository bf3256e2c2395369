# SPDX-License-Identifier: Apache-2.0
"""Accuracy against density without any training: ``python -m benchmarks.accuracy --curve``.

One sweep of the layers gives curves; for each budget they give each layer a density (`benchmarks.densities`). The model
is pruned to these, quantized, and measured as the rows of the table are; so it is with one density for all layers.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import onnx_ir as ir

from benchmarks.accuracy_metrics import METRICS
from benchmarks.accuracy_rows import POINTWISE_CURVES
from benchmarks.densities import Curves, Kept, measured, prepared, with_densities
from sparsec.compiler import driver
from sparsec.compiler.errors import SparsecError
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.pass_manager import Reporter
from sparsec.compiler.sweep.plot import draw_lines
from sparsec.models.catalog import MODELS
from sparsec.models.runner import Run

RESULTS = Path(__file__).resolve().parent / "accuracy_curve.json"
ALLOCATED, UNIFORM = "densities by the sweep", "one density for all layers"
Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AccuracyCurve:
    """What is measured at several budgets.

    Attributes:
        key: Name of the plot's file.
        model: Name in the catalog.
        title: What the document calls it.
        before: Texts of exact passes, before the sweep and the pruning.
        step: Text of the pruning pass, without density and layers.
        curves: What is swept.
        shares: Of the weights of the layers swept, to be kept.
        uniform: Those of them at which one density for all layers is tried, too.
        limits: What keeps it from being better, for the document.
    """

    key: str
    model: str
    title: str
    before: tuple[str, ...]
    step: str
    curves: Curves
    shares: tuple[float, ...] = (0.9, 0.8, 0.7, 0.6, 0.5)
    uniform: tuple[float, ...] = (0.9, 0.7, 0.5)
    limits: str = ""


EFFICIENTNET = AccuracyCurve(
    "accuracy-curve",
    "efficientnet-lite0",
    "EfficientNet-Lite0: blocks of 2x4 in the pointwise convolutions, + int8, no training",
    ("permute-channels{pattern=block(2x4) density=0.6}",),
    "prune-blocks{rows=2 cols=4 update=greedy}",
    POINTWISE_CURVES[2],
    limits=(
        "What limits it: the early blocks, which the sweep leaves whole, and the downsampling ones have no weights\n"
        "to spare, so that the last stages must give up more than the share; and what there is to learn from:\n"
        "recovery, as in the rows above, adds to these numbers, but from views of 19 [photographs](data.md), where\n"
        "the network was trained on more than a million."
    ),
)


def run_curve(curve: AccuracyCurve, reporter: Reporter) -> Result:
    """Sweep, then compress and measure at each share, with densities by the sweep and with one for all.

    Returns:
        The numbers by share for int8 alone (share 1) and both ways of pruning, passes, and seconds of it all.

    Raises:
        SparsecError: If a pass or the sweep refuses the model.
    """
    start, entry = perf_counter(), MODELS[curve.model]
    samples, shapes = entry.inputs("calibration", curve.curves.samples), entry.shapes or None

    def job(source: ir.Model, passes: Sequence[str]) -> driver.Job:
        return driver.job(source, "host", None, samples, shapes, passes=passes, reporter=reporter, measures=True)

    model, context = prepared(curve.before, lambda passes: job(entry.build(), passes))
    original = _runner(model)

    def reached(prune: Sequence[str]) -> float:
        done = driver.compress(job(model, [*prune, "quantize"]))
        return next(iter(METRICS[curve.model].measure(entry, original, _runner(done.model)).values()))

    found = measured(model, curve.curves, context)
    steps = {share: with_densities(Kept(curve.step, share), found, curve.curves) for share in curve.shares}
    same = {share: _uniform(curve, share) for share in curve.uniform}
    dense = reached([])
    return {
        ALLOCATED: [[1.0, dense], *([share, _or_zero(reached, step)] for share, step in steps.items())],
        UNIFORM: [[1.0, dense], *([share, _or_zero(reached, step)] for share, step in same.items())],
        "passes": list(steps.values()),
        "samples": curve.curves.samples,
        "seconds": round(perf_counter() - start),
    }


def section(curve: AccuracyCurve, result: Result) -> str:
    """The part of docs/accuracy.md."""
    shares = [share for share, _ in result[ALLOCATED]]
    head = ["weights kept", *(f"{share:g}" for share in shares)]
    rows = [[name, *_cells(dict(result[name]), shares)] for name in (ALLOCATED, UNIFORM)]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---", *("---:" for _ in shares)], *rows)]
    return (
        f"\n## Against density\n\n{curve.title}.\n\n![{METRICS[curve.model].title} against the share of weights kept]"
        f"({curve.key}.svg)\n\n" + "\n".join(lines) + f"\n\n{METRICS[curve.model].title[0].upper()}"
        f"{METRICS[curve.model].title[1:]}, after pruning in one shot on {result['samples']} calibration inputs and "
        f"int8; at 1, int8 alone. Written by `python -m benchmarks.accuracy --curve` in {result['seconds']} seconds. "
        "Weights kept: share of those of the layers swept.\n" + (f"\n{curve.limits}\n" if curve.limits else "")
    )


def _cells(found: Mapping[float, float], shares: Sequence[float]) -> list[str]:
    return [f"{found[share]:.4f}" if share in found else "-" for share in shares]


def write(curve: AccuracyCurve, result: Result, folder: Path) -> None:
    """Keep the result, and draw it into the folder."""
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    with (folder / f"{curve.key}.svg").open("wb") as stream:
        lines = {name: result[name] for name in (ALLOCATED, UNIFORM)}
        draw_lines(lines, stream, "svg", curve.model, "agreement with float32")


def load() -> Result | None:
    """The result that was kept."""
    found: Result | None = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else None
    return found


def _uniform(curve: AccuracyCurve, share: float) -> str:
    return curve.step.removesuffix("}") + f" density={share:g} only=[{','.join(curve.curves.layers)}]}}"


def _or_zero(reached: Any, step: str) -> float:
    """What is reached; 0 where the passes refuse a model that has collapsed, which is told on stderr."""
    try:
        return float(reached([step]))
    except SparsecError as error:
        print(f"{step}: {error}", file=sys.stderr)
        return 0.0


def _runner(model: ir.Model) -> Run:
    oracle = Oracle(model)
    return lambda arrays: oracle.run(dict(arrays))
