# SPDX-License-Identifier: Apache-2.0
"""Read GGUF, the weight format of llama.cpp: metadata, and tensors dequantized to float32 as numpy arrays.

Format: the GGUF specification, version 3, in the repository of ggml. A file is a header (``GGUF``, version, numbers of
tensors and of metadata entries), the metadata, a description of each tensor, and the tensors themselves, aligned. Of
the tensor types only those below are read: plain floats, Q4_1 (blocks of 32: scale, minimum, 4-bit codes) and Q8_0
(blocks of 32: scale, 8-bit codes). Only files whose sha256 is pinned in `sparsec.models.pins` are read here.
"""

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.compiler.errors import ModelError

_MAGIC = b"GGUF"
_VERSION = 3
_BLOCK = 32
"""Values that share a scale in Q4_1 and Q8_0."""
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""Number of a metadata type -> how `struct` reads it."""
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True, eq=False)
class Gguf:
    """What a GGUF file holds.

    Attributes:
        metadata: Values by key: numbers, texts, lists of them.
        tensors: float32 arrays by name, in the order of axes that numpy has: ``[out, in]``.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, NDArray[np.float32]]


def read_gguf(path: Path) -> Gguf:
    """Read a file from `sparsec.models.packages.verified_file`.

    Raises:
        ModelError: If it is no GGUF of version 3, ends early, or holds a tensor of another type.
    """
    cursor = _Cursor(memoryview(path.read_bytes()))
    try:
        return _read(cursor)
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        msg = f"Weights '{path}': not a GGUF file that can be read ({error})."
        raise ModelError(msg) from error


def _read(cursor: "_Cursor") -> Gguf:
    magic, version = bytes(cursor.take(4)), cursor.scalar("<I")
    if magic != _MAGIC or version != _VERSION:
        msg = f"found {magic!r} version {version}, expected {_MAGIC!r} version {_VERSION}"
        raise ValueError(msg)
    count, entries = cursor.scalar("<Q"), cursor.scalar("<Q")
    metadata = dict(_entry(cursor) for _ in range(entries))
    described = [_description(cursor) for _ in range(count)]
    cursor.align(int(metadata.get("general.alignment", 32)))
    data = cursor.rest()
    return Gguf(metadata, {name: _tensor(data, name, shape, kind, at) for name, shape, kind, at in described})


class _Cursor:
    """Reads one thing after the other."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._position = data, 0

    def take(self, size: int) -> memoryview:
        if size > len(self._data) - self._position:
            msg = f"it ends before byte {self._position + size}"
            raise ValueError(msg)
        self._position += size
        return self._data[self._position - size : self._position]

    def scalar(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def text(self) -> str:
        return bytes(self.take(self.scalar("<Q"))).decode("utf-8")

    def align(self, size: int) -> None:
        self.take(-self._position % size)

    def rest(self) -> memoryview:
        return self._data[self._position :]


def _entry(cursor: _Cursor) -> tuple[str, Any]:
    """A key of the metadata and its value."""
    return cursor.text(), _value(cursor, cursor.scalar("<I"))


def _value(cursor: _Cursor, kind: int) -> Any:
    if kind == _STRING:
        return cursor.text()
    if kind == _ARRAY:
        element, count = cursor.scalar("<I"), cursor.scalar("<Q")
        return [_value(cursor, element) for _ in range(count)]
    if kind not in _SCALARS:
        msg = f"metadata of unknown type {kind}"
        raise ValueError(msg)
    return cursor.scalar(_SCALARS[kind])


def _description(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape in numpy's order, type and offset of a tensor."""
    name = cursor.text()
    sides = [cursor.scalar("<Q") for _ in range(cursor.scalar("<I"))]
    return name, tuple(reversed(sides)), cursor.scalar("<I"), cursor.scalar("<Q")


def _tensor(data: memoryview, name: str, shape: tuple[int, ...], kind: int, offset: int) -> NDArray[np.float32]:
    if kind not in _TYPES:
        msg = f"tensor '{name}' has type {kind}, expected one of {', '.join(map(str, _TYPES))}"
        raise ValueError(msg)
    layout, dequantize = _TYPES[kind]
    per_block = 1 if layout.names is None else _BLOCK
    blocks, rest = divmod(math.prod(shape), per_block)
    if rest or (per_block > 1 and shape[-1] % per_block):
        msg = f"tensor '{name}' has rows of {shape[-1]} values, expected a multiple of {per_block}"
        raise ValueError(msg)
    return dequantize(np.frombuffer(data, layout, blocks, offset)).reshape(shape)


def _float(values: NDArray[Any]) -> NDArray[np.float32]:
    return values.astype(np.float32)


def _q4_1(blocks: NDArray[Any]) -> NDArray[np.float32]:
    """``scale * code + minimum``; the low halves of the 16 bytes are the first 16 codes."""
    codes = np.concatenate([blocks["codes"] & 15, blocks["codes"] >> 4], axis=1)
    scale, minimum = (blocks[part].astype(np.float32)[:, None] for part in ("scale", "minimum"))
    return np.asarray(scale * codes + minimum, np.float32)


def _q8_0(blocks: NDArray[Any]) -> NDArray[np.float32]:
    """``scale * code``."""
    return np.asarray(blocks["scale"].astype(np.float32)[:, None] * blocks["codes"], np.float32)


_TYPES: dict[int, tuple[np.dtype[Any], Callable[[NDArray[Any]], NDArray[np.float32]]]] = {
    0: (np.dtype("<f4"), _float),
    1: (np.dtype("<f2"), _float),
    3: (np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("codes", "u1", (_BLOCK // 2,))]), _q4_1),
    8: (np.dtype([("scale", "<f2"), ("codes", "i1", (_BLOCK,))]), _q8_0),
}
"""Number of a tensor type -> a value or block in the file, and how it becomes float32."""
