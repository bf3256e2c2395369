# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from sparsec.compiler.layers import layer_name, layers
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.passes.bias_correction import correct_biases
from sparsec.passes.prune_blocks import PruneBlocks
from sparsec.passes.quantize import Quantize

CASES = {
    "conv": ("float[1,8,5,5] x", "float[1,8,5,5] y", "y = Conv <pads = [1,1,1,1]> (x, w)", {"w": (8, 8, 3, 3)}),
    "conv with bias": ("float[1,8,5,5] x", "float[1,8,5,5] y", "y = Conv (x, w, b)", {"w": (8, 8, 1, 1), "b": (8,)}),
    "depthwise": ("float[1,8,5,5] x", "float[1,8,3,3] y", "y = Conv <group = 8> (x, w)", {"w": (8, 1, 3, 3)}),
    "gemm": ("float[3,8] x", "float[3,8] y", "y = Gemm (x, w, b)", {"w": (8, 8), "b": (8,)}),
    "matmul": ("float[1,3,8] x", "float[1,3,8] y", "m = MatMul (x, w) y = Add (b, m)", {"w": (8, 8), "b": (8,)}),
}


def _model(model_of, normal, kind):
    given, wanted, body, shapes = CASES[kind]
    weights = {name: normal(*shape, seed=n) + 0.5 for n, (name, shape) in enumerate(shapes.items())}
    return model_of(f"g ({given}) => ({wanted}) {{ {body} }}", **weights)


def _outputs(model, calibration):
    return np.stack(list(v["y"] for v in Oracle(model).stream(calibration.feeds(model)))).astype(np.float64)


def _channel_means(kind, array):
    axis = array.ndim - 1 if kind in ("gemm", "matmul") else 2
    return np.moveaxis(array, axis, 0).reshape(8, -1).mean(axis=1)


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize(
    "step", [Quantize(), PruneBlocks(density=0.5, min_weights=1, spatial=True, update="refit")], ids=lambda s: s.name
)
def test_mean_of_every_channel_is_the_originals(kind, step, model_of, normal, calibration):
    model = _model(model_of, normal, kind)
    samples = calibration(model, 9)
    result = PassManager([step]).run(model, PassContext(calibration=samples))
    if kind == "depthwise" and not result.changed:
        return
    want, got = _outputs(model, samples), _outputs(result.model, samples)
    assert np.abs(want - got).max() > 1e-3
    np.testing.assert_allclose(_channel_means(kind, got), _channel_means(kind, want), atol=1e-5)


def test_can_be_turned_off(model_of, normal, calibration):
    model = _model(model_of, normal, "gemm")
    result = PassManager([Quantize(correct_bias=False)]).run(model, PassContext(calibration=calibration(model)))
    before, after = (m.graph.initializers["b"].const_value.numpy() for m in (model, result.model))
    np.testing.assert_array_equal(before, after)


def test_shared_bias_is_left_to_the_other_reader(model_of, normal, calibration):
    text = "g (float[3,8] x) => (float[3,8] y, float[3,8] z) { y = Gemm (x, w, b) z = Add (x, b) }"
    model = model_of(text, w=normal(8, 8), b=normal(8))
    result = PassManager([Quantize()]).run(model, PassContext(calibration=calibration(model))).model
    (layer,) = layers(result)
    assert layer.node.inputs[2].name != "b"
    np.testing.assert_array_equal(result.graph.initializers["b"].const_value.numpy(), normal(8))


@pytest.mark.parametrize(
    "body",
    [
        "y = MatMul (x, w)",
        "y = Gemm <beta = 2.0> (x, w, b)",
        "c = Relu(x) y = Gemm (x, w, c)",
        "m = MatMul(x, w) y = Add(m, x)",
    ],
)
def test_layers_without_a_place_for_it_stay(body, model_of, normal, calibration):
    weights = {"w": normal(8, 8), "b": normal(8)}
    used = {name: array for name, array in weights.items() if f", {name}" in body}
    model = model_of(f"g (float[8,8] x) => (float[8,8] y) {{ {body} }}", **used)
    changed = model.clone()
    names = [layer_name(layer.node) for layer in layers(changed)]
    assert correct_biases(model, changed, names, calibration(model)) == set()
    assert all(
        a.const_value is b.const_value
        for a, b in zip(model.graph.initializers.values(), changed.graph.initializers.values(), strict=True)
    )
