# SPDX-License-Identifier: Apache-2.0
"""Every built-in recipe on every model: ``python -m benchmarks.recipes`` writes the table of docs/recipes.md.

A recipe either runs, and then its fidelity on held-out samples, stored weights and multiply-adds are recorded, or it
does not apply, and then the reason is. Few calibration samples are used: the table says that recipes work, what they
reach with more samples stands in docs/accuracy.md.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from sparsec.compiler import driver
from sparsec.compiler.errors import SparsecError
from sparsec.compiler.recipe import built_in
from sparsec.compiler.survey import survey
from sparsec.models.catalog import MODELS, CatalogModel

DOC = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"
RESULTS = Path(__file__).resolve().parent / "recipes.json"
SAMPLES = 24
MARK = "<!-- Written by python -m benchmarks.recipes; do not edit below. -->\n"
_HEAD = f"""{MARK}
{SAMPLES} calibration samples, of which the driver keeps 6 apart to measure fidelity on: the correlation of the first
output with that of the original network, and weights and multiply-adds as shares of the original's.

| recipe | model | correlation | weights | multiply-adds | seconds |
| --- | --- | ---: | ---: | ---: | ---: |
"""
Result = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipes asked for on the models asked for, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=__doc__)
    parser.add_argument("--recipe", action="append", choices=built_in())
    parser.add_argument("--model", action="append", choices=tuple(MODELS))
    options = parser.parse_args(arguments)
    results: dict[str, Result] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    for model in options.model or MODELS:
        for recipe in options.recipe or built_in():
            results[f"{recipe} {model}"] = found = _tried(recipe, MODELS[model])
            print(_line(recipe, model, found), flush=True)
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", "utf-8")
            DOC.write_text(DOC.read_text("utf-8").partition(MARK)[0] + _table(results), "utf-8")
    return 0


def _tried(recipe: str, model: CatalogModel) -> Result:
    """What the recipe makes of the model, or why it does not apply."""
    samples = model.inputs("calibration", SAMPLES)
    start = perf_counter()
    try:
        done = driver.compress(driver.job(model.build(), "host", recipe, samples, model.shapes or None))
    except SparsecError as error:
        return {"refused": str(error).partition(" Ran before it")[0]}
    before, after = survey(done.original), survey(done.model)
    (_, outputs) = done.fidelity[-1]
    return {
        "correlation": next(iter(outputs.values())).correlation,
        "weights": after.weight_bytes / before.weight_bytes,
        "macs": after.macs / before.macs,
        "seconds": perf_counter() - start,
    }


def _table(results: Mapping[str, Result]) -> str:
    return _HEAD + "".join(f"{_line(*key.split(' '), results[key])}\n" for key in sorted(results))


def _line(recipe: str, model: str, found: Result) -> str:
    if "refused" in found:
        return f"| {recipe} | {model} | does not apply: {found['refused']} | | | |"
    shares = f"{found['correlation']:.4f} | {found['weights']:.0%} | {found['macs']:.0%}"
    return f"| {recipe} | {model} | {shares} | {found['seconds']:.0f} |"


if __name__ == "__main__":
    sys.exit(main())
