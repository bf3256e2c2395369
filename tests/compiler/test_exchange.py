# SPDX-License-Identifier: Apache-2.0
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sparsec.compiler.encoding import Block, EncodedTensor, Encoding, Quant, as_half, from_matrix, parse_pattern
from sparsec.compiler.errors import ModelError
from sparsec.compiler.exchange import METADATA, from_qdq, to_onnx
from sparsec.compiler.oracle import Oracle

GEMM = "g (float[2,8] x) => (float[2,8] y) { y = Gemm(x, w) }"


def _model(graph, opset=21, **weights):
    tensors = [ir.tensor(array, name=name) for name, array in weights.items()]
    return ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": {opset}]>\n{graph}', initializers=tensors)


def _codes(*shape):
    return np.random.RandomState(0).randint(-127, 128, shape).astype(np.int8)


def _encoded(opset=21, granularity="channel", quant=True):
    """A Gemm with inputs first, half of its 4x4 blocks stored."""
    model = _model(GEMM, opset, w=np.zeros((8, 8), np.float32))
    mask = np.zeros((8, 8), bool)
    mask[:4, :4] = mask[4:, 4:] = True
    scales = {"channel": np.arange(1, 9, dtype=np.float32) / 64, "tensor": np.float32([0.25])}[granularity]
    arrays = (
        {"codes": _codes(8, 8) * mask, "scales": scales} if quant else {"values": (_codes(8, 8) * mask).astype("f4")}
    )
    encoding = Encoding(Block(4, 4), Quant(8, granularity) if quant else None)
    model.graph.initializers["w"].const_value = EncodedTensor("w", encoding, mask, 1, **arrays)
    return model


def _run(model):
    x = np.random.RandomState(3).randn(2, 8).astype(np.float32)
    return x, Oracle(model).run({"x": x})["y"]


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_quantized_weight_becomes_int8_with_dequantize(granularity):
    model = _encoded(granularity=granularity)
    proto = to_onnx(model)
    onnx.checker.check_model(proto, full_check=True)
    assert [node.op_type for node in proto.graph.node] == ["DequantizeLinear", "Gemm"]
    codes = next(tensor for tensor in proto.graph.initializer if tensor.name == "w.codes")
    assert codes.data_type == onnx.TensorProto.INT8
    assert proto.graph.node[1].input[1] == "w"
    x, y = _run(model)
    np.testing.assert_allclose(y, x @ model.graph.initializers["w"].const_value.numpy(), rtol=1e-5, atol=1e-5)
    assert isinstance(model.graph.initializers["w"].const_value, EncodedTensor)


def test_float_weight_becomes_dense():
    proto = to_onnx(_encoded(quant=False))
    assert [node.op_type for node in proto.graph.node] == ["Gemm"]
    (weight,) = proto.graph.initializer
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(weight), _encoded(quant=False).graph.initializers["w"].const_value.numpy()
    )


def test_round_trip():
    again = from_qdq(ir.from_proto(to_onnx(_encoded())))
    tensor, before = again.graph.initializers["w"].const_value, _encoded().graph.initializers["w"].const_value
    assert list(again.graph.initializers) == ["w"]
    assert str(tensor.encoding) == "block(4x4) x int8(channel)"
    for name in ("codes", "scales", "mask"):
        np.testing.assert_array_equal(getattr(tensor, name), getattr(before, name))
    np.testing.assert_array_equal(_run(again)[1], _run(_encoded())[1])


@pytest.mark.parametrize("text", [None, "nonsense", "nm(1:4) x int8(channel)"])
def test_pattern_is_found_where_metadata_is_absent_or_wrong(text):
    model = ir.from_proto(to_onnx(_encoded()))
    model.graph[0].metadata_props.pop(METADATA)
    if text:
        model.graph[0].metadata_props[METADATA] = text
    from_qdq(model)
    assert str(model.graph.initializers["w"].const_value.encoding) == "block(4x4) x int8(channel)"


def test_scale_of_the_whole_tensor_is_repeated():
    again = from_qdq(ir.from_proto(to_onnx(_encoded(granularity="tensor"))))
    assert again.graph.initializers["w"].const_value.scales.tolist() == [0.25] * 8
    np.testing.assert_array_equal(_run(again)[1], _run(_encoded(granularity="tensor"))[1])


