# SPDX-License-Identifier: Apache-2.0
"""What compression costs in accuracy: ``python -m benchmarks.accuracy [--only ROW]...`` writes docs/accuracy.md.

``--curve`` measures `accuracy_curve` instead of the rows.

Each row of `accuracy_rows` is compressed by `driver.compress` with calibration inputs alone and measured by
`accuracy_metrics` on held-out inputs, with onnxruntime. Results are kept in accuracy.json beside this file, so that a
row can be measured again by itself.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import onnx_ir as ir

from benchmarks import accuracy_curve
from benchmarks.accuracy_metrics import METRICS, Numbers
from benchmarks.accuracy_rows import ROWS, Row
from benchmarks.densities import resolved
from sparsec.compiler import driver
from sparsec.compiler.errors import SparsecError
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.survey import survey
from sparsec.models.catalog import MODELS
from sparsec.models.runner import Run

DOC = Path(__file__).resolve().parent.parent / "docs" / "accuracy.md"
RESULTS = Path(__file__).resolve().parent / "accuracy.json"
HEAD = """# Accuracy

What compression costs, measured on held-out inputs. Written by `python -m benchmarks.accuracy`.

Nothing that a pass sees is measured on: calibration and recovery use the catalog's [calibration inputs](data.md) alone,
and of those the driver sets a part aside to measure fidelity after each pass. SmolLM2 is dequantized from 4 bits before
anything else; that is its dense model, and its three rows see the same windows, of news and of Wikipedia, while news
alone is what they are measured on. The densities of EfficientNet-Lite0's layers are what the allocator
of [sweep](sweep.md) makes of the share to keep, on calibration inputs. Its agreement is counted on 200 views, ten of
each picture, so one view is half a point, and two points more or less say little; the pattern of the rows in 1x4 and
the distillation of one of them were chosen among some ten tries with these views in sight.

Blocks of one row cost this network far less than blocks of two: the two rows of blocks differ in that alone, those of
kernel sparsity in their recovery, too. What they cost in speed depends on the target, and
`sparsec breakeven --model MODEL --pattern 'block(1x4)' --pattern 'block(2x4)'` tells: in WebAssembly int8 layers gain
nearly as much from either; on x86 with VNNI the layers of 7x7 positions, which hold most of the weights, gain from
neither above a density of a third to a half, and the compiler leaves them dense.

Naive: the same pattern chosen by magnitude and int8 by least and greatest value, in one shot, without compensation,
bias correction or recovery. "-": not tried. Seconds: compression with calibration, recovery and the sweep that finds
densities of single layers, while the two cores had other work too.

| model | compression | reached | goal | naive | dense | weights | MACs | samples | seconds |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""
Result = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compress, measure, write.

    Returns:
        The exit code: 0, or 1 if a row could not be compressed or misses its goal.
    """
    options = _parser().parse_args(arguments)
    results = _load()
    if options.curve:
        result = accuracy_curve.run_curve(accuracy_curve.EFFICIENTNET, _progress)
        accuracy_curve.write(accuracy_curve.EFFICIENTNET, result, DOC.parent)
        DOC.write_text(page(results, result), "utf-8")
        return 0
    failures = 0
    for row in ROWS:
        if row.key in (options.only or [row.key]):
            failures += not _tried(row, results)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
            DOC.write_text(page(results, accuracy_curve.load()), "utf-8")
    missed = [row.key for row in ROWS if row.key in results and not _reached(row, results)]
    print(f"missed: {', '.join(missed) or 'none'}", file=sys.stderr)
    return int(bool(failures or missed))


def run_row(row: Row) -> Result:
    """Compress and measure one row, its naive variant and the dense model.

    Raises:
        SparsecError: If a pass refuses the model.
    """
    entry, metric = MODELS[row.model], METRICS[row.model]
    source = entry.build()
    calibration = entry.inputs("calibration", row.samples)

    def compressed(passes: Sequence[str], recipe: str | None = None) -> tuple[driver.Compressed, float]:
        job = driver.job(source, "host", recipe, calibration, entry.shapes or None, passes=passes, reporter=_progress)
        start = perf_counter()
        return driver.compress(job), perf_counter() - start

    def asked(passes: Sequence[str]) -> driver.Job:
        few = entry.inputs("calibration", row.curves.samples if row.curves else None)
        return driver.job(source, "host", None, few, entry.shapes or None, passes=passes, measures=True)

    start = perf_counter()
    passes = resolved(row.passes, row.curves, asked)
    swept = perf_counter() - start
    done, seconds = compressed(passes, row.recipe)
    dense = _runner(done.original)
    before, after = survey(done.original), survey(done.model)
    return {
        "values": metric.measure(entry, dense, _runner(done.model)),
        "naive": _naive(row, compressed, dense),
        "dense": metric.measure(entry, dense, dense),
        "bytes": [before.weight_bytes, after.weight_bytes],
        "macs": [before.macs, after.macs],
        "samples": len(next(iter(calibration.values()))),
        "seconds": round(swept + seconds, 1),
        "passes": [step.text for step in done.steps],
    }


def page(results: Mapping[str, Result], curve: Result | None = None) -> str:
    """The whole document, with the curve where it was measured."""
    known = [row for row in ROWS if row.key in results]
    table = "\n".join(_line(row, results) for row in known)
    curves = accuracy_curve.section(accuracy_curve.EFFICIENTNET, curve) if curve else ""
    return HEAD + table + "\n" + curves + "".join(_details(row, results[row.key]) for row in known)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    keys = [row.key for row in ROWS]
    parser.add_argument("--only", action="append", choices=keys, metavar="ROW", help=f"one of {', '.join(keys)}")
    parser.add_argument("--curve", action="store_true", help="measure accuracy against density instead")
    return parser


def _load() -> dict[str, Result]:
    """Results of rows that still exist."""
    if not RESULTS.exists():
        return {}
    found: dict[str, Result] = json.loads(RESULTS.read_text("utf-8"))
    return {row.key: found[row.key] for row in ROWS if row.key in found}


def _tried(row: Row, results: dict[str, Result]) -> bool:
    """Put the row's result in its place; if it cannot be compressed, say why and leave the old one out."""
    try:
        results[row.key] = run_row(row)
    except SparsecError as error:
        results.pop(row.key, None)
        print(f"{row.key}: {error}", file=sys.stderr)
        return False
    print(_line(row, results), flush=True)
    return True


