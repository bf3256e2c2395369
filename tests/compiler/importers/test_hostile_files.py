# SPDX-License-Identifier: Apache-2.0
"""Broken and hostile model files: one clear ModelError each, no crash, no hang, no large allocation."""

import os
import random
import tracemalloc
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, parser

from sparsec.compiler.errors import ModelError
from sparsec.compiler.importers import limits
from sparsec.compiler.importers.onnx import load_onnx

GOOD = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,4] x) => (float[1,4] y) <float[4] w = {1,2,3,4}> { z = Add(x, w) y = Relu(z) }"""


def good() -> onnx.ModelProto:
    return parser.parse_model(GOOD)


def refuse(source: object, match: str) -> str:
    """Importing must raise a ModelError that matches, without allocating much; returns its message."""
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=match) as caught:
            load_onnx(source)  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    return str(caught.value)


def file(folder: Path, data: bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(data)
    return path


class TestFiles:
    def test_the_good_model_is_good(self, tmp_path: Path) -> None:
        assert [node.op_type for node in load_onnx(file(tmp_path, good().SerializeToString())).graph] == ["Add", "Relu"]

    def test_missing(self, tmp_path: Path) -> None:
        assert "none.onnx" in refuse(tmp_path / "none.onnx", "cannot be read: No such file")

    def test_folder(self, tmp_path: Path) -> None:
        refuse(tmp_path, "is a folder")

    def test_empty(self, tmp_path: Path) -> None:
        refuse(file(tmp_path, b""), "is empty")

    def test_name_with_nul(self) -> None:
        refuse("a\0b.onnx", "cannot be read")

    def test_name_too_long(self) -> None:
        refuse("a" * 5000, "cannot be read")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_pipe_does_not_hang(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        refuse(tmp_path / "pipe", "no regular file")

    def test_larger_than_protobuf_allows(self, tmp_path: Path) -> None:
        path = tmp_path / "huge.onnx"
        with path.open("wb") as sparse:
            sparse.truncate(limits.MAX_FILE_BYTES + 1)
        refuse(path, "reads models of up to")

    @pytest.mark.parametrize(
        "text", [b"hello, world\n" * 50, b"<html></html>", b"PK\x03\x04" + bytes(200), bytes(1000)]
    )
    def test_not_onnx(self, tmp_path: Path, text: bytes) -> None:
        refuse(file(tmp_path, text), "no ONNX model")

    def test_truncated_anywhere(self, tmp_path: Path) -> None:
        data = good().SerializeToString()
        for length in range(1, len(data)):
            with pytest.raises(ModelError):
                load_onnx(file(tmp_path, data[:length]))

    def test_random_bytes(self, tmp_path: Path) -> None:
        source = random.Random(0)
        for _ in range(200):
            with pytest.raises(ModelError):
                load_onnx(file(tmp_path, source.randbytes(source.randrange(1, 300))))

    def test_wrong_kind_of_object(self) -> None:
        refuse(3, "was expected, not 'int'")

    def test_valid_message_that_is_no_model(self, tmp_path: Path) -> None:
        refuse(file(tmp_path, helper.make_tensor("t", 1, [1], [1.0]).SerializeToString()), "no ONNX model")


def nested_bytes(levels: int) -> bytes:
    """A model whose graphs are nested in If nodes, written by hand: protobuf would refuse to."""

    def field(number: int, payload: bytes) -> bytes:
        length, text = len(payload), b""
        while length > 127:
            text += bytes([length & 127 | 128])
            length >>= 7
        return bytes([number << 3 | 2]) + text + bytes([length]) + payload

    graph = b""
    for _ in range(levels):
        graph = field(1, field(4, b"If") + field(5, field(6, graph)))
    return b"\x08\x08" + field(7, graph) + field(8, b"\x10\x11")


class TestNesting:
    def test_ten_thousand_graphs_in_a_file(self, tmp_path: Path) -> None:
        refuse(file(tmp_path, nested_bytes(10_000)), "nests its graphs")

    def test_more_graphs_than_sparsec_follows(self, tmp_path: Path) -> None:
        refuse(file(tmp_path, nested_bytes(limits.MAX_GRAPH_DEPTH + 3)), "nests graphs more than")

    def test_many_small_messages(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sparsec.compiler.importers.wire.MAX_MESSAGES", 1000)
        model = good()
        model.graph.node.extend([onnx.NodeProto()] * 2000)
        refuse(file(tmp_path, model.SerializeToString()), "more than 1000 protobuf messages")

    def test_many_nodes_in_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sparsec.compiler.importers.walk.MAX_NODES", 1)
        refuse(good(), "more than 1 nodes")


def with_weight(**fields: object) -> onnx.ModelProto:
    model = good()
    model.graph.initializer[0].CopyFrom(TensorProto(name="w", **fields))  # type: ignore[arg-type]
    return model


class TestWeights:
    @pytest.mark.parametrize(
        ("fields", "match"),
        [
            ({"data_type": 1, "dims": [2**40], "raw_data": bytes(16)}, "more than 2147483647 bytes"),
            ({"data_type": 1, "dims": [2**62, 2**62, 4], "raw_data": bytes(16)}, "more than 2147483647 bytes"),
            ({"data_type": 1, "dims": [2**32, 2**32, 0], "raw_data": bytes(16)}, "has 16 bytes"),
            ({"data_type": 1, "dims": [-4], "raw_data": bytes(16)}, "dimensions from 0"),
            ({"data_type": 1, "dims": [-2, -2], "raw_data": bytes(16)}, "dimensions from 0"),
            ({"data_type": 1, "dims": [1] * 100, "raw_data": bytes(4)}, "up to 32 dimensions"),
            ({"data_type": 1, "dims": [4], "raw_data": bytes(15)}, r"has 15 bytes; its shape \[4\] needs 16"),
            ({"data_type": 1, "dims": [4], "raw_data": bytes(17)}, "has 17 bytes"),
            ({"data_type": 1, "dims": [4]}, "holds no data"),
            ({"data_type": 1, "dims": [4], "float_data": [1, 2, 3]}, "has 3 values"),
            ({"data_type": 1, "dims": [4], "int64_data": [1, 2, 3, 4]}, "holds int64_data"),
            ({"data_type": 1, "dims": [4], "float_data": [1] * 4, "raw_data": bytes(16)}, "holds raw_data, float_data"),
            ({"data_type": 0, "dims": [4], "raw_data": bytes(16)}, "unknown data type 0"),
            ({"data_type": 99, "dims": [4], "raw_data": bytes(16)}, "unknown data type 99"),
            ({"data_type": 8, "dims": [1], "string_data": [b"a"]}, "holds strings"),
            ({"data_type": 22, "dims": [3], "raw_data": bytes(1)}, "needs 2"),
        ],
    )
    def test_declared_against_held(self, fields: dict[str, object], match: str) -> None:
        assert refuse(with_weight(**fields), match).startswith("Weight 'w'")

    def test_in_a_constant_node(self) -> None:
        model = good()
        huge = TensorProto(data_type=1, dims=[2**50], raw_data=bytes(4))
        node = helper.make_node("Constant", [], ["c"], name="c")
        node.attribute.append(helper.make_attribute("value", huge))
        model.graph.node.append(node)
        refuse(model, r"Node 'c' \(Constant\), attribute 'value'.*more than")

    def test_all_weights_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sparsec.compiler.importers.tensors.MAX_FILE_BYTES", 15)
        refuse(good(), "weights have 16 bytes")


def sparse_model(dims: list[int], indices: onnx.TensorProto, count: int) -> onnx.ModelProto:
    model = good()
    del model.graph.initializer[:]
    values = helper.make_tensor("w", TensorProto.FLOAT, [count], [2.0] * count)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, dims))
    return model


class TestSparseWeights:
    @pytest.mark.parametrize(("shape", "items"), [([2], [1, 3]), ([2, 1], [1, 3])])
    def test_becomes_dense(self, shape: list[int], items: list[int]) -> None:
        model = load_onnx(sparse_model([4], helper.make_tensor("i", TensorProto.INT64, shape, items), 2))
        weight = model.graph.initializers["w"].const_value
        assert weight is not None
        assert weight.numpy().tolist() == [0, 2, 0, 2]

    @pytest.mark.parametrize("items", [[1, 4], [-1, 0]])
    def test_index_out_of_range(self, items: list[int]) -> None:
        refuse(sparse_model([4], helper.make_tensor("i", TensorProto.INT64, [2], items), 2), "indices do not fit")

    def test_dense_form_too_large(self) -> None:
        refuse(sparse_model([2**28], helper.make_tensor("i", TensorProto.INT64, [1], [1]), 1), "its dense form")


class TestMutations:
    def test_flipped_bytes_never_escape_as_other_errors(self, tmp_path: Path) -> None:
        source, data = random.Random(1), good().SerializeToString()
        for _ in range(300):
            mutated = bytearray(data)
            for _ in range(source.randrange(1, 4)):
                mutated[source.randrange(len(data))] = source.randrange(256)
            try:
                load_onnx(file(tmp_path, bytes(mutated)))
            except ModelError:
                continue
