# SPDX-License-Identifier: Apache-2.0
"""Float16 models computed in float32, against onnxruntime."""

import numpy as np
import onnx
import onnx_ir as ir
from onnx.parser import parse_model

from sparsec.compiler.importers import load_model
from sparsec.compiler.lowering.halves import widened
from sparsec.compiler.oracle import Oracle

TEXT = """<ir_version: 9, opset_import: ["" : 18]>
g (float16[2,3] x) => (float16[2,4] y, float16[2,3] s) <float16[3,4] w> {
    s = Sigmoid(x)
    t = Cast <to = 1> (s)
    u = Mul(t, t)
    v = Cast <to = 10> (u)
    y = MatMul(v, w)
}"""


def half_model() -> ir.Model:
    proto = parse_model(TEXT)
    weight = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float16)
    del proto.graph.initializer[:]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return load_model(proto)


def test_halves_are_computed_as_floats_and_rounded_at_the_end() -> None:
    model = half_model()
    wide = widened(model)
    casts = [node for node in wide.graph if node.op_type == "Cast"]
    assert [node.attributes.get_int("to", 0) for node in casts].count(1) == 1
    for node in wide.graph:
        if node.op_type != "Cast":
            assert {value.dtype for value in (*node.inputs, *node.outputs) if value is not None} == {ir.DataType.FLOAT}
    assert [value.dtype for value in wide.graph.outputs] == [ir.DataType.FLOAT16] * 2
    assert [value.name for value in wide.graph.outputs] == ["y", "s"]


def test_results_are_as_close_as_float16_is() -> None:
    model = half_model()
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 3)).astype(np.float16)}
    expected, found = Oracle(model).run(feeds), Oracle(widened(model)).run(feeds)
    for name, array in expected.items():
        assert found[name].dtype == np.float16
        np.testing.assert_allclose(found[name], array, rtol=4e-3, atol=2e-3)


def test_the_given_model_stays_as_it_is() -> None:
    model = half_model()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    widened(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_float_model_is_returned_itself() -> None:
    text = '<ir_version: 9, opset_import: ["" : 18]> g (float[2] x) => (float[2] y) { y = Exp(x) }'
    model = load_model(parse_model(text))
    assert widened(model) is model
