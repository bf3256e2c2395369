# SPDX-License-Identifier: Apache-2.0
"""Local functions are inlined, our own stay calls, ONNX's function operators can be expanded."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from sparsec.compiler.errors import ModelError
from sparsec.compiler.importers.finish import expand_function_ops
from sparsec.compiler.importers.onnx import load_onnx

Parse = Callable[..., onnx.ModelProto]
Import = Callable[..., ir.Model]
Ops = Callable[[ir.Model], list[str]]
CALL = "g (float[2,4] x) => (float[2,4] y) { a = d.f(x) b = d.f(a) y = Neg(b) }"


def run(model: ir.Model, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def test_local_function_is_inlined(parse: Parse, import_same: Import, op_types: Ops) -> None:
    text = '<domain: "d", opset_import: ["" : 17, "e" : 1]> f (x) => (y) { z = Exp(x) y = e.h(z) }\n'
    text += '<domain: "e", opset_import: ["" : 17]> h (x) => (y) { s = Shape(x) r = Reshape(x, s) y = Abs(r) }'
    model = import_same(parse(CALL, functions=text, domains=', "d" : 1, "e" : 1'))
    assert op_types(model) == ["Exp", "Reshape", "Abs"] * 2 + ["Neg"]
    assert not model.functions


def test_local_function_of_another_opset(parse: Parse, op_types: Ops) -> None:
    text = '<domain: "d", opset_import: ["" : 13]> f (x) => (y) { z = Relu(x) y = Exp(z) }'
    model = load_onnx(parse(CALL, functions=text, domains=', "d" : 1'))
    assert op_types(model) == ["Relu", "Exp"] * 2 + ["Neg"]


def test_local_function_of_an_opset_that_spells_differently(parse: Parse) -> None:
    text = '<domain: "d", opset_import: ["" : 11]> f (x) => (y) { s = ReduceSum <axes = [1]> (x) y = Add(x, s) }'
    with pytest.raises(ModelError, match=r"'ReduceSum', node 's' in function 'd.f': is of opset 11"):
        load_onnx(parse(CALL, functions=text, domains=', "d" : 1'))


@pytest.mark.parametrize("opset", [13, 17, 27])
def test_own_function_stays_a_call(parse: Parse, import_same: Import, op_types: Ops, opset: int) -> None:
    text = f'<domain: "sparsec", opset_import: ["" : {opset}]> f (x) => (y) {{ y = Exp(x) }}'
    model = import_same(parse(CALL.replace("d.f", "sparsec.f"), opset, text, ', "sparsec" : 1'))
    assert op_types(model) == ["f", "f", "Neg"]
    assert [function.name for function in model.functions.values()] == ["f"]


def test_import_twice_changes_nothing(parse: Parse) -> None:
    text = '<domain: "sparsec", opset_import: ["" : 17]> f (x) => (y) { y = Exp(x) }'
    once = load_onnx(parse(CALL.replace("d.f", "sparsec.f"), 17, text, ', "sparsec" : 1'))
    first, again = ir.to_proto(once), ir.to_proto(load_onnx(once))
    assert again.SerializeToString(deterministic=True) == first.SerializeToString(deterministic=True)


EXPANDABLE = {
    "Celu": "(float[2,4] x) => (float[2,4] y) { y = Celu <alpha = 0.5> (x) }",
    "MeanVarianceNormalization": "(float[2,3,4,4] x) => (float[2,3,4,4] y) { y = MeanVarianceNormalization(x) }",
    "LayerNormalization": "(float[2,4] x, float[4] s) => (float[2,4] y) { y = LayerNormalization(x, s) }",
    "GroupNormalization": "(float[2,4,3] x, float[4] s) => (float[2,4,3] y) "
    "{ y = GroupNormalization <num_groups = 2> (x, s, s) }",
    "Gelu": '(float[2,4] x) => (float[2,4] y) { y = Gelu <approximate = "tanh"> (x) }',
    "Softmax": "(float[2,4] x) => (float[2,4] y) { y = Softmax(x) }",
    "Clip": "(float[2,4] x) => (float[2,4] y) <float low = {0}> { y = Clip(x, low) }",
    "ReduceL2": "(float[2,4] x) => (float[2,1] y) <int64[1] a = {1}> { y = ReduceL2(x, a) }",
    "NegativeLogLikelihoodLoss": "(float[3,5] x, int64[3] t) => (float y) { y = NegativeLogLikelihoodLoss(x, t) }",
    "SoftmaxCrossEntropyLoss": "(float[3,5] x, int64[3] t) => (float y, float[3,5] p) "
    "{ y, p = SoftmaxCrossEntropyLoss(x, t) }",
    "Attention": "(float[1,2,4,8] x, float[1,2,6,8] k) => (float[1,2,4,8] y) { y = Attention(x, k, k) }",
    "CenterCropPad": "(float[5,5] x) => (float[A,B] y) <int64[2] s = {3,7}> { y = CenterCropPad(x, s) }",
    "HannWindow": "(float[1] x) => (float[A] y) <int64 n = {8}> { h = HannWindow(n) y = Add(h, x) }",
}


@pytest.mark.parametrize("op_type", sorted(EXPANDABLE))
def test_expanding_a_function_operator(parse: Parse, op_types: Ops, op_type: str) -> None:
    model = load_onnx(parse("g " + EXPANDABLE[op_type], 24))
    random = np.random.default_rng(0)
    inputs = {
        str(v.name): random.integers(0, 3, v.shape.numpy())
        if str(v.dtype) == "INT64"  # type: ignore[union-attr]
        else random.standard_normal(v.shape.numpy()).astype(np.float32)  # type: ignore[union-attr]
        for v in model.graph.inputs
    }
    expanded = expand_function_ops(model, keep=[])
    assert op_type not in op_types(expanded)
    for before, after in zip(run(model, inputs), run(expanded, inputs), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5, strict=True)


def test_keep(parse: Parse, op_types: Ops) -> None:
    model = load_onnx(parse("g (float[2,4] x) => (float[2,4] y) { a = Softmax(x) y = Celu(a) }"))
    assert expand_function_ops(model, keep=["Softmax", "Celu"]) is model
    found = op_types(expand_function_ops(model, keep=["Softmax"]))
    assert found[0] == "Softmax"
    assert "Celu" not in found


def test_what_onnxruntime_lacks_is_expanded_at_import(parse: Parse, op_types: Ops) -> None:
    model = load_onnx(parse("g (float[2,4] x) => (float[2,4] y) { y = Swish(x) }", 24))
    assert "Swish" not in op_types(model)
    run(model, {"x": np.zeros((2, 4), np.float32)})
