# SPDX-License-Identifier: Apache-2.0
"""Read weight files as numpy arrays: PyTorch's zip format and safetensors, without torch.

Only files whose sha256 is pinned in `sparsec.models.packages` are read here, never one that a user hands in. Even so
nothing in them is executed: the reader of ``.pth`` knows an ordered dictionary, a tensor and its storages, and refuses
every other name.
"""

import io
import json
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.compiler.errors import ModelError

_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ByteStorage": np.dtype("u1"),
}
_SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}


def read_pth(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a state dictionary that ``torch.save`` wrote in its zip format.

    Args:
        path: A file from `sparsec.models.packages.verified_file`.

    Returns:
        The arrays by parameter name.

    Raises:
        ModelError: If the file is no such archive, names anything but tensors, or is no flat dictionary of them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (index,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            state = _TensorUnpickler(archive, index).load()
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        msg = f"Weights '{path}': not a zip archive of tensors ({error}). Only torch.save's zip format is read."
        raise ModelError(msg) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, np.ndarray) for value in state.values()):
        msg = f"Weights '{path}': found {type(state).__name__}, expected a dictionary of tensors."
        raise ModelError(msg)
    return dict(state)


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file: 8 bytes of length, a JSON header, then the values.

    Raises:
        ModelError: If the header does not describe the file.
    """
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        return {name: _view(data[start:], entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError) as error:
        msg = f"Weights '{path}': not a safetensors file ({error})."
        raise ModelError(msg) from error


def _view(values: bytes, entry: Mapping[str, Any]) -> NDArray[Any]:
    """One tensor of a safetensors file."""
    first, last = entry["data_offsets"]
    return np.frombuffer(values[first:last], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles a dictionary of tensors and nothing else."""

    def __init__(self, archive: zipfile.ZipFile, index: str) -> None:
        super().__init__(io.BytesIO(archive.read(index)))
        self._archive = archive
        self._folder = index.removesuffix("data.pkl")

    def find_class(self, module: str, name: str) -> Any:
        known = _NAMES.get((module, name), _STORAGES.get(name) if module == "torch" else None)
        if known is None:
            msg = f"it names '{module}.{name}'"
            raise pickle.UnpicklingError(msg)
        return known

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        kind, dtype, key, _device, size = pid
        values = np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), dtype)
        if kind != "storage" or values.size != size:
            msg = f"storage '{key}' has {values.size} values, expected {size}"
            raise pickle.UnpicklingError(msg)
        return values


def _rebuild_tensor(
    values: NDArray[Any], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_rest: object
) -> NDArray[Any]:
    """A contiguous tensor as a view of its storage."""
    count = math.prod(shape)
    packed = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    if strides != packed and count > 1:
        msg = f"a tensor of shape {shape} has strides {strides}, expected {packed}"
        raise pickle.UnpicklingError(msg)
    return values[offset : offset + count].reshape(shape)


_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
}
"""The only things that a ``.pth`` may name, storages apart."""
