# SPDX-License-Identifier: Apache-2.0
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sparsec.compiler.errors import ModelError
from sparsec.compiler.oracle import Oracle

QDQ = """<ir_version: 10, opset_import: ["": 21]>
g (float[1,4,3,3] x) => (float[1,2,3,3] y)
<float s = {0.05}, uint8 z = {64}> {
  q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) c = Conv (d, w, b)
  p = QuantizeLinear (c, s, z) y = DequantizeLinear (p, s, z)
}"""


def _model():
    weight = np.float32([[1.0, 0.5, 0.25, 0.125], [1e-3, 2e-3, -1e-3, 3e-3]]).reshape(2, 4, 1, 1)
    tensors = [ir.tensor(weight, name="w"), ir.tensor(np.float32([0.01, 0.02]), name="b")]
    return ir.from_onnx_text(QDQ, initializers=tensors), weight


def test_float_weights_between_quantized_activations_stay_float():
    model, weight = _model()
    x = np.random.RandomState(0).uniform(-3, 3, (1, 4, 3, 3)).astype(np.float32)
    d = ((np.clip(np.rint(x / np.float32(0.05)) + 64, 0, 255) - 64) * 0.05).astype(np.float32)
    want = np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], d) + np.float32([0.01, 0.02])[None, :, None, None]
    np.testing.assert_allclose(Oracle(model, ["c"]).run({"x": x})["c"], want, rtol=1e-5, atol=1e-6)


def test_extra_values_come_after_the_outputs_and_the_model_stays():
    model, _ = _model()
    proto = ir.to_proto(model)
    oracle = Oracle(proto, ["q", "y", "d"])
    assert oracle.outputs == ("y", "q", "d")
    assert [value.name for value in proto.graph.output] == ["y"]
    values = oracle.run({"x": np.zeros((1, 4, 3, 3), np.float32)})
    assert values["q"].dtype == np.uint8
    assert next(oracle.stream([{"x": np.zeros((1, 4, 3, 3), np.float32)}])).keys() == values.keys()


def test_refusals_are_model_errors():
    with pytest.raises(ModelError, match="onnxruntime refuses the model: "):
        Oracle(onnx.ModelProto())
    with pytest.raises(ModelError, match="onnxruntime fails on the model: "):
        Oracle(_model()[0]).run({"x": np.zeros((1, 5, 3, 3), np.float32)})
