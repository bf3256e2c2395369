# SPDX-License-Identifier: Apache-2.0
import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.encoding import Block, EncodedTensor
from sparsec.compiler.errors import PassError, RecipeError
from sparsec.compiler.layers import layers
from sparsec.compiler.pass_manager import PassManager
from sparsec.compiler.registry import parse_pass
from sparsec.passes.prune_blocks import PruneBlocks


def _prune(model, **options):
    return PassManager([PruneBlocks(**{"min_weights": 1, **options})]).run(model)


def _conv(model_of, normal, shape=(8, 12, 1, 1), attributes="", inputs=12):
    return model_of(
        f"g (float[1,{inputs},5,5] x) => (float[1,{shape[0]},5,5] y) {{ y = Conv {attributes} (x, w) }}",
        w=normal(*shape),
    )


STORED = {
    "Conv": ("float[1,12,3,3] x", "float[1,8,3,3] y", "y = Conv(x, w)", (8, 12, 1, 1), 0),
    "Gemm": ("float[3,12] x", "float[3,8] y", "y = Gemm <transB = 1> (x, w)", (8, 12), 0),
    "Gemm, inputs first": ("float[3,12] x", "float[3,8] y", "y = Gemm(x, w)", (12, 8), 1),
    "MatMul": ("float[2,3,12] x", "float[2,3,8] y", "y = MatMul(x, w)", (12, 8), 1),
}


@pytest.mark.parametrize("kind", STORED)
def test_keeps_the_strongest_blocks_of_outputs_by_inputs(kind, model_of, normal, run):
    given, wanted, body, shape, axis = STORED[kind]
    weight = normal(*shape)
    model = model_of(f"g ({given}) => ({wanted}) {{ {body} }}", w=weight)
    result = _prune(model, rows=4, cols=2, density=0.25)
    tensor = result.model.graph.initializers["w"].const_value
    assert isinstance(tensor, EncodedTensor)
    assert str(tensor.encoding) == "block(4x2)"
    assert tensor.axis == axis
    matrix = np.moveaxis(weight, axis, 0).reshape(8, 12)
    mask = tensor.matrix(tensor.mask)
    assert Block(4, 2).blocks(mask).sum() == 3
    sums = np.abs(matrix).reshape(2, 4, 6, 2).sum(axis=(1, 3))
    assert set(sums[Block(4, 2).blocks(mask)]) == set(np.sort(sums.ravel())[-3:])
    np.testing.assert_array_equal(tensor.matrix(), matrix * mask)
    dense = model.clone()
    dense.graph.initializers["w"].const_value = ir.tensor(tensor.numpy(), name="w")
    np.testing.assert_array_equal(run(result.model)["y"], run(dense)["y"])


def test_leaves_the_model_given_as_it_is(model_of, normal):
    weight = normal(8, 12, 1, 1)
    model = _conv(model_of, normal)
    _prune(model)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), weight)


def test_second_run_changes_nothing_and_a_lower_density_goes_on(model_of, normal):
    first = _prune(_conv(model_of, normal))
    again = _prune(first.model)
    assert not again.changed
    assert "already block(4x4)" in again.steps[0].records[0].note
    assert _prune(first.model, density=0.2).changed


SKIPS = {
    "larger than 1x1": ((8, 12, 3, 3), "<pads = [1,1,1,1]>", 12, {}),
    "a grouped convolution": ((12, 1, 3, 3), "<pads = [1,1,1,1], group = 12>", 12, {}),
    "fewer than min_weights=97": ((8, 12, 1, 1), "", 12, {"min_weights": 97}),
    "smaller than a block": ((3, 12, 1, 1), "", 12, {}),
    "in 'ignore'": ((8, 12, 1, 1), "", 12, {"ignore": ("*",)}),
}


@pytest.mark.parametrize("why", SKIPS)
def test_does_not_fire(why, model_of, normal):
    shape, attributes, inputs, options = SKIPS[why]
    result = _prune(_conv(model_of, normal, shape, attributes, inputs), **options)
    assert not result.changed
    (record,) = result.steps[0].records
    assert record.skipped
    assert why in record.note


def test_spatial_prunes_larger_kernels(model_of, normal):
    result = _prune(_conv(model_of, normal, (8, 12, 3, 3), "<pads = [1,1,1,1]>"), spatial=True)
    (layer,) = layers(result.model)
    assert layer.encoded is not None
    assert layer.matrix().shape == (8, 108)
    assert layer.encoded.density == 0.5


def test_weight_that_another_operator_reads_stays(model_of, normal):
    model = model_of("g (float[8,8] x) => (float[8,8] y) { m = MatMul(x, w) y = Add(m, w) }", w=normal(8, 8))
    result = _prune(model)
    assert not result.changed
    assert "also used by" in result.steps[0].records[0].note


@pytest.mark.parametrize(("number", "why"), [(np.nan, "holds NaN or infinity"), (np.inf, "holds NaN or infinity")])
def test_weight_that_is_not_finite_stays(number, why, model_of, normal):
    weight = normal(8, 12, 1, 1)
    weight[3, 3] = number
    model = model_of("g (float[1,12,5,5] x) => (float[1,8,5,5] y) { y = Conv (x, w) }", w=weight)
    result = _prune(model)
    assert not result.changed
    assert why in result.steps[0].records[0].note


def test_layers_that_share_a_weight_are_pruned_once(model_of, normal):
    model = model_of("g (float[8,8] x) => (float[8,8] y) { m = MatMul(x, w) y = MatMul(m, w) }", w=normal(8, 8))
    result = _prune(model)
    assert [record.skipped for record in result.steps[0].records] == [False]
    assert len({id(layer.tensor) for layer in layers(result.model)}) == 1


def test_ignored_layer_must_exist(model_of, normal):
    model = _conv(model_of, normal)
    name = model.graph[0].name
    with pytest.raises(PassError, match=f"'ignore': Unknown layer '{name}x'; .* Did you mean '{name}'"):
        _prune(model, ignore=(f"{name}x",))


BAD = {
    "density=0": "Pass 'prune-blocks': option 'density' is 0, expected more than 0 and at most 1.",
    "density=1.5": "Pass 'prune-blocks': option 'density' is 1.5, expected more than 0 and at most 1.",
    "rows=0": "Pattern 'block(0x4)': expected sides of at least 1.",
    "score=wander": "Pass 'prune-blocks', option 'score': Unknown value 'wander'; expected one of: hessian, magnitude, "
    "ria, wanda. Did you mean 'wanda'?",
    "row=4": "Pass 'prune-blocks': Unknown option 'row'; expected one of: cols, correct_bias, densities, density, "
    "ignore, min_weights, only, rows, scope, score, spatial, update. Did you mean 'rows'?",
    'densities=["a=0"]': "Pass 'prune-blocks': option 'densities' holds 'a=0', expected LAYER=NUMBER with a number "
    "of more than 0 and at most 1.",
    "densities=[0.5]": "Pass 'prune-blocks': option 'densities' holds '0.5', expected LAYER=NUMBER with a number "
    "of more than 0 and at most 1.",
}


@pytest.mark.parametrize("option", BAD)
def test_bad_option_gives_this_message(option):
    with pytest.raises(RecipeError) as caught:
        parse_pass(f"prune-blocks{{{option}}}")
    assert str(caught.value) == BAD[option]
