# SPDX-License-Identifier: Apache-2.0
"""``make demo``: compile the digits network to WebAssembly, dense and compressed, and run it on MNIST."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from sparsec.compiler.errors import SparsecError
from sparsec.models.catalog import CatalogModel, find

if TYPE_CHECKING:
    from sparsec.compiler.artifact import Artifact

_VARIANTS: tuple[tuple[str, str | None], ...] = (("float32", None), ("int8", "int8"), ("sparse int8", "sparse-int8"))
"""What a row is called, and its recipe."""
_TARGET = "wasm+relaxed-simd"
_TIMED = 500
"""How many digits are timed."""
_HEADING = f"{'':14}{'weights':>10}{'code':>10}{'median':>12}{'accuracy':>10}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile each variant into a folder of its own and print one row for it.

    Returns:
        The exit code: 0, or 1 with one line on stderr.
    """
    parser = argparse.ArgumentParser(prog="python -m sparsec.models.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="the artifacts' folder")
    options = parser.parse_args(arguments)
    model = find("digits")
    try:
        print(f"{model.name} for {_TARGET}; {model.metric}\n{_HEADING}", flush=True)
        artifacts = {title: _compile(title, recipe, model, options.output) for title, recipe in _VARIANTS}
        times = _interleaved(artifacts, model)
        for title, artifact in artifacts.items():
            print(_row(title, artifact, times[title], model), flush=True)
    except SparsecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _compile(title: str, recipe: str | None, model: CatalogModel, output: Path) -> "Artifact":
    from sparsec.compiler.driver import compile

    calibration = model.inputs("calibration") if recipe else None
    return compile(
        model.build(), _TARGET, recipe, calibration, output=output / title.replace(" ", "-"), name=model.name
    )


def _interleaved(artifacts: "Mapping[str, Artifact]", model: CatalogModel) -> dict[str, float]:
    """Median seconds of each variant; each digit goes through all of them before the next one does."""
    times: dict[str, list[float]] = {title: [] for title in artifacts}
    arrays = model.inputs("heldout", _TIMED)
    for number in range(_TIMED):
        feeds = {name: array[number] for name, array in arrays.items()}
        for title, artifact in artifacts.items():
            start = time.perf_counter()
            artifact.run(feeds)
            times[title].append(time.perf_counter() - start)
    return {title: median(values) for title, values in times.items()}


def _row(title: str, artifact: "Artifact", seconds: float, model: CatalogModel) -> str:
    """Sizes, time, and the accuracy on every held-out digit."""
    sizes = ((artifact.folder / file).stat().st_size / 1000 for file in ("weights.bin", "model.wasm"))
    weights, code = (f"{size:.0f} kB" for size in sizes)
    accuracy = model.score(artifact.run)
    return f"{title:14}{weights:>10}{code:>10}{seconds * 1000:>9.2f} ms{accuracy:>10.4f}"


if __name__ == "__main__":
    sys.exit(main())
