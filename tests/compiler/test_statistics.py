# SPDX-License-Identifier: Apache-2.0
import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.errors import DataError
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.layers import layers
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.statistics import LayerStatistics, _view, collect, input_vectors, quietened

RANDOM = np.random.RandomState(0)


def model_of(graph, **weights):
    text = f'<ir_version: 10, opset_import: ["": 21]>\n{graph}'
    tensors = [ir.tensor(array, name=name) for name, array in weights.items()]
    return load_onnx(ir.from_onnx_text(text, initializers=tensors))


def normal(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


CONVOLUTIONS = {
    "1x1": ((8, 6, 1, 1), ""),
    "3x3": ((8, 6, 3, 3), "<pads = [1, 1, 1, 1]>"),
    "uneven": ((8, 6, 3, 5), "<pads = [0, 1, 1, 2], strides = [2, 1]>"),
    "dilated": ((8, 6, 3, 2), "<dilations = [2, 3], strides = [1, 2]>"),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_vectors_times_the_weight_are_the_convolution(kind):
    shape, attributes = CONVOLUTIONS[kind]
    model = model_of(
        f"g (float[1,6,9,11] x) => (float[a,b,c,d] y) {{ y = Conv {attributes} (x, w) }}", w=normal(*shape)
    )
    (layer,) = layers(model)
    feed = {"x": normal(1, 6, 9, 11)}
    want = Oracle(model).run(feed)["y"]
    got = input_vectors(_view(layer), feed["x"]) @ layer.matrix().T
    np.testing.assert_allclose(got.T.reshape(want.shape), want, rtol=1e-4, atol=1e-4)


def test_sums_over_all_samples_and_tokens():
    model = model_of(
        "g (float[1,5,6] x) => (float[1,5,8] y) { h = MatMul(x, v) r = Relu(h) y = MatMul(r, w) }",
        v=normal(6, 7), w=normal(7, 8),
    )  # fmt: skip
    data = Calibration({"x": normal(4, 1, 5, 6)})
    first, second = collect(model, data, layers(model), hessian=True).values()
    x = data.arrays["x"].reshape(-1, 6).astype(np.float64)
    assert first.rows == second.rows == 20
    np.testing.assert_allclose(first.squares, (x**2).sum(0), rtol=1e-6)
    np.testing.assert_allclose(first.absolutes, np.abs(x).sum(0), rtol=1e-6)
    np.testing.assert_array_equal(first.peaks, np.abs(x).max(0))
    np.testing.assert_allclose(first.norms, np.sqrt((x**2).mean(0)), rtol=1e-6)
    np.testing.assert_allclose(first.hessian, 2 / 20 * x.T @ x, rtol=1e-5, atol=1e-6)
    hidden = np.maximum(x @ model.graph.initializers["v"].const_value.numpy(), 0)
    np.testing.assert_allclose(second.hessian, 2 / 20 * hidden.T @ hidden, rtol=1e-4, atol=1e-5)


def test_layers_that_read_one_value_share_their_statistics():
    model = model_of(
        "g (float[5,6] x) => (float[5,7] y) { a = MatMul(x, v) b = MatMul(x, w) y = Add(a, b) }",
        v=normal(6, 7), w=normal(6, 7),
    )  # fmt: skip
    found = list(collect(model, Calibration({"x": normal(3, 5, 6)}), layers(model)).values())
    assert found[0] is found[1]
    assert found[0].products is None


def test_an_input_that_is_not_finite_is_an_error():
    model = model_of("g (float[5,6] x) => (float[5,7] y) { h = Exp(x) y = MatMul(h, w) }", w=normal(6, 7))
    with pytest.raises(DataError, match=r"Value 'h' is not finite on calibration sample 0\."):
        collect(model, Calibration({"x": np.full((3, 5, 6), 100, np.float32)}), layers(model))


def test_sums_of_squares_over_the_range_of_float32_are_an_error(recwarn):
    model = model_of("g (float[5,6] x) => (float[5,7] y) { y = MatMul(x, w) }", w=normal(6, 7))
    data = Calibration({"x": np.full((3, 5, 6), 1e25, np.float32)})
    assert len(collect(model, data, layers(model))) == 1
    with pytest.raises(DataError) as caught:
        collect(model, data, layers(model), hessian=True)
    assert str(caught.value) == (
        "Value 'x' reaches 1e+25 on calibration sample 0, and sums of its squares overflow float32. "
        "Give samples on the scale of the model's real inputs."
    )
    assert not recwarn.list


@pytest.mark.parametrize("noise", [1e-6, 1e-4, 1e-1])
def test_inputs_that_do_not_vary_as_far_as_float32_can_tell_are_not_centred(noise):
    vectors, known = 1 + noise * normal(200, 6), LayerStatistics.empty(6, hessian=True)
    for start in range(0, 200, 50):
        known.add(vectors[start : start + 50].astype(np.float32))
    wanted = 2 * np.cov(vectors.T, bias=True) if noise > 1e-3 else known.hessian
    np.testing.assert_allclose(known.centred_hessian, wanted, atol=1e-3 * noise**2)


def test_one_loud_vector_counts_no_more_than_ten_of_the_usual():
    vectors = normal(200, 6)
    vectors[0] *= 1000
    energy = np.square(quietened(vectors)).sum(axis=1)
    usual = np.quantile(np.square(vectors).sum(axis=1), 0.9)
    np.testing.assert_allclose(energy[0], 10 * usual, rtol=1e-5)
    np.testing.assert_array_equal(quietened(vectors)[1:], vectors[1:])
    known = LayerStatistics.empty(6, hessian=True)
    known.add(vectors)
    np.testing.assert_allclose(known.hessian.trace(), 2 / 200 * energy.sum(), rtol=1e-5)
    np.testing.assert_array_equal(known.peaks, np.abs(vectors).max(axis=0))


@pytest.mark.parametrize("loud", [30, 200])
def test_vectors_that_are_loud_in_number_stay_as_they_are(loud):
    vectors = normal(200, 6)
    vectors[:loud] *= 1000
    assert quietened(vectors) is vectors
    vectors[loud:] = 0
    assert quietened(vectors) is vectors


def test_vectors_stay_where_most_are_zero():
    vectors = normal(200, 6)
    vectors[5:] = 0
    assert quietened(vectors) is vectors
