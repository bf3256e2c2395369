# SPDX-License-Identifier: Apache-2.0
"""Every catalog model on every CPU target, without a recipe: `python -m benchmarks.models` writes docs/models.md.

Errors are relative (norm of the difference over norm) to onnxruntime on held-out inputs. ARM code runs under emulation,
where no time is taken, the error is that of one input, and the score is not measured.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from sparsec.compiler import driver
from sparsec.compiler.artifact import Artifact
from sparsec.compiler.golden import relative_error
from sparsec.models.catalog import MODELS, CatalogModel
from sparsec.models.runner import onnxruntime_run

DOC = Path(__file__).resolve().parent.parent / "docs" / "models.md"
TARGETS = ("host", "wasm", "arm+dotprod")
HEAD = """# Models

Every model of the catalog, compiled as it is (float32, no recipe). Written by `python -m benchmarks.models`.

Error: largest relative error (norm of the difference over norm) of any output against onnxruntime on held-out inputs.
Score: the metric of the catalog (`sparsec list models`), with onnxruntime's in parentheses. Time: the fastest of
15 runs, one thread; for comparisons see [benchmarks](benchmarks.md).
ARM code runs under emulation: one input, no score, no time.

| model | target | error | score (onnxruntime) | ms | code kB | weights MB |
| --- | --- | ---: | ---: | ---: | ---: | ---: |
"""


def rows(names: list[str], samples: int) -> Iterator[str]:
    """One line of the table for each model and target."""
    for name in names:
        for target in TARGETS:
            with tempfile.TemporaryDirectory() as folder:
                row = _row(MODELS[name], target, Path(folder) / "artifact", samples)
            print(row, flush=True)
            yield row


def _row(model: CatalogModel, target: str, folder: Path, samples: int) -> str:
    source = model.build()
    with driver.compile(source, target, shapes=model.shapes or None, output=folder, name=model.name) as artifact:
        emulated = artifact.manifest.target.name == "arm"
        error, milliseconds = _errors(model, artifact, 1 if emulated else samples)
        score = "" if emulated else f"{model.score(artifact.run):.4f} ({model.baseline:.4f})"
        manifest = artifact.manifest
        sizes = f"{manifest.code_bytes / 1e3:.0f} | {manifest.weight_bytes / 1e6:.2f}"
        time = "" if emulated else f"{milliseconds:.2f}"
        return f"| {model.name} | {manifest.target} | {error:.1e} | {score} | {time} | {sizes} |"


def _errors(model: CatalogModel, artifact: Artifact, samples: int) -> tuple[float, float]:
    """Largest relative error over some held-out inputs, and the fastest run in milliseconds."""
    reference = onnxruntime_run(model.build())
    arrays = model.inputs("heldout", samples)
    worst, times = 0.0, []
    for number in range(samples):
        feeds = {name: array[number] for name, array in arrays.items()}
        expected = reference(feeds)
        for _ in range(3 if samples > 1 else 1):
            start = perf_counter()
            found = artifact.run(feeds)
            times.append(1e3 * (perf_counter() - start))
        worst = max(worst, *(relative_error(found[name], expected[name]) for name in found))
    return worst, min(times)


def main() -> None:
    """Compile, compare, time, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--samples", type=int, default=5)
    options = parser.parse_args()
    table = list(rows(options.models, options.samples))
    if set(options.models) == set(MODELS):
        DOC.write_text(HEAD + "\n".join(table) + "\n")


if __name__ == "__main__":
    main()
