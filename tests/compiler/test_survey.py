# SPDX-License-Identifier: Apache-2.0
import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.encoding import Block, EncodedTensor, Encoding, Quant
from sparsec.compiler.survey import survey

HEAD = '<ir_version: 8, opset_import: ["": 18]> g '


def model(text, **weights):
    return ir.from_onnx_text(HEAD + text, [ir.tensor(array, name=name) for name, array in weights.items()])


def ones(*shape):
    return np.ones(shape, np.float32)


CASES = {
    "MatMul": (
        model("(float[2,3,4] x) => (float[2,3,5] y) <float[4,5] w> { y = MatMul(x, w) }", w=ones(4, 5)),
        2 * 3 * 5 * 4,
    ),
    "Gemm, transposed data": (
        model("(float[4,3] x) => (float[3,5] y) <float[4,5] w> { y = Gemm<transA=1>(x, w) }", w=ones(4, 5)),
        3 * 5 * 4,
    ),
    "grouped convolution": (
        model(
            "(float[1,4,6,6] x) => (float[1,8,4,4] y) <float[8,2,3,3] w> { y = Conv<group=2>(x, w) }",
            w=ones(8, 2, 3, 3),
        ),
        8 * 4 * 4 * 2 * 3 * 3,
    ),
    "transposed convolution": (
        model(
            "(float[1,4,6,6] x) => (float[1,8,7,7] y) <float[4,8,2,2] w> { y = ConvTranspose(x, w) }",
            w=ones(4, 8, 2, 2),
        ),
        4 * 6 * 6 * 8 * 2 * 2,
    ),
    "LSTM": (
        model(
            "(float[7,1,3] x) => (float[7,1,1,5] y) <float[1,20,3] w, float[1,20,5] r> "
            "{ y = LSTM<hidden_size=5>(x, w, r) }",
            w=ones(1, 20, 3), r=ones(1, 20, 5),
        ),
        7 * 20 * (3 + 5),
    ),
    "two computed operands": (
        model("(float[3,4] x, float[4,5] z) => (float[3,5] y) { y = MatMul(x, z) }"),
        3 * 4 * 5,
    ),
    "nothing to multiply": (model("(float[3] x) => (float[3] y) { y = Relu(x) }"), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_multiply_accumulates(name):
    found, macs = CASES[name]
    assert survey(found).macs == macs


def test_zeros_are_classified():
    weight = ones(8, 16)
    weight[:4, :12] = weight[4:, 4:] = 0
    found = survey(model("(float[1,8] x) => (float[1,16] y) <float[8,16] w> { y = MatMul(x, w) }", w=weight))
    (layer,) = found.layers
    assert (layer.pattern, layer.density, layer.shape, layer.bits) == ("block(4x4)", 0.25, (8, 16), 32)
    assert (found.zeros, found.parameters, found.weight_bytes) == (0.75, 128, 512)


def test_an_encoded_weight_says_its_own():
    codes = np.zeros((8, 8), np.int8)
    codes[:4] = 3
    tensor = EncodedTensor(
        "w", Encoding(Block(4, 4), Quant(8)), codes != 0, 0, codes=codes, scales=np.ones(8, np.float32)
    )
    made = model("(float[1,8] x) => (float[1,8] y) <float[8,8] w> { y = Gemm<transB=1>(x, w) }", w=ones(8, 8))
    made.graph.initializers["w"].const_value = tensor
    found = survey(made)
    (layer,) = found.layers
    assert (layer.pattern, layer.density, layer.bits) == ("block(4x4)", 0.5, 8)
    assert 32 + 32 <= found.weight_bytes < 32 + 32 + 16


def test_a_model_without_weights():
    found = survey(CASES["nothing to multiply"][0])
    assert (found.parameters, found.weight_bytes, found.zeros, found.layers) == (0, 0, 0.0, ())