def _naive(row: Row, compressed: Any, dense: Run) -> Numbers | str:
    """What the naive passes reach; a word where there are none, or where they kill the model."""
    if not row.naive:
        return "-"
    try:
        model = compressed(row.naive)[0].model
    except SparsecError as error:
        print(f"{row.key}, naive: {error}", file=sys.stderr)
        return "collapses"
    return METRICS[row.model].measure(MODELS[row.model], dense, _runner(model))


def _runner(model: ir.Model) -> Run:
    oracle = Oracle(model)
    return lambda arrays: oracle.run(dict(arrays))


def _reached(row: Row, results: Mapping[str, Result]) -> bool:
    """Whether a row is at least as good as its goal, or better than each row that it has to beat."""
    metric, value = METRICS[row.model], _main(results[row.key]["values"])
    if isinstance(row.goal, tuple):
        rivals = [_main(results[key]["values"]) for key in row.goal if key in results]
        return len(rivals) == len(row.goal) and all(metric.reaches(value, rival) for rival in rivals)
    return row.goal is None or metric.reaches(value, row.goal)


def _line(row: Row, results: Mapping[str, Result]) -> str:
    result = results[row.key]
    reached = f"{_main(result['values']):.4f}"
    cells = (
        row.model,
        row.compression,
        f"**{reached}**" if _reached(row, results) else f"{reached} (missed)",
        _goal(row, results),
        result["naive"] if isinstance(result["naive"], str) else f"{_main(result['naive']):.4f}",
        f"{_main(result['dense']):.4f}",
        _change(*result["bytes"], unit=1e6, name="MB"),
        f"{result['macs'][1] / result['macs'][0]:.0%}",
        str(result["samples"]),
        f"{result['seconds']:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def _goal(row: Row, results: Mapping[str, Result]) -> str:
    if row.goal is None:
        return ""
    if not isinstance(row.goal, tuple):
        return f"{row.goal:.4f}"
    return ", ".join(f"< {_main(results[key]['values']):.4f}" if key in results else f"< {key}" for key in row.goal)


def _details(row: Row, result: Result) -> str:
    """What was run, and all numbers."""
    numbers = ", ".join(f"{name} {value:.4f}" for name, value in result["values"].items())
    passes = "\n".join(result["passes"])
    title = METRICS[row.model].title
    return f"\n## {row.model}: {row.compression}\n\nGoal for: {title}. Reached: {numbers}.\n\n```\n{passes}\n```\n"


def _change(before: float, after: float, unit: float, name: str) -> str:
    return f"{before / unit:.2f} to {after / unit:.2f} {name}"


def _main(numbers: Numbers) -> float:
    """The number that goals are set for."""
    return next(iter(numbers.values()))


def _progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{what} {done}/{total}\033[K", end="", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
