# SPDX-License-Identifier: Apache-2.0
"""``python -m sparsec.models NAME -o model.onnx``: write a catalog model and its data to disk."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from sparsec.compiler.errors import SparsecError
from sparsec.models.catalog import MODELS, CatalogModel, find
from sparsec.models.runner import Arrays


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files asked for, or list the catalog.

    Returns:
        The exit code: 0, or 1 with one line on stderr.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.name is None:
            print(_listing())
        else:
            _write(find(options.name), options)
    except (SparsecError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sparsec.models", description="Write a catalog model to disk.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model of the catalog; without it, list them all")
    parser.add_argument("-o", "--output", type=Path, help="the ONNX file (default: NAME.onnx)")
    parser.add_argument("--calibration", type=Path, metavar="FILE.npz", help="write inputs to calibrate with")
    parser.add_argument("--inputs", type=Path, metavar="FILE.npz", help="write the first held-out input")
    parser.add_argument("--count", type=int, default=64, help="at most this many calibration samples (default: 64)")
    parser.add_argument("--packages", type=Path, metavar="DIR", help="folder of all packages (default: .cache/models)")
    return parser


def _listing() -> str:
    """One line a model."""
    return "\n".join(f"{model.name:20}{model.summary}" for model in MODELS.values())


def _write(model: CatalogModel, options: argparse.Namespace) -> None:
    """Write the model, then the data asked for."""
    ir.save(model.build(options.packages), options.output or Path(f"{model.name}.onnx"))
    if options.calibration:
        _save(options.calibration, model.inputs("calibration", options.count, options.packages))
    if options.inputs:
        arrays = model.inputs("heldout", 1, options.packages)
        _save(options.inputs, {name: array[0] for name, array in arrays.items()})


def _save(path: Path, arrays: Arrays) -> None:
    """Write arrays by name; unlike `numpy.savez` with a path, under exactly this one."""
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


if __name__ == "__main__":
    sys.exit(main())
