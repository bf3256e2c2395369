# SPDX-License-Identifier: Apache-2.0
"""Read weight files as numpy arrays: PyTorch's two formats and safetensors, without torch.

Only files whose sha256 is pinned in `sparsec.models.packages` are read here, never one that a user hands in. Even so
nothing in them is executed: the reader of ``.pth`` knows an ordered dictionary, a tensor and its storages, and refuses
every other name.
"""

import io
import json
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
_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of PyTorch's older format."""
_SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}


def read_pth(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a state dictionary that ``torch.save`` wrote, as a zip archive or in its older stream of pickles.

    Args:
        path: A file from `sparsec.models.packages.verified_file`.

    Returns:
        The arrays by parameter name.

    Raises:
        ModelError: If the file names anything but tensors, or is no flat dictionary of them.
    """
    read = _read_archive if zipfile.is_zipfile(path) else _read_stream
    try:
        state = read(path)
    except (zipfile.BadZipFile, ValueError, TypeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        msg = f"Weights '{path}': not what torch.save writes for a dictionary of tensors ({error})."
        raise ModelError(msg) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, np.ndarray) for value in state.values()):
        msg = f"Weights '{path}': found {type(state).__name__}, expected a dictionary of tensors."
        raise ModelError(msg)
    return dict(state)


def _read_archive(path: Path) -> Any:
    """What a zip file holds: ``data.pkl`` refers to one file a storage."""
    with zipfile.ZipFile(path) as archive:
        (index,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = index.removesuffix("data.pkl")

        def storage(dtype: np.dtype[Any], key: str, size: int) -> NDArray[Any]:
            return _values(archive.read(f"{folder}data/{key}"), dtype, key, size)

        return _TensorUnpickler(io.BytesIO(archive.read(index)), storage).load()


def _read_stream(path: Path) -> Any:
    """What five pickles hold (magic number, version, system, tensors, storage keys); the storages follow them."""
    stream = io.BytesIO(path.read_bytes())
    storages: dict[str, NDArray[Any]] = {}

    def storage(dtype: np.dtype[Any], key: str, size: int) -> NDArray[Any]:
        if size * dtype.itemsize > stream.getbuffer().nbytes:
            msg = f"storage '{key}' has {size} values, more than the file"
            raise pickle.UnpicklingError(msg)
        return storages.setdefault(key, np.zeros(size, dtype))

    if _TensorUnpickler(stream, storage).load() != _MAGIC:
        msg = "no magic number"
        raise pickle.UnpicklingError(msg)
    _version, _system, state, keys = (_TensorUnpickler(stream, storage).load() for _ in range(4))
    for key in keys:
        size = int.from_bytes(stream.read(8), "little")
        values = storages[key]
        values[:] = _values(stream.read(size * values.itemsize), values.dtype, key, values.size)
    return state


def _values(data: bytes, dtype: np.dtype[Any], key: str, size: int) -> NDArray[Any]:
    """The values of one storage."""
    if len(data) != size * dtype.itemsize:
        msg = f"storage '{key}' has {len(data)} bytes, expected {size} values of {dtype}"
        raise pickle.UnpicklingError(msg)
    return np.frombuffer(data, dtype)


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file: 8 bytes of length, a JSON header, then the values.

    Raises:
        ModelError: If the header does not describe the file.
    """
    data = memoryview(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(bytes(data[8:start]))
        header.pop("__metadata__", None)
        return {name: _view(data[start:], entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError) as error:
        msg = f"Weights '{path}': not a safetensors file ({error})."
        raise ModelError(msg) from error


def _view(values: memoryview, entry: Mapping[str, Any]) -> NDArray[Any]:
    """One tensor of a safetensors file."""
    first, last = entry["data_offsets"]
    return np.frombuffer(values[first:last], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles a dictionary of tensors and nothing else; `storage` finds the values by dtype, key and size."""

    def __init__(self, stream: io.BytesIO, storage: Callable[[np.dtype[Any], str, int], NDArray[Any]]) -> None:
        super().__init__(stream)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        known = _NAMES.get((module, name), _STORAGES.get(name) if module == "torch" else None)
        if known is None:
            msg = f"it names '{module}.{name}'"
            raise pickle.UnpicklingError(msg)
        return known

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        kind, dtype, key, _device, size, *view = pid
        if kind != "storage" or any(view):
            msg = f"it refers to a {kind} {view}"
            raise pickle.UnpicklingError(msg)
        return self._storage(dtype, key, size)


def _rebuild_tensor(
    values: NDArray[Any], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_rest: object
) -> NDArray[Any]:
    """A tensor as a view of its storage; offset and strides count values, and numpy checks that they stay inside."""
    size = values.itemsize
    return np.ndarray(shape, values.dtype, values, offset * size, tuple(stride * size for stride in strides))


_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
}
"""The only things that a ``.pth`` may name, storages apart."""
