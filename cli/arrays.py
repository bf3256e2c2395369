# SPDX-License-Identifier: Apache-2.0
"""Inputs from .npz files: one array per model input, of its shape, or with a leading axis of samples."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from sparsec.compiler.errors import DataError
from sparsec.compiler.lowering.program import Port

Array = NDArray[Any]
Arrays = dict[str, Array]


def read_arrays(path: Path) -> Arrays:
    """Read an ``.npz`` file; pickled objects are refused.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, NpzFile):
            msg = f"Input file '{path}' is a single array; expected an .npz with one for each model input."
            raise DataError(msg)
        with archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, MemoryError, OverflowError, BadZipFile, zlib.error) as error:
        msg = f"Input file '{path}' cannot be read as .npz of plain arrays: {error}."
        raise DataError(msg) from error


def split_samples(arrays: Mapping[str, Array], ports: Sequence[Port]) -> tuple[list[Arrays], bool]:
    """One dict of arrays per run, and whether the arrays had a leading axis of samples.

    An array has one if its shape without the first axis is its input's, the input's own leading 1 optional: the
    same files serve as calibration. Arrays of other shapes are passed on; `Artifact.run` says what is wrong.

    Raises:
        DataError: If some arrays have samples and others none, or the numbers differ.
    """
    known = {port.name: port.shape for port in ports}
    stacked = {name: len(a) for name, a in arrays.items() if name in known and _is_stack(a.shape, known[name])}
    if not stacked:
        return [dict(arrays)], False
    missing = [name for name in arrays if name in known and name not in stacked]
    if missing or len(set(stacked.values())) > 1 or 0 in stacked.values():
        listed = ", ".join(f"'{name}' {list(array.shape)}" for name, array in arrays.items())
        msg = f"Inputs {listed}: expected the same number of samples, at least 1, in each, or one sample without axis."
        raise DataError(msg)
    count = next(iter(stacked.values()))
    surplus = {name: array for name, array in arrays.items() if name not in known}
    rows = [{name: arrays[name][i].reshape(known[name]) for name in stacked} for i in range(count)]
    return [{**row, **surplus} for row in rows], True


def _is_stack(found: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    own = found != shape and len(found) > 0
    return own and (found[1:] == shape or (shape[:1] == (1,) and found[1:] == shape[1:]))
