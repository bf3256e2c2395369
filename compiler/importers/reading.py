# SPDX-License-Identifier: Apache-2.0
"""From a path to a parsed model: what can be wrong with a file before anything in it has a meaning."""

import os
import stat
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from sparsec.compiler.errors import ModelError
from sparsec.compiler.importers.external import load_external_data
from sparsec.compiler.importers.limits import MAX_FILE_BYTES
from sparsec.compiler.importers.wire import scan


def read_proto(path: Path) -> onnx.ModelProto:
    """Read a model file and the files its weights are in.

    Args:
        path: an ONNX file in protobuf's binary form.

    Returns:
        The model with all weights inside.

    Raises:
        ModelError: there is no such file, it is no ONNX model, or it is too large; external data leave the
            model's folder or do not fit.
    """
    data = _read_bytes(path)
    try:
        scan(data)
        proto = _parse(data)
    except ModelError as error:
        msg = f"Model '{path}': {error}"
        raise ModelError(msg) from error
    load_external_data(proto, path.parent)
    return proto


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            msg = f"Model '{path}' is a folder; an ONNX file was expected."
            raise ModelError(msg)
        if not stat.S_ISREG(status.st_mode):
            msg = f"Model '{path}' is no regular file; an ONNX file was expected."
            raise ModelError(msg)
        if not 0 < status.st_size <= MAX_FILE_BYTES:
            raise ModelError(_bad_size(path, status.st_size))
        with path.open("rb") as file:
            return file.read(min(os.fstat(file.fileno()).st_size, MAX_FILE_BYTES))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        msg = f"Model '{path}' cannot be read: {reason}."
        raise ModelError(msg) from error


def _bad_size(path: Path, size: int) -> str:
    if size == 0:
        return f"Model '{path}' is empty; an ONNX file was expected."
    return f"Model '{path}' has {size} bytes; sparsec reads models of up to {MAX_FILE_BYTES} bytes."


def _parse(data: bytes) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        msg = f"The file is no ONNX model, or it is damaged or cut off: {error}"
        raise ModelError(msg) from error
    if not proto.HasField("graph") or not proto.opset_import:
        msg = "The file is no ONNX model: it holds no graph, or names no operator set."
        raise ModelError(msg)
    return proto
