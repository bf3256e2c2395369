# SPDX-License-Identifier: Apache-2.0
"""Operators in terms of others, against onnxruntime or ONNX's reference."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx.parser import parse_model
from onnx.reference import ReferenceEvaluator

from sparsec.compiler.graph import dtype_of, shape_of
from sparsec.compiler.importers import load_model
from sparsec.compiler.lowering.decompose import decompose
from sparsec.compiler.oracle import Oracle

HEAD = '<ir_version: 10, opset_import: ["" : 21]> '
SIGNAL = "g (float[2,9,{parts}] x) => (float[?,?,?] y) <int64 n = {{{n}}}, int64 axis = {{1}}>"
CASES = {
    "dft": SIGNAL.format(parts=1, n=9) + "{ y = DFT(x, n, axis) }",
    "dft of a longer signal": SIGNAL.format(parts=2, n=6) + "{ y = DFT(x, n, axis) }",
    "dft of a shorter signal": SIGNAL.format(parts=2, n=12) + "{ y = DFT <onesided = 0> (x, n, axis) }",
    "inverse dft": SIGNAL.format(parts=2, n=9) + "{ y = DFT <inverse = 1> (x, n, axis) }",
    "one-sided dft": SIGNAL.format(parts=1, n=9) + "{ y = DFT <onesided = 1> (x, n, axis) }",
    "stft": """g (float[1,32,1] x) => (float[?,?,?,?] y) <int64 step = {5}, int64 n = {8}>
        { y = STFT <onesided = 1> (x, step, , n) }""",
    "det": "g (float[3,4,4] x) => (float[3] y) { y = Det(x) }",
    "col2im": """g (float[1,18,6] x) => (float[?,?,?,?] y) <int64[2] image = {5,6}, int64[2] block = {3,3}>
        { y = Col2Im <pads = [1,0,0,1], strides = [2,2], dilations = [1,1]> (x, image, block) }""",
    "reverse sequence": """g (float[4,3,2] x) => (float[4,3,2] y) <int64[3] n = {4,2,1}>
        { y = ReverseSequence <time_axis = 0, batch_axis = 1> (x, n) }""",
    "eye": "g (float[3,5] x) => (float[3,5] y) { e = EyeLike <k = 1> (x) y = Add(e, x) }",
    "cubic": """g (float[1,1,7,5] x) => (float[?,?,?,?] y) <int64[4] size = {1,1,4,9}>
        { y = Resize <mode = "cubic"> (x, , , size) }""",
    "antialias": """g (float[1,1,9,8] x) => (float[?,?,?,?] y) <int64[4] size = {1,1,4,3}>
        { y = Resize <mode = "linear", antialias = 1> (x, , , size) }""",
    "three axes": """g (float[1,1,3,4,5] x) => (float[?,?,?,?,?] y) <int64[5] size = {1,1,6,2,7}>
        { y = Resize <mode = "linear"> (x, , , size) }""",
}


def imported(text: str) -> ir.Model:
    return load_model(parse_model(HEAD + text.replace("float[?,", "float[N,").replace(",?", ",M")))


@pytest.mark.parametrize("name", CASES)
def test_same_as_onnxruntime(name: str) -> None:
    model = imported(CASES[name])
    made = decompose(model, lambda _: False)
    generator = np.random.default_rng(2)
    feeds = {v.name: generator.standard_normal(shape_of(v)).astype(dtype_of(v)) for v in model.graph.inputs}
    given = {node.op_type for node in model.graph} - {"Add"}
    assert not given & {node.op_type for node in made.graph}
    expected, found = Oracle(model).run(feeds), Oracle(made).run(feeds)
    for output, array in expected.items():
        assert found[output].shape == array.shape
        np.testing.assert_allclose(found[output], array, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("options", ["", "exclusive = 1", "reverse = 1", "exclusive = 1, reverse = 1"])
def test_cumulative_product(options: str) -> None:
    text = '<ir_version: 12, opset_import: ["" : 26]> g (float[2,5] x) => (float[2,5] y) <int64 axis = {1}>'
    proto = parse_model(f"{text} {{ y = CumProd <{options}> (x, axis) }}".replace("<>", ""))
    x = np.random.default_rng(3).standard_normal((2, 5)).astype(np.float32)
    expected = ReferenceEvaluator(proto).run(None, {"x": x})[0]
    found = Oracle(decompose(load_model(proto), lambda _: False)).run({"x": x})["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_has_a_kernel_stays() -> None:
    model = imported(CASES["cubic"])
    assert decompose(model, lambda _: True) is model


def test_corners_aligned_by_uneven_scales_stay() -> None:
    text = """g (float[1,1,2,4] x) => (float[?,?,?,?] y) <float[4] s = {1.0,1.0,0.6,0.6}>
        { y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , s) }"""
    model = imported(text)
    assert decompose(model, lambda _: False) is model
