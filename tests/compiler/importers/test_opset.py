# SPDX-License-Identifier: Apache-2.0
"""Models of all opsets become models of one, with the numbers they had."""

from collections.abc import Callable

import onnx
import onnx_ir as ir
import pytest

from sparsec.compiler.errors import UnsupportedError
from sparsec.compiler.importers.onnx import load_onnx

Parse = Callable[..., onnx.ModelProto]
Import = Callable[..., ir.Model]

IMAGE = "g (float[1,2,6,6] x) => (float[A,B,C,D] y)"
MATRIX = "g (float[4,6] x) => (float[A,B] y)"
CUBE = "g (float[2,3,4] x) => (float[A,B,C] y)"
OLD = {
    "softmax": (11, CUBE + " { y = Softmax <axis = 1> (x) }"),
    "softmax default": (11, CUBE + " { y = Softmax(x) }"),
    "log softmax": (11, CUBE + " { y = LogSoftmax <axis = 0> (x) }"),
    "hardmax": (11, CUBE + " { y = Hardmax <axis = 1> (x) }"),
    "upsample 7": (7, IMAGE + ' { y = Upsample <mode = "nearest", scales = [1.0, 1.0, 2.0, 2.0]> (x) }'),
    "upsample 9 nearest": (9, IMAGE + ' <float[4] s = {1,1,2,3}> { y = Upsample <mode = "nearest"> (x, s) }'),
    "upsample 9 linear": (9, IMAGE + ' <float[4] s = {1,1,2,2}> { y = Upsample <mode = "linear"> (x, s) }'),
    "resize 10 linear": (10, IMAGE + ' <float[4] s = {1,1,2,2}> { y = Resize <mode = "linear"> (x, s) }'),
    "resize 10 down": (10, IMAGE + ' <float[4] s = {1,1,0.6,0.6}> { y = Resize <mode = "nearest"> (x, s) }'),
    "resize 11": (
        11,
        IMAGE + ' <float[4] s = {1,1,0.6,1.5}, float[0] r = {}> { y = Resize <mode = "cubic"> (x, r, s) }',
    ),
    "average pool 7": (7, IMAGE + " { y = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (x) }"),
    "max pool 8": (8, IMAGE + " { y = MaxPool <kernel_shape = [3,3], strides = [2,2]> (x) }"),
    "lp pool 11": (11, IMAGE + " { y = LpPool <kernel_shape = [3,3], p = 3> (x) }"),
    "global lp pool 2": (18, IMAGE + " { y = GlobalLpPool <p = 3> (x) }"),
    "clip 6": (7, MATRIX + " { y = Clip <max = 0.5, min = -0.2> (x) }"),
    "dropout 7": (7, MATRIX + " { z = Dropout(x) y = Relu(z) }"),
    "slice 9": (9, MATRIX + " { y = Slice <axes = [0,1], starts = [1,-3], ends = [3,1000]> (x) }"),
    "pad 2": (10, MATRIX + " { y = Pad <pads = [1,2,1,1], value = 2.0> (x) }"),
    "reduce mean 11": (11, MATRIX + " { y = ReduceMean <axes = [-2]> (x) }"),
    "reduce sum 11": (11, MATRIX + " { y = ReduceSum <axes = [1]> (x) }"),
    "unsqueeze 11": (11, "g (float[4] x) => (float[A,B] y) { y = Unsqueeze <axes = [0]> (x) }"),
    "split 2": (11, "g (float[4,6] x) => (float[4,2] a, float[4,4] b) { a, b = Split <axis = 1, split = [2,4]> (x) }"),
    "topk 9": (9, MATRIX + " { y, i = TopK <axis = 1, k = 2> (x) }"),
    "quantize 10": (
        10,
        MATRIX + " <float s = {0.1}, uint8 z = {3}> { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
    ),
    "gemm 7": (
        7,
        "g (float[4,6] x, float[5,6] w, float[5] b) => (float[A,B] y) { y = Gemm <transB = 1> (x, w, b) }",
    ),
    "batch normalization 7": (
        7,
        "g (float[2,3,4] x, float[3] s, float[3] b, float[3] m) => (float[2,3,4] y) "
        "{ v = Abs(m) y = BatchNormalization(x, s, b, m, v) }",
    ),
    "lstm 7": (
        7,
        "g (float[3,1,2] x, float[1,8,2] w, float[1,8,2] r) => (float[3,1,1,2] y) "
        "{ y = LSTM <hidden_size = 2> (x, w, r) }",
    ),
    "grid sample 16": (
        16,
        'g (float[1,1,4,4] x, float[1,3,3,2] p) => (float[1,1,3,3] y) { y = GridSample <mode = "bilinear"> (x, p) }',
    ),
    "group normalization 18": (
        18,
        "g (float[2,4,3,3] x, float[2] s, float[2] b) => (float[2,4,3,3] y) "
        "{ y = GroupNormalization <num_groups = 2> (x, s, b) }",
    ),
    "dft 17": (17, "g (float[1,8,1] x) => (float[A,B,C] y) { y = DFT <axis = 1, onesided = 1> (x) }"),
    "branches 11": (
        11,
        "g (float[1,4] x, bool c) => (float[4] y) { y = If(c) <then_branch = t () => (float[4] a) "
        "{ a = Squeeze <axes = [0]> (x) }, else_branch = e () => (float[4] b) "
        "{ n = Neg(x) b = Squeeze <axes = [0]> (n) }> }",
    ),
    "scan 9": (
        9,
        "g (float[3,2] x) => (float[2] y) <float[2] i = {0,0}> { y, z = Scan <num_scan_inputs = 1, "
        "body = b (float[2] a, float[2] s) => (float[2] o, float[2] p) { o = Add(a, s) p = Identity(o) }> (i, x) }",
    ),
}


@pytest.mark.parametrize("name", sorted(OLD))
def test_old_operator(parse: Parse, import_same: Import, name: str) -> None:
    opset, graph = OLD[name]
    import_same(parse(graph, opset))


@pytest.mark.parametrize("opset", range(6, 29))
def test_every_opset(parse: Parse, import_same: Import, opset: int) -> None:
    model = import_same(parse("g (float[2,4] x) => (float[2,4] y) { a = Relu(x) y = Softmax <axis = 1> (a) }", opset))
    assert [node.op_type for node in model.graph] == ["Relu", "Softmax"]
    assert model.opset_imports[""] == 27


@pytest.mark.parametrize(
    ("opset", "graph", "match"),
    [
        (
            28,
            'g (int32[4] x, int32[4] z) => (int32[4] y) { y = BitShift <direction = "LEFT"> (x, z) }',
            "'BitShift': conv",
        ),
        (28, "g (float[4] x, float[4] z) => (float[4] y) { y = Mod(x, z) }", "'Mod': .* Mod with floating-point"),
        (10, IMAGE + ' <float[4] s = {1,1,0.6,2}> { y = Resize <mode = "nearest"> (x, s) }', "'Resize'.*grows and shr"),
    ],
)
def test_no_counterpart(parse: Parse, opset: int, graph: str, match: str) -> None:
    with pytest.raises(UnsupportedError, match=match):
        load_onnx(parse(graph, opset))


def test_newer_function_is_expanded(parse: Parse) -> None:
    model = load_onnx(parse("g (float[2,8] x, float[2,8] z) => (float[2,8] y) { y = SwiGLU(x, z) }", 28))
    assert "SwiGLU" not in {node.op_type for node in model.graph}
