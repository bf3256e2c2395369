# SPDX-License-Identifier: Apache-2.0
"""``make demo``: compile the digits network to WebAssembly, dense and compressed, and run both on MNIST."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from numpy.typing import NDArray

from sparsec.compiler.errors import SparsecError
from sparsec.models.catalog import CatalogModel, find
from sparsec.models.runner import Arrays

_VARIANTS: tuple[tuple[str, str | None], ...] = (("float32", None), ("sparse int8", "sparse-int8"))
"""What a row is called, and its recipe."""
_TARGET = "wasm+relaxed-simd"
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
        for title, recipe in _VARIANTS:
            print(_row(title, recipe, model, options.output), flush=True)
    except SparsecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _row(title: str, recipe: str | None, model: CatalogModel, output: Path) -> str:
    """Compile, run on every held-out digit, and say what came of it."""
    from sparsec.compiler.driver import compile

    folder = output / title.replace(" ", "-")
    calibration = model.inputs("calibration") if recipe else None
    artifact = compile(model.build(), _TARGET, recipe, calibration, output=folder, name=model.name)
    times: list[float] = []

    def run(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        start = time.perf_counter()
        outputs = dict(artifact.run(dict(inputs)))
        times.append(time.perf_counter() - start)
        return outputs

    accuracy = model.score(run)
    sizes = ((folder / file).stat().st_size / 1000 for file in ("weights.bin", "model.wasm"))
    weights, code = (f"{size:.0f} kB" for size in sizes)
    return f"{title:14}{weights:>10}{code:>10}{median(times) * 1000:>9.2f} ms{accuracy:>10.4f}"


if __name__ == "__main__":
    sys.exit(main())
