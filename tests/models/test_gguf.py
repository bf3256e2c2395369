# SPDX-License-Identifier: Apache-2.0
"""The GGUF reader: what it reads, and what it refuses to."""

import struct

import numpy as np
import pytest

from sparsec.compiler.errors import ModelError
from sparsec.models.gguf import read_gguf

HALF = np.float16(0.5).tobytes()
SIX = np.arange(6, dtype="<f4").tobytes()


def text(word):
    content = word.encode()
    return struct.pack("<Q", len(content)) + content


def file(path, metadata=b"", entries=0, shape=(2, 3), kind=0, data=SIX, version=3):
    """A file with one tensor ``w``; `shape` in numpy's order."""
    head = b"GGUF" + struct.pack("<IQQ", version, 1, entries) + metadata
    sides = struct.pack(f"<{len(shape)}Q", *reversed(shape))
    head += text("w") + struct.pack("<I", len(shape)) + sides + struct.pack("<IQ", kind, 0)
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)
    return path


def test_floats_keep_numpys_order_of_axes(tmp_path):
    read = read_gguf(file(tmp_path / "a.gguf"))
    np.testing.assert_array_equal(read.tensors["w"], np.arange(6, dtype=np.float32).reshape(2, 3))


def test_metadata_of_each_kind(tmp_path):
    number = text("n") + struct.pack("<If", 6, 1.5)
    word = text("s") + struct.pack("<I", 8) + text("läßt")
    words = text("l") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    flag = text("b") + struct.pack("<I?", 7, True)
    read = read_gguf(file(tmp_path / "a.gguf", number + word + words + flag, 4))
    assert read.metadata == {"n": 1.5, "s": "läßt", "l": ["a", "b"], "b": True}


def test_q4_1_is_scale_times_code_plus_minimum(tmp_path):
    codes = bytes(low | (15 - low) << 4 for low in range(16))
    block = HALF + np.float16(-2).tobytes() + codes
    read = read_gguf(file(tmp_path / "a.gguf", shape=(1, 32), kind=3, data=block))
    expected = 0.5 * np.concatenate([np.arange(16), 15 - np.arange(16)]) - 2
    np.testing.assert_array_equal(read.tensors["w"], expected[None].astype(np.float32))


def test_q8_0_is_scale_times_code(tmp_path):
    codes = np.arange(-16, 16, dtype=np.int8)
    read = read_gguf(file(tmp_path / "a.gguf", shape=(32,), kind=8, data=HALF + codes.tobytes()))
    np.testing.assert_array_equal(read.tensors["w"], codes * np.float32(0.5))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, r"found b'GGUF' version 2, expected b'GGUF' version 3"),
        ({"kind": 12}, r"tensor 'w' has type 12, expected one of 0, 1, 3, 8"),
        ({"kind": 8, "shape": (33,)}, r"tensor 'w' has rows of 33 values, expected a multiple of 32"),
        ({"shape": (2, 400)}, r"buffer is smaller"),
        ({"entries": 1}, r"it ends before byte"),
        ({"metadata": text("n") + struct.pack("<I", 99), "entries": 1}, r"metadata of unknown type 99"),
    ],
)
def test_what_it_cannot_read_is_refused(tmp_path, change, reason):
    with pytest.raises(ModelError, match=rf"Weights '.*a.gguf': not a GGUF file that can be read \(.*{reason}"):
        read_gguf(file(tmp_path / "a.gguf", **change))
