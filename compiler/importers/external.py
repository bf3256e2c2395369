# SPDX-License-Identifier: Apache-2.0
"""External data: weights in files of their own, which must lie inside the model's folder."""

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from sparsec.compiler.errors import ModelError
from sparsec.compiler.importers.limits import MAX_FILE_BYTES
from sparsec.compiler.importers.tensors import declared_bytes
from sparsec.compiler.importers.walk import all_tensors

_KEYS = frozenset(("location", "offset", "length", "checksum"))


def load_external_data(model: onnx.ModelProto, folder: Path) -> None:
    """Move external weights into the model, in place.

    Args:
        model: a parsed model.
        folder: the folder of the model file; nothing outside it is read.

    Raises:
        ModelError: a path leaves the folder or runs over a link, a file is missing or too short, or the
            weights together are too large.
    """
    external = [(w, t) for w, t in all_tensors(model) if t.data_location == onnx.TensorProto.EXTERNAL]
    total = sum(declared_bytes(where, tensor) for where, tensor in external)
    if total > MAX_FILE_BYTES:
        msg = f"The model's weights have {total} bytes; sparsec reads models of up to {MAX_FILE_BYTES} bytes."
        raise ModelError(msg)
    for where, tensor in external:
        tensor.raw_data = _read(where, tensor, folder)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _read(where: str, tensor: onnx.TensorProto, folder: Path) -> bytes:
    entries = _entries(where, tensor)
    expected = declared_bytes(where, tensor)
    offset = _number(where, entries, "offset", 0)
    length = _number(where, entries, "length", expected)
    if length != expected:
        msg = f"{where}: its external data have {length} bytes, its type and shape need {expected}."
        raise ModelError(msg)
    path = _contained(where, entries["location"], folder)
    return _read_slice(where, path, offset, length)


def _entries(where: str, tensor: onnx.TensorProto) -> dict[str, str]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    surplus = sorted(set(entries) - _KEYS)
    if surplus or len(entries) != len(tensor.external_data) or not entries.get("location"):
        found = ", ".join(repr(entry.key) for entry in tensor.external_data) or "none"
        msg = f"{where}: external data with the keys {found}; 'location' is expected, 'offset' and 'length' may follow."
        raise ModelError(msg)
    return entries


def _number(where: str, entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        msg = f"{where}: the {key} of its external data is {text!r}; a number of bytes from 0 was expected."
        raise ModelError(msg)
    return int(text)


def _contained(where: str, location: str, folder: Path) -> Path:
    """Resolve a location component by component: no absolute path, no step up, no symbolic link."""
    windows = PureWindowsPath(location)
    parts = PurePosixPath(location).parts
    if location.startswith("/") or windows.drive or "\\" in location or "\0" in location or ".." in parts:
        msg = f"{where}: its external data are in {location!r}, outside the model's folder. Put them beside the model."
        raise ModelError(msg)
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            msg = f"{where}: its external data are behind the symbolic link '{path}'. Put the file itself there."
            raise ModelError(msg)
    return path


def _read_slice(where: str, path: Path, offset: int, length: int) -> bytes:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            msg = f"{where}: its external data are in '{path}', which is no regular file."
            raise ModelError(msg)
        with path.open("rb") as file:
            opened = os.fstat(file.fileno())
            _check_opened(where, path, status, opened, offset + length)
            file.seek(offset)
            data = file.read(length)
    except OSError as error:
        msg = f"{where}: its external data in '{path}' cannot be read: {error.strerror}."
        raise ModelError(msg) from error
    if len(data) != length:
        msg = f"{where}: '{path}' ended while its external data were read."
        raise ModelError(msg)
    return data


def _check_opened(where: str, path: Path, seen: os.stat_result, opened: os.stat_result, end: int) -> None:
    """Check the open file, not the name: the name may point elsewhere by now."""
    if not os.path.samestat(seen, opened):
        msg = f"{where}: '{path}' was exchanged while it was read."
        raise ModelError(msg)
    if opened.st_nlink > 1:
        msg = f"{where}: '{path}' has a second name (a hard link), so it may be a file from elsewhere. Copy it."
        raise ModelError(msg)
    if end > opened.st_size:
        msg = f"{where}: its external data end at byte {end} of '{path}', which has {opened.st_size} bytes."
        raise ModelError(msg)
