# SPDX-License-Identifier: Apache-2.0
import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.sweep.dead_units import DeadUnits, find_dead_units

RANDOM = np.random.RandomState(0)


def model_of(graph, **weights):
    text = f'<ir_version: 10, opset_import: ["": 21]>\n{graph}'
    tensors = [ir.tensor(np.asarray(array, np.float32), name=name) for name, array in weights.items()]
    model = load_onnx(ir.from_onnx_text(text, initializers=tensors))
    for node in model.graph:
        node.name = node.outputs[0].name
    return model


def convolution(activation, bias):
    limits = {name: value for name, value in {"zero": 0.0, "six": 6.0}.items() if name in activation}
    graph = f"g (float[1,2,5,5] x) => (float[1,4,5,5] y) {{ c = Conv(x, w, b) y = {activation} }}"
    return model_of(graph, w=RANDOM.rand(4, 2, 1, 1), b=bias, **limits)


@pytest.fixture
def samples():
    return Calibration({"x": RANDOM.rand(6, 2, 5, 5).astype(np.float32)})


@pytest.mark.parametrize("activation", ["Relu(c)", "Clip(c, zero, six)", "HardSwish(c)"])
def test_channels_that_never_fire_are_dead(activation, samples):
    found = find_dead_units(convolution(activation, [0, -99, 0, -99]), samples)["c"]
    assert (found.units, found.dead, found.silent) == (4, 0.5, 0.5)


def test_one_sample_that_fires_is_enough(samples):
    arrays = samples.arrays["x"].copy()
    arrays[5, :, 2, 3] = 200
    found = find_dead_units(convolution("Relu(c)", [0, -9, 0, -9]), Calibration({"x": arrays}))["c"]
    assert found.dead == 0
    assert found.silent == pytest.approx(0.5 - 2 / (4 * 25 * 6))


@pytest.mark.parametrize("activation", ["LeakyRelu(c)", "Clip(c, six)", "Sigmoid(c)"])
def test_other_activations_have_no_dead_units(activation, samples):
    assert find_dead_units(convolution(activation, [0, -99, 0, -99]), samples) == {}


def test_a_sum_with_a_constant_may_stand_between(samples):
    model = model_of(
        "g (float[1,3,4] x) => (float[1,3,5] y) { m = MatMul(x, w) s = Add(m, b) y = Relu(s) }",
        w=RANDOM.rand(4, 5),
        b=[-99, 0, 0, 0, 0],
    )
    found = find_dead_units(model, Calibration({"x": RANDOM.rand(3, 3, 4).astype(np.float32)}))
    assert found == {"m": DeadUnits(5, pytest.approx(0.2), pytest.approx(0.2))}


def test_a_residual_has_no_units_of_one_layer():
    model = model_of(
        "g (float[1,3,4] x) => (float[1,3,4] y) { m = MatMul(x, w) s = Add(m, x) y = Relu(s) }", w=RANDOM.rand(4, 4)
    )
    assert find_dead_units(model, Calibration({"x": RANDOM.rand(3, 3, 4).astype(np.float32)})) == {}
