# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from sparsec.compiler.encoding import EncodedTensor
from sparsec.compiler.errors import RecipeError
from sparsec.compiler.pass_manager import PassManager
from sparsec.compiler.registry import parse_pass
from sparsec.passes.fold_batchnorm import FoldBatchnorm
from sparsec.passes.prune_blocks import PruneBlocks

BN = "y = BatchNormalization <epsilon = 0.001> (c, scale, shift, mean, variance)"


def _norm(normal, channels):
    return {
        "scale": normal(channels, seed=2),
        "shift": normal(channels, seed=3),
        "mean": normal(channels, seed=4),
        "variance": np.abs(normal(channels, seed=6)) + 0.5,
    }


def _fold(model):
    return PassManager([FoldBatchnorm()]).run(model)


LAYERS = {
    "conv": ("float[1,4,5,5] x", "float[1,6,5,5] y", "c = Conv <pads = [1,1,1,1]> (x, w)", {"w": (6, 4, 3, 3)}),
    "grouped": (
        "float[1,4,5,5] x",
        "float[1,6,5,5] y",
        "c = Conv <group = 2> (x, w, b)",
        {"w": (6, 2, 1, 1), "b": (6,)},
    ),
    "transposed": (
        "float[1,4,5,5] x",
        "float[1,6,6,6] y",
        "c = ConvTranspose <group = 2> (x, w, b)",
        {"w": (4, 3, 2, 2), "b": (6,)},
    ),
    "gemm": (
        "float[3,4] x",
        "float[3,6] y",
        "c = Gemm <alpha = 0.5, beta = 2.0> (x, w, b)",
        {"w": (4, 6), "b": (6,)},
    ),
    "gemm-transposed": ("float[3,4] x", "float[3,6] y", "c = Gemm <transB = 1> (x, w, b)", {"w": (6, 4), "b": (3, 6)}),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_folds_with_equal_numbers(kind, model_of, normal, run, ops):
    given, wanted, layer, shapes = LAYERS[kind]
    weights = {name: normal(*shape, seed=n) for n, (name, shape) in enumerate(shapes.items())}
    model = model_of(f"g ({given}) => ({wanted}) {{ {layer} {BN} }}", **weights, **_norm(normal, 6))
    result = _fold(model)
    assert ops(result.model) == [layer.split()[2]]
    assert [value.name for value in result.model.graph.outputs] == ["y"]
    assert set(result.model.graph.initializers) >= {"w"}
    assert "scale" not in result.model.graph.initializers
    np.testing.assert_allclose(run(result.model)["y"], run(model)["y"], rtol=1e-5, atol=1e-5)


def test_second_run_changes_nothing(model_of, normal):
    model = model_of(
        f"g (float[1,4,5,5] x) => (float[1,6,5,5] y) {{ c = Conv(x, w) {BN} }}",
        w=normal(6, 4, 1, 1),
        **_norm(normal, 6),
    )
    first = _fold(model)
    assert first.changed
    assert not _fold(first.model).changed


GUARDS = {
    "used elsewhere": ("float[1,4,2,2] y, float[1,4,2,2] z", f"c = Conv(x, w) z = Relu(c) {BN}"),
    "no convolution": ("float[1,4,2,2] y", f"c = Relu(x) {BN}"),
    "run time": ("float[1,4,2,2] y", f"v = Reshape(x, s) c = Conv(x, v) {BN}"),
}


@pytest.mark.parametrize("why", GUARDS)
def test_does_not_fire(why, model_of, normal, ops):
    outputs, body = GUARDS[why]
    weights = _norm(normal, 4)
    if "(x, w)" in body:
        weights["w"] = normal(4, 4, 1, 1)
    if "Reshape" in body:
        weights["s"] = np.array([4, 4, 1, 1])
    model = model_of(f"g (float[1,4,2,2] x) => ({outputs}) {{ {body} }}", **weights)
    result = _fold(model)
    assert not result.changed
    assert ops(result.model) == ops(model)
    assert why in result.steps[0].records[0].note


def test_shared_weight_is_left_to_the_other_layer(model_of, normal, run):
    body = f"c = Conv(x, w) {BN} z = Conv(x, w)"
    model = model_of(
        f"g (float[1,4,2,2] x) => (float[1,4,2,2] y, float[1,4,2,2] z) {{ {body} }}",
        w=normal(4, 4, 1, 1),
        **_norm(normal, 4),
    )
    result = _fold(model)
    assert result.changed
    np.testing.assert_array_equal(run(result.model)["z"], run(model)["z"])
    np.testing.assert_allclose(run(result.model)["y"], run(model)["y"], rtol=1e-5, atol=1e-5)


def test_a_pruned_weight_keeps_its_pattern(model_of, normal):
    model = model_of(
        f"g (float[1,8,5,5] x) => (float[1,8,5,5] y) {{ c = Conv(x, w) {BN} }}",
        w=normal(8, 8, 1, 1),
        **_norm(normal, 8),
    )
    result = PassManager([PruneBlocks(min_weights=1), FoldBatchnorm()]).run(model)
    tensor = result.model.graph.initializers["w"].const_value
    assert isinstance(tensor, EncodedTensor)
    assert str(tensor.encoding) == "block(4x4)"
    assert tensor.density == 0.5


def test_has_no_options():
    with pytest.raises(
        RecipeError, match=r"Pass 'fold-batchnorm': Unknown option 'epsilon'; expected one of: \(none\)."
    ):
        parse_pass("fold-batchnorm{epsilon=1}")
