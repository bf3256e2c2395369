# SPDX-License-Identifier: Apache-2.0
"""External data: read where it belongs, refused wherever else a file may point to."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, parser

from sparsec.compiler.errors import ModelError
from sparsec.compiler.importers.onnx import load_onnx

Entries = Sequence[tuple[str, str]]


def save(folder: Path, entries: Entries) -> Path:
    """A model whose weight 'w' of four floats is external, with these entries."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) { y = Add(x, w) }'
    )
    weight = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in entries:
        weight.external_data.add(key=key, value=value)
    model.graph.initializer.append(weight)
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with 'w.bin' (eight floats) in it, and a secret beside it."""
    inside = tmp_path / "model"
    (inside / "data").mkdir(parents=True)
    (inside / "w.bin").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    (inside / "data" / "w.bin").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    (tmp_path / "secret.bin").write_bytes(bytes(32))
    return inside


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([("location", "w.bin"), ("length", "16")], [0, 1, 2, 3]),
        ([("location", "w.bin"), ("offset", "16"), ("length", "16")], [4, 5, 6, 7]),
        ([("location", "w.bin"), ("offset", "8")], [2, 3, 4, 5]),
        ([("location", "./data/w.bin"), ("offset", "0")], [0, 1, 2, 3]),
    ],
)
def test_reads_the_weight(folder: Path, entries: Entries, expected: list[float]) -> None:
    model = load_onnx(save(folder, entries))
    weight = model.graph.initializers["w"].const_value
    assert weight is not None
    assert weight.numpy().tolist() == expected
    assert not ir.to_proto(model).graph.initializer[0].external_data


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ([("location", "../secret.bin")], "outside the model's folder"),
        ([("location", "data/../../secret.bin")], "outside the model's folder"),
        ([("location", "data/../w.bin")], "outside the model's folder"),
        ([("location", "/etc/passwd")], "outside the model's folder"),
        ([("location", "//etc/passwd")], "outside the model's folder"),
        ([("location", "C:\\secret.bin")], "outside the model's folder"),
        ([("location", "..\\secret.bin")], "outside the model's folder"),
        ([("location", "w.bin\0.txt")], "outside the model's folder"),
        ([("location", "none.bin")], "cannot be read"),
        ([("location", "data")], "no regular file"),
        ([("location", ".")], "no regular file"),
        ([("location", "")], "'location' is expected"),
        ([], "'location' is expected"),
        ([("location", "w.bin"), ("location", "w.bin")], "'location' is expected"),
        ([("location", "w.bin"), ("raw_data", "x")], "'location' is expected"),
        ([("location", "w.bin"), ("__class__", "x")], "'location' is expected"),
        ([("location", "w.bin"), ("basepath", "/")], "'location' is expected"),
        ([("location", "w.bin"), ("offset", "-16")], "the offset of its external data is '-16'"),
        ([("location", "w.bin"), ("offset", "1e1")], "the offset"),
        ([("location", "w.bin"), ("offset", "\u0661")], "the offset"),
        ([("location", "w.bin"), ("offset", "9" * 5000)], "the offset"),
        ([("location", "w.bin"), ("offset", "17")], "end at byte 33 .* which has 32 bytes"),
        ([("location", "w.bin"), ("offset", str(2**62))], "end at byte"),
        ([("location", "w.bin"), ("length", "-1")], "the length"),
        ([("location", "w.bin"), ("length", str(2**62))], "its type and shape need 16"),
        ([("location", "w.bin"), ("length", "8")], "its type and shape need 16"),
    ],
)
def test_refuses(folder: Path, entries: Entries, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        load_onnx(save(folder, entries))
    assert str(caught.value).startswith("Weight 'w'")


def test_refuses_a_symbolic_link(folder: Path) -> None:
    (folder / "link.bin").symlink_to(folder.parent / "secret.bin")
    with pytest.raises(ModelError, match="symbolic link"):
        load_onnx(save(folder, [("location", "link.bin")]))


def test_refuses_a_folder_that_is_a_symbolic_link(folder: Path) -> None:
    (folder / "up").symlink_to(folder.parent, target_is_directory=True)
    with pytest.raises(ModelError, match="symbolic link"):
        load_onnx(save(folder, [("location", "up/secret.bin")]))


def test_refuses_a_hard_link(folder: Path) -> None:
    (folder / "hard.bin").hardlink_to(folder.parent / "secret.bin")
    with pytest.raises(ModelError, match="hard link"):
        load_onnx(save(folder, [("location", "hard.bin")]))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_does_not_hang(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(ModelError, match="no regular file"):
        load_onnx(save(folder, [("location", "pipe")]))


def test_refuses_external_data_of_a_model_in_memory(folder: Path) -> None:
    model = onnx.load(save(folder, [("location", "w.bin"), ("length", "16")]), load_external_data=False)
    with pytest.raises(ModelError, match=r"has no folder\. Load it by its path"):
        load_onnx(model)


def test_reads_external_data_of_an_ir_model(folder: Path) -> None:
    model = load_onnx(ir.load(save(folder, [("location", "w.bin"), ("length", "16")])))
    assert not ir.to_proto(model).graph.initializer[0].external_data


def test_ir_model_with_external_data_outside_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError):
        load_onnx(ir.load(save(folder, [("location", "../secret.bin"), ("length", "16")])))


def test_refuses_too_much_in_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsec.compiler.importers.external.MAX_FILE_BYTES", 15)
    with pytest.raises(ModelError, match="weights have 16 bytes"):
        load_onnx(save(folder, [("location", "w.bin")]))
