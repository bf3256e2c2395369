# SPDX-License-Identifier: Apache-2.0
"""Malformed and hostile models: one message, exit code 1, nothing left behind."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cli.conftest import two_products


def save(model):
    return model.SerializeToString()


def with_nodes(*nodes):
    model = two_products()
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return save(model)


def with_huge_weight():
    model = two_products()
    model.graph.initializer.append(TensorProto(name="C", data_type=1, dims=[1 << 40, 1 << 20]))
    return save(model)


def field(number, data):
    """One length-delimited field of protobuf's wire format."""
    size, head = len(data), bytearray([number << 3 | 2])
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size]) + data


def nested_graphs(depth=10_000):
    """A model whose graph holds a node whose attribute holds a graph, and so on."""
    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(1, b"g") + field(6, graph)))
    return bytes([8, 8]) + field(7, graph) + field(8, bytes([16, 17]))


def with_external_data(location, offset=0):
    model = two_products()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": str(offset), "length": "2048"}
    weight.external_data.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in entries.items())
    return save(model)


MALFORMED = {
    "empty": lambda: b"",
    "truncated": lambda: save(two_products())[:1000],
    "random bytes": lambda: np.random.default_rng(0).bytes(4096),
    "text": lambda: b"# This is no model.\n",
    "picture": lambda: b"\x89PNG\r\n\x1a\n" + bytes(100),
    "nested graphs": nested_graphs,
    "huge weight": with_huge_weight,
    "cycle": lambda: with_nodes(helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Add", ["a", "x"], ["b"])),
    "unknown operator": lambda: with_nodes(helper.make_node("Frobnicate", ["x"], ["y"])),
    "external data outside": lambda: with_external_data("../secret.bin"),
    "external data by absolute path": lambda: with_external_data("/etc/passwd"),
    "external data missing": lambda: with_external_data("missing.bin"),
    "external data past the end": lambda: with_external_data("weights.bin", offset=1 << 20),
    "external data through a symlink": lambda: with_external_data("link.bin"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_model_is_one_error(kind, here, tmp_path, refused):
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    (here / "weights.bin").write_bytes(bytes(4096))
    os.symlink(tmp_path / "secret.bin", here / "link.bin")
    (here / "bad.onnx").write_bytes(MALFORMED[kind]())
    refused("compile", "bad.onnx", "--target", "wasm")


@pytest.mark.parametrize("command", [("compile", "--target", "wasm"), ("inspect",)])
def test_a_missing_model_is_named(command, refused):
    refused(command[0], "nowhere.onnx", *command[1:], says="'nowhere.onnx'")


def test_a_folder_is_no_model(here, refused):
    (here / "folder").mkdir()
    refused("compile", "folder", "--target", "wasm", says="folder")


def test_an_unknown_operator_is_named(here, refused):
    (here / "bad.onnx").write_bytes(MALFORMED["unknown operator"]())
    refused("compile", "bad.onnx", "--target", "wasm", says="Frobnicate")


def test_a_layer_name_cannot_reach_the_terminal(here, refused, sparsec):
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="\x1b[2J\u202eevil")
    (here / "bad.onnx").write_bytes(with_nodes(node))
    done = sparsec("compile", "bad.onnx", "--target", "wasm")
    assert done.exit_code == 1
    assert "\x1b" not in done.stderr
    assert "\u202e" not in done.stderr


def test_inspect_escapes_names(here, sparsec):
    model = two_products()
    model.graph.node[0].name = "\x1b]0;owned\x07 [bold]layer[/bold]"
    onnx.save(model, here / "odd.onnx")
    done = sparsec("inspect", "odd.onnx")
    assert done.exit_code == 0, done.stderr
    assert "\\x1b]0;owned\\x07 [bold]layer[/bold]" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_shape_that_contradicts_the_model(model, refused):
    refused("compile", model, "--target", "wasm", "--shape", "x=1x17", says="17")


def test_a_shape_of_an_unknown_input(model, refused):
    refused("compile", model, "--target", "wasm", "--shape", "z=1x16", says=("z", "x"))


def test_weights_with_nan_are_no_crash(here, sparsec):
    model = two_products()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((16, 32), np.nan, np.float32), "A"))
    onnx.save(model, here / "nan.onnx")
    assert sparsec("inspect", "nan.onnx").exit_code in (0, 1)
