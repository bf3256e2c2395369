# SPDX-License-Identifier: Apache-2.0
"""Golden vectors: inputs and the outputs they must give, stored in an artifact's selftest.npz."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.compiler.errors import ArtifactError
from sparsec.compiler.lowering.program import Port

Array = NDArray[Any]

_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Golden:
    """One input of the model and what must come out.

    Attributes:
        inputs: By name, of the ports' types and shapes.
        outputs: By name.
        tolerance: Largest relative error (norm of the difference over norm) that passes.
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    tolerance: float = 1e-4


def relative_error(found: Array, expected: Array) -> float:
    """Norm of the difference over the norm of `expected` (over 1 if that is zero).

    Equal NaNs and infinities count as no difference; unequal ones make the error infinite.
    """
    a, b = (np.asarray(x, np.float64).ravel() for x in (found, expected))
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    difference, norm = float(np.linalg.norm(a[finite] - b[finite])), float(np.linalg.norm(b[finite]))
    return (difference / (norm or 1.0)) if np.isfinite(difference) else float("inf")


def save(path: Path, golden: Golden, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
    """Write ``input0.npy``, ``output0.npy`` and so on as an .npz file whose bytes depend on the arrays alone."""
    groups = (("input", inputs, golden.inputs), ("output", outputs, golden.outputs))
    with zipfile.ZipFile(path, "w") as archive:
        for kind, ports, arrays in groups:
            for i, port in enumerate(ports):
                info = zipfile.ZipInfo(f"{kind}{i}.npy", _EPOCH)
                info.compress_type = zipfile.ZIP_DEFLATED
                array = np.asarray(arrays[port.name])
                assert (array.dtype.name, array.shape) == (port.dtype, port.shape), port
                with archive.open(info, "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, np.require(array, requirements="C"), allow_pickle=False)


def load(path: Path, inputs: Sequence[Port], outputs: Sequence[Port], tolerance: float) -> Golden:
    """Read what `save` wrote.

    Raises:
        ArtifactError: If the file is damaged, or an array is missing or not of its port's type and shape.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            groups = [
                {port.name: _read(archive, f"{kind}{i}.npy", port) for i, port in enumerate(ports)}
                for kind, ports in (("input", inputs), ("output", outputs))
            ]
    except Exception as error:  # zipfile and numpy have a dozen ways to fail on hostile bytes
        msg = f"File '{path}': damaged golden vectors: {error}. Copy the artifact again, or compile it again."
        raise ArtifactError(msg) from error
    return Golden(groups[0], groups[1], tolerance)


def _read(archive: zipfile.ZipFile, name: str, port: Port) -> Array:
    """Compare the header with the port before the data is read: a wrong size must not take the memory."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in readers:
            msg = f"'{name}' has version {version} of the format, expected 1.0 or 2.0"
            raise ValueError(msg)
        shape, _, dtype = readers[version](stream)
    if (dtype.name, shape) != (port.dtype, port.shape):
        msg = f"'{name}' is {dtype.name} {list(shape)}, expected {port.dtype} {list(port.shape)}"
        raise ValueError(msg)
    with archive.open(name) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