CONV = "g (float[1,2,3,3] x) => (float[1,4,3,3] y) { w = DequantizeLinear <axis = 0> (q, s, z) y = Conv(x, w) }"
SCALES = np.float32([0.5, 0.25, 1, 2])


@pytest.mark.parametrize(("dtype", "zero"), [(np.int8, 0), (np.uint8, 128)])
def test_symmetric_weights_of_other_tools(dtype, zero):
    codes = (_codes(4, 2, 1, 1).astype(np.int16) + zero).astype(dtype)
    arrays = {"q": codes, "s": SCALES, "z": np.full(4, zero, dtype)}
    model, plain = _model(CONV, **arrays), _model(CONV, **arrays)
    from_qdq(model)
    assert [node.op_type for node in model.graph] == ["Conv"]
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.codes, _codes(4, 2, 1, 1))
    x = {"x": np.random.RandomState(1).randn(1, 2, 3, 3).astype(np.float32)}
    np.testing.assert_allclose(Oracle(model).run(x)["y"], Oracle(plain).run(x)["y"], rtol=1e-6)


KEPT = {
    "asymmetric": (CONV, {"z": np.full(4, 3, np.int8)}),
    "scales along the inputs": (CONV.replace("axis = 0", "axis = 1"), {"s": SCALES[:2], "z": np.zeros(2, np.int8)}),
    "read by no layer": (CONV.replace("y = Conv(x, w)", "y = Add(x, w)"), {"q": _codes(4, 2, 3, 3)}),
    "read by others too": (
        CONV.replace("y = Conv", "z2 = Neg(w) y = Conv").replace("3] y)", "3] y, float[4,2,1,1] z2)"),
        {},
    ),
}


@pytest.mark.parametrize("why", KEPT)
def test_what_is_no_weight_stays(why):
    text, changed = KEPT[why]
    arrays = {"q": _codes(4, 2, 1, 1), "s": SCALES, "z": np.zeros(4, np.int8), **changed}
    model = _model(text, **arrays)
    before = [node.op_type for node in model.graph]
    from_qdq(model)
    assert [node.op_type for node in model.graph] == before


def test_int32_bias_becomes_float():
    text = "g (float[1,4] x) => (float[1,4] y) { b = DequantizeLinear(q, s) y = Add(x, b) }"
    model = from_qdq(_model(text, q=np.arange(4, dtype=np.int32), s=np.float32(0.5)))
    assert [node.op_type for node in model.graph] == ["Add"]
    np.testing.assert_array_equal(model.graph.initializers["b"].const_value.numpy(), np.float32([0, 0.5, 1, 1.5]))


