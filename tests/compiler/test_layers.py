# SPDX-License-Identifier: Apache-2.0
import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.layers import Layer, find_layer, layers, matches

TEXT = """<ir_version: 10, opset_import: ["": 21, "other": 1]>
g (float[1,4,5,5] x, float[4,6] z) => (float[1,6,5,5] y, float[4,3] u) {
  y = Conv <group = 2, pads = [1,1,1,1]> (x, a)
  g = Gemm <transB = 1> (z, b)
  h = Gemm (g, c)
  m = MatMul (h, d)
  n = MatMul (m, z)
  o = other.MatMul (n, d)
  u = Relu (h)
}"""
SHAPES = {"a": (6, 2, 3, 3), "b": (5, 6), "c": (5, 3), "d": (3, 4)}


@pytest.fixture
def model():
    tensors = [ir.tensor(np.random.RandomState(0).rand(*s).astype(np.float32), name=n) for n, s in SHAPES.items()]
    return ir.from_onnx_text(TEXT, initializers=tensors)


def test_layers_see_their_weight_as_outputs_by_inputs(model):
    found = {str(layer.weight.name): layer for layer in layers(model)}
    assert list(found) == ["a", "b", "c", "d"]
    assert [layer.matrix().shape for layer in found.values()] == [(6, 18), (5, 6), (3, 5), (4, 3)]
    assert [layer.axis for layer in found.values()] == [0, 0, 1, 1]
    assert [(layer.groups, layer.taps) for layer in found.values()] == [(2, 9), (1, 1), (1, 1), (1, 1)]
    for layer in found.values():
        np.testing.assert_array_equal(layer.restore(layer.matrix()), layer.tensor.numpy())
        assert layer.mask.all()
        assert layer.encoded is None


def test_what_is_no_layer(model):
    found = [find_layer(node) for node in model.graph]
    assert sum(isinstance(layer, Layer) for layer in found) == 4
    assert found[4:] == ["its second operand is computed at run time", None, None]


def test_names_match_exactly_or_as_glob():
    assert matches("blocks.3.fc1", ("stem", "blocks.*.fc1"))
    assert matches("odd[0]", ("odd[0]",))
    assert not matches("blocks.3.fc12", ("blocks.3.fc1",))
    assert not matches("stem", ())
