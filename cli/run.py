# SPDX-License-Identifier: Apache-2.0
"""``sparsec run``: inputs through an artifact; outputs to a file, and against the model they should be those of."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparsec.cli.output_file import write_file
from sparsec.cli.parameters import PATH, Tolerance, debug_option
from sparsec.cli.progress import progress_bar
from sparsec.cli.tables import print_line, print_table
from sparsec.compiler.text import in_error, shortened

if TYPE_CHECKING:
    from sparsec.cli.arrays import Array, Arrays
    from sparsec.compiler.artifact import Artifact

DEFAULT_TOLERANCE = 1e-3


@click.command("run", short_help="Run an artifact, and compare it with a model.")
@click.argument("artifact", type=PATH)
@click.option("--input", "source", type=PATH, required=True, metavar="FILE.npz", help="One array per model input.")
@click.option("--output", type=PATH, metavar="FILE.npz", help="Where to write the outputs.")
@click.option("--compare", type=PATH, metavar="MODEL", help="The ONNX model to compare with, run by onnxruntime.")
@click.option(
    "--tolerance", type=Tolerance(), default=DEFAULT_TOLERANCE, show_default=True, help="Largest relative error."
)
@debug_option
def run(artifact: Path, source: Path, output: Path | None, compare: Path | None, tolerance: float) -> None:
    """Run ARTIFACT on inputs: one sample, or several along a leading axis."""
    from sparsec.cli.arrays import read_arrays, split_samples
    from sparsec.compiler.load import load

    with load(artifact) as loaded:
        feeds, stacked = split_samples(read_arrays(source), loaded.manifest.inputs)
        results = _run_all(loaded, feeds)
        expected = _reference(compare, feeds, results[0]) if compare else None
    if output is not None:
        _save(output, _joined(results, stacked))
    if expected is None:
        _describe(_joined(results, stacked), len(feeds))
    else:
        _compare(_joined(results, True), _joined(expected, True), tolerance)


def _run_all(artifact: "Artifact", feeds: Sequence["Arrays"]) -> list["Arrays"]:
    results = []
    with progress_bar() as report:
        for number, feed in enumerate(feeds):
            report("run", number, len(feeds))
            results.append(artifact.run(feed))
    return results


def _reference(model: Path, feeds: Sequence["Arrays"], names: Mapping[str, Any]) -> list["Arrays"]:
    """What onnxruntime makes of the file itself, not of what sparsec imported.

    Raises:
        ModelError: If it lacks an output, or onnxruntime refuses it.
    """
    from sparsec.compiler.errors import ModelError
    from sparsec.compiler.importers.reading import read_proto
    from sparsec.compiler.oracle import Oracle

    oracle = Oracle(read_proto(model))
    for name in names:
        if name not in oracle.outputs:
            found = ", ".join(f"'{output}'" for output in oracle.outputs)
            msg = f"Model '{model}' has no output '{name}', found {found}. Compare with the model that was compiled."
            raise ModelError(msg)
    return list(oracle.stream(feeds))


def _joined(results: Sequence["Arrays"], stacked: bool) -> "Arrays":
    import numpy as np

    if not stacked:
        return dict(results[0])
    return {name: np.stack([result[name] for result in results]) for name in results[0]}


def _save(path: Path, arrays: "Arrays") -> None:
    import numpy as np

    write_file(path, lambda stream: np.savez(stream, allow_pickle=False, **arrays))


def _describe(arrays: "Arrays", samples: int) -> None:
    print_table(("output", "type", "shape", "least", "greatest"), map(_row, arrays, arrays.values()), (3, 4))
    print_line(f"{samples} {'sample' if samples == 1 else 'samples'}")


def _row(name: str, array: "Array") -> tuple[str, ...]:
    ends = (f"{array.min():.6g}", f"{array.max():.6g}") if array.size else ("-", "-")
    return (shortened(name), array.dtype.name, "x".join(map(str, array.shape)) or "scalar", *ends)


def _compare(found: "Arrays", expected: "Arrays", tolerance: float) -> None:
    from sparsec.compiler.errors import ArtifactError
    from sparsec.compiler.golden import relative_error

    errors = {name: _error(array, expected[name], relative_error) for name, array in found.items()}
    for name, error in errors.items():
        print_line(f"'{shortened(name)}' relative error {in_error(error)}")
    over = {name: error for name, error in errors.items() if not error <= tolerance}
    for name, error in over.items():
        msg = f"Output '{name}': relative error {in_error(error)}, expected at most {tolerance:g} (--tolerance)."
        raise ArtifactError(msg)


def _error(found: "Array", expected: "Array", measure: Any) -> float:
    """Infinite where the shapes differ."""
    return float(measure(found, expected)) if found.shape == expected.shape else float("inf")