def _grouped(bits=4, symmetric=False, opset=21, kind="gemm", pattern="block(1x4)"):
    """A layer with groups of 4 along 10 inputs (or 2 channels x 3x3 taps), half of them pruned."""
    text, shape, axis = {
        "gemm": ("g (float[2,10] x) => (float[2,6] y) { y = Gemm(x, w) }", (10, 6), 1),
        "conv": ("g (float[1,2,5,5] x) => (float[1,6,3,3] y) { y = Conv(x, w) }", (6, 2, 3, 3), 0),
    }[kind]
    random, quant = np.random.RandomState(2), Quant(bits, "group", symmetric, 4)
    inputs = np.prod(shape) // 6
    mask = parse_pattern(pattern).project(random.rand(6, inputs), 1.0 if pattern == "dense" else 0.5)
    grid = (6, -(-inputs // 4))
    zeros = None if symmetric else random.randint(0, quant.highest + 1, grid).astype(np.uint8)
    rest = 0 if zeros is None else zeros.repeat(4, axis=1)[:, :inputs]
    codes = np.where(mask, random.randint(quant.lowest, quant.highest + 1, mask.shape), rest)
    codes = codes.astype(np.int8 if symmetric else np.uint8)
    model = _model(text, opset, w=np.zeros(shape, np.float32))
    model.graph.initializers["w"].const_value = EncodedTensor(
        "w",
        Encoding(parse_pattern(pattern), quant),
        from_matrix(mask, shape, axis),
        axis,
        codes=from_matrix(codes, shape, axis),
        scales=as_half(random.rand(*grid) + 0.1),
        zero_points=zeros,
    )
    return model


def _random_run(model):
    x = {v.name: np.random.RandomState(3).randn(*v.shape.numpy()).astype(np.float32) for v in model.graph.inputs}
    return Oracle(model).run(x)["y"]


@pytest.mark.parametrize("kind", ["gemm", "conv"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_groups_round_trip_and_onnxruntime_computes_their_values(bits, symmetric, kind):
    model = _grouped(bits, symmetric, kind=kind)
    proto = to_onnx(model)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.graph.node[0].op_type == "DequantizeLinear"
    names = {(True, True): "INT4", (True, False): "INT8", (False, True): "UINT4", (False, False): "UINT8"}
    codes = next(tensor for tensor in proto.graph.initializer if tensor.name == "w.codes")
    assert codes.data_type == onnx.TensorProto.DataType.Value(names[symmetric, bits <= 4])
    dense = _grouped(bits, symmetric, kind=kind)
    weight = dense.graph.initializers["w"]
    before = weight.const_value
    weight.const_value = ir.tensor(before.numpy(), name="w")
    np.testing.assert_array_equal(_random_run(model), _random_run(dense))
    again = from_qdq(ir.from_proto(proto))
    assert list(again.graph.initializers) == ["w"]
    after = again.graph.initializers["w"].const_value
    assert after.encoding == before.encoding
    for name in ("codes", "scales", "mask") + (() if symmetric else ("zero_points",)):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_groups_of_an_older_opset_are_written_dense():
    proto = to_onnx(_grouped(opset=20))
    assert [node.op_type for node in proto.graph.node] == ["Gemm"]
    want = _grouped().graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(proto.graph.initializer[0]), want)


GROUPS = (
    "g (float[2,8] x) => (float[2,3] y) { w = DequantizeLinear <axis = 0, block_size = 4> (q, s) y = MatMul(x, w) }"
)


def test_signed_groups_with_zero_points_of_other_tools():
    text = GROUPS.replace("(q, s)", "(q, s, z)")
    random = np.random.RandomState(0)
    arrays = {
        "q": random.randint(-8, 8, (8, 3)).astype(ir.DataType.INT4.numpy()),
        "s": as_half(random.rand(2, 3) + 0.1),
        "z": random.randint(-8, 8, (2, 3)).astype(ir.DataType.INT4.numpy()),
    }
    model, plain = _model(text, **arrays), _model(text, **arrays)
    from_qdq(model)
    assert [node.op_type for node in model.graph] == ["MatMul"]
    assert str(model.graph.initializers["w"].const_value.encoding) == "dense x int4(group4,asymmetric)"
    np.testing.assert_array_equal(_random_run(model), _random_run(plain))


def test_groups_with_wider_scales_stay():
    text = (
        "g (float[2,8] x) => (float[2,3] y) { w = DequantizeLinear <axis = 0, block_size = 4> (q, s) y = MatMul(x, w) }"
    )
    model = _model(text, q=_codes(8, 3), s=np.full((2, 3), 1 / 3, np.float32))
    assert [node.op_type for node in from_qdq(model).graph] == ["DequantizeLinear", "MatMul"]


def test_old_opset_is_refused():
    message = r"Weight 'w' is quantized: the model has opset 11, expected 13 or newer\."
    with pytest.raises(ModelError, match=message):
        to_onnx(_encoded(opset=11))


def test_new_names_are_those_of_no_other_value():
    model = _encoded()
    x = model.graph.inputs[0]
    for name in ("w.codes", "w.scales", "w.encoded"):
        node = ir.node("Neg", [x], name=name)
        node.outputs[0].name = name
        model.graph.append(node)
    proto = to_onnx(model)
    onnx.checker.check_model(proto, full_check=True)
    assert {tensor.name for tensor in proto.graph.initializer} == {"w.codes_", "w.scales_"}
    np.testing.assert_array_equal(_run(model)[1], _run(_encoded())[1])
