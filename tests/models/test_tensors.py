# SPDX-License-Identifier: Apache-2.0
"""The weight readers: what they read, and what they refuse to."""

import collections
import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from sparsec.compiler.errors import ModelError
from sparsec.models.tensors import read_pth, read_safetensors


class Runs:
    """Unpickled freely, this would call `print`."""

    def __reduce__(self):
        return print, ("code ran",)


class Storage:
    """Pickled as torch pickles a storage: by reference to a file of the archive."""

    def __init__(self, key, size):
        self.reference = ("storage", _torch_class("FloatStorage"), key, "cpu", size)


def _torch_class(name):
    return type(name, (), {"__module__": "torch"})


class TorchPickler(pickle._Pickler):
    """Writes torch's names without torch."""

    def persistent_id(self, value):
        return value.reference if isinstance(value, Storage) else None

    def save(self, value, save_persistent_id=True):
        names = {"FloatStorage": b"ctorch\nFloatStorage\n"}
        if isinstance(value, type) and value.__name__ in names:
            self.write(names[value.__name__])
        elif value is _rebuild:
            self.write(b"ctorch._utils\n_rebuild_tensor_v2\n")
        else:
            super().save(value, save_persistent_id)


def _rebuild():
    """Stands for torch._utils._rebuild_tensor_v2."""


class Tensor:
    def __init__(self, shape, strides, size=6):
        self.arguments = (Storage("0", size), 0, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return _rebuild, self.arguments


def archive(path, state):
    index = io.BytesIO()
    TorchPickler(index, protocol=2).dump(state)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", index.getvalue())
        file.writestr("model/data/0", np.arange(6, dtype="<f4").tobytes())
    return path


def test_pth_is_read(tmp_path):
    state = collections.OrderedDict(weight=Tensor((2, 3), (3, 1)))
    read = read_pth(archive(tmp_path / "a.pth", state))
    np.testing.assert_array_equal(read["weight"], np.arange(6, dtype=np.float32).reshape(2, 3))


def test_pth_may_be_strided(tmp_path):
    read = read_pth(archive(tmp_path / "a.pth", {"weight": Tensor((3, 2), (1, 3))}))
    np.testing.assert_array_equal(read["weight"], np.arange(6, dtype=np.float32).reshape(2, 3).T)


@pytest.mark.parametrize("as_zip", [True, False])
def test_pth_equals_torch(tmp_path, as_zip):
    torch = pytest.importorskip("torch", reason="needs torch")
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(layer.state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=as_zip)
    read = read_pth(tmp_path / "a.pth")
    assert list(read) == list(layer.state_dict())
    for name, tensor in layer.state_dict().items():
        np.testing.assert_array_equal(read[name], tensor.numpy())


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": Runs()}, r"it names '(__builtin__|builtins)\.print'"),
        ({"weight": Tensor((3, 2), (1, 4))}, "strides is incompatible"),
        ({"weight": Tensor((2, 3), (3, 1), size=7)}, "storage '0' has 24 bytes, expected 7 values of float32"),
        ({"epoch": 3}, "found dict, expected a dictionary of tensors"),
        (Storage("9", 6), "There is no item named 'model/data/9'"),
        ([Tensor((6,), (1,))], "found list, expected a dictionary of tensors"),
    ],
)
def test_pth_refuses(tmp_path, capsys, state, message):
    with pytest.raises(ModelError, match=message):
        read_pth(archive(tmp_path / "a.pth", state))
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", b"PK\x03\x04 truncated", b"cos\nsystem\n."])
def test_pth_refuses_other_files(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"not what torch\.save writes"):
        read_pth(tmp_path / "a.pth")


def safetensors(path, header, values):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + values)
    return path


def test_safetensors_is_read(tmp_path):
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "b": {"dtype": "I64", "shape": [1], "data_offsets": [16, 24]},
    }
    values = np.arange(4, dtype="<f4").tobytes() + np.array([7], "<i8").tobytes()
    read = read_safetensors(safetensors(tmp_path / "a.safetensors", header, values))
    np.testing.assert_array_equal(read["a"], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(read["b"], [7])


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "X", "shape": [2], "data_offsets": [0, 8]},
        {"shape": [2]},
    ],
)
def test_safetensors_refuses_a_wrong_header(tmp_path, entry):
    with pytest.raises(ModelError, match="not a safetensors file"):
        read_safetensors(safetensors(tmp_path / "a.safetensors", {"a": entry}, bytes(8)))
