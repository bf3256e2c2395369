# SPDX-License-Identifier: Apache-2.0
"""A look at a model file's bytes before protobuf builds objects from them: how many messages, how deep."""

from typing import Any

from onnx import ModelProto

from sparsec.compiler.errors import ModelError
from sparsec.compiler.importers.limits import MAX_MESSAGE_DEPTH, MAX_MESSAGES

_Descriptor = Any  # protobuf comes without types
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def scan(data: bytes) -> None:
    """Walk the protobuf encoding of a model without building anything.

    Args:
        data: the file's bytes.

    Raises:
        ModelError: the bytes are no protobuf message, or hold more or deeper messages than the caps allow.
    """
    stack: list[tuple[int, int, _Descriptor, int]] = [(0, len(data), ModelProto.DESCRIPTOR, 1)]
    messages = 0
    while stack:
        start, end, kind, depth = stack.pop()
        messages += 1
        if messages > MAX_MESSAGES:
            msg = f"The file holds more than {MAX_MESSAGES} protobuf messages; sparsec reads no larger models."
            raise ModelError(msg)
        if depth > MAX_MESSAGE_DEPTH:
            msg = f"The file nests its graphs more than {MAX_MESSAGE_DEPTH} protobuf messages deep."
            raise ModelError(msg)
        stack.extend((*span, depth + 1) for span in _children(data, start, end, kind))


def _children(data: bytes, start: int, end: int, kind: _Descriptor) -> list[tuple[int, int, _Descriptor]]:
    """The embedded messages directly inside one message, as (first byte, byte after the last, kind)."""
    fields = kind.fields_by_number
    found: list[tuple[int, int, _Descriptor]] = []
    while start < end:
        tag, start = _varint(data, start, end)
        wire = tag & 7
        if wire == _BYTES:
            length, start = _varint(data, start, end)
            field = fields.get(tag >> 3)
            if field is not None and field.message_type is not None:
                found.append((start, start + length, field.message_type))
            start += length
        elif wire == _VARINT:
            _, start = _varint(data, start, end)
        elif wire in (_FIXED64, _FIXED32):
            start += 8 if wire == _FIXED64 else 4
        else:
            raise ModelError(_not_onnx(start))
        if start > end:
            raise ModelError(_not_onnx(start))
    return found


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ModelError(_not_onnx(position))


def _not_onnx(position: int) -> str:
    return f"The file is no ONNX model, or it is damaged or cut off (at byte {position})."
