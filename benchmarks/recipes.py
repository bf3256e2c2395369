# SPDX-License-Identifier: Apache-2.0
"""Every built-in recipe on every model: ``python -m benchmarks.recipes`` writes the table of docs/recipes.md.

A recipe either runs, and then its fidelity on held-out samples, stored weights and multiply-adds are recorded, or it
does not apply or has too few samples, and then the reason is. What was not run, the page says, and why. Few calibration
samples are used: the table says that recipes work, what they reach with more samples stands in docs/accuracy.md.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from sparsec.compiler import driver
from sparsec.compiler.errors import DataError, SparsecError
from sparsec.compiler.findings import idle_lines
from sparsec.compiler.recipe import built_in
from sparsec.compiler.report import steps
from sparsec.compiler.survey import survey
from sparsec.models.catalog import MODELS, CatalogModel

DOC = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"
RESULTS = Path(__file__).resolve().parent / "recipes.json"
SAMPLES = 24
MARK = "<!-- Written by python -m benchmarks.recipes; do not edit below. -->\n"
_HEAD = f"""{MARK}
At most {SAMPLES} calibration samples (a few models have fewer), of which the driver keeps the last quarter apart to
measure fidelity on: the correlation of the first output with that of the original network, and weights and
multiply-adds as shares of the original's. Seconds were taken while the machine had other work. A recipe *does not
apply* where a pass finds nothing to work on, or an operator that it cannot train; *too few samples* says nothing about
the recipe.

"""
_COLUMNS = """\
| recipe | model | correlation | weights | multiply-adds | seconds |
| --- | --- | ---: | ---: | ---: | ---: |
"""
LEFT_OUT = {
    "smollm2": "a run takes up to an hour and a half and 22 GB of memory; its rows are in [accuracy](accuracy.md)",
}
"""Models that are not run unless asked for, and why."""
_TOO_LONG = "a run takes, or is expected to take, longer than the three minutes it was given"
Result = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipes asked for on the models asked for, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=__doc__)
    parser.add_argument("--recipe", action="append", choices=built_in())
    parser.add_argument("--model", action="append", choices=tuple(MODELS))
    options = parser.parse_args(arguments)
    results: dict[str, Result] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    for model in options.model or [name for name in MODELS if name not in LEFT_OUT]:
        for recipe in options.recipe or built_in():
            results[f"{recipe} {model}"] = found = _tried(recipe, MODELS[model])
            print(_line(recipe, model, found), flush=True)
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", "utf-8")
            DOC.write_text(DOC.read_text("utf-8").partition(MARK)[0] + _table(results), "utf-8")
    return 0


def _tried(recipe: str, model: CatalogModel) -> Result:
    """What the recipe makes of the model, or why it does not apply, or what its samples lack."""
    samples = model.inputs("calibration", SAMPLES)
    start = perf_counter()
    try:
        done = driver.compress(driver.job(model.build(), "host", recipe, samples, model.shapes or None))
    except SparsecError as error:
        kind = "lacking" if isinstance(error, DataError) else "refused"
        return {kind: str(error).partition(" Ran before it")[0]}
    if not done.fidelity:
        return {"refused": next(iter(idle_lines(steps(done), "")), "it changes nothing")}
    before, after = survey(done.original), survey(done.model)
    (_, outputs) = done.fidelity[-1]
    return {
        "correlation": next(iter(outputs.values())).correlation,
        "weights": after.weight_bytes / before.weight_bytes,
        "macs": after.macs / before.macs,
        "seconds": perf_counter() - start,
    }


def _table(results: Mapping[str, Result]) -> str:
    rows = "".join(f"{_line(*key.split(' '), results[key])}\n" for key in sorted(results))
    gaps = _gaps(results)
    return _HEAD + (f"{gaps}\n" if gaps else "") + _COLUMNS + rows


def _gaps(results: Mapping[str, Result]) -> str:
    """How much of the table there is, and for each model which recipes are left out and why."""
    missing = {model: [r for r in built_in() if f"{r} {model}" not in results] for model in MODELS}
    if not any(missing.values()):
        return ""
    lines = [f"The table is partial: it has {len(results)} of {len(MODELS) * len(built_in())} pairs. Left out:\n\n"]
    for model, recipes in missing.items():
        named = "all recipes" if len(recipes) == len(built_in()) else ", ".join(recipes)
        lines += [f"- {model}, {named}: {LEFT_OUT.get(model, _TOO_LONG)}.\n"] if recipes else []
    return "".join(lines)


def _line(recipe: str, model: str, found: Result) -> str:
    for kind, title in (("refused", "does not apply"), ("lacking", "too few samples")):
        if kind in found:
            return f"| {recipe} | {model} | {title}: {found[kind]} | | | |"
    shares = f"{found['correlation']:.4f} | {found['weights']:.0%} | {found['macs']:.0%}"
    return f"| {recipe} | {model} | {shares} | {found['seconds']:.0f} |"


if __name__ == "__main__":
    sys.exit(main())
