# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from sparsec.compiler.encoding import EncodedTensor, Quant
from sparsec.compiler.errors import DataError, PassError, RecipeError
from sparsec.compiler.exchange import from_qdq, to_onnx
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.instruments import Verify
from sparsec.compiler.layers import layers
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.compiler.registry import parse_pass
from sparsec.passes.fold_batchnorm import FoldBatchnorm
from sparsec.passes.fold_constants import FoldConstants
from sparsec.passes.fuse_layernorm import FuseLayernorm
from sparsec.passes.prune_blocks import PruneBlocks
from sparsec.passes.quantize import Quantize
from sparsec.passes.weight_grids import fit

CHAIN = "g (float[1,8,6,6] x) => (float[1,4,6,6] y) { a = Conv(x, v) b = Relu(a) y = Conv(b, w) }"
RESIDUAL = (
    "g (float[1,8,6,6] x) => (float[1,8,6,6] y) "
    "{ a = Conv(x, v) b = Clip(a, zero, six) c = Conv(b, w) s = Add(c, b) y = Conv(s, u) }"
)


def _chain(model_of, normal):
    return model_of(CHAIN, v=normal(8, 8, 1, 1), w=normal(4, 8, 1, 1, seed=9))


def _residual(model_of, normal, high=6.0):
    weights = {"v": normal(8, 8, 1, 1) * 5, "w": normal(8, 8, 1, 1, seed=8), "u": normal(8, 8, 1, 1, seed=9)}
    return model_of(RESIDUAL, **weights, zero=np.float32(0), six=np.float32(high))


@pytest.fixture
def quantize(calibration):
    def quantize(model, *before, **options):
        context = PassContext(calibration=calibration(model))
        return PassManager([*before, Quantize(**options)], [Verify()]).run(model, context)

    return quantize


def _error(want, got):
    return np.linalg.norm(want - got) / np.linalg.norm(want)


@pytest.mark.parametrize("range_", ["minmax", "percentile", "mse"])
def test_structure_and_numbers(range_, model_of, normal, run, ops, quantize):
    model = _chain(model_of, normal)
    result = quantize(model, range=range_)
    pair = ["Clip", "QuantizeLinear", "DequantizeLinear"]
    assert ops(result.model) == [*pair, "Conv", "Relu", *pair, "Conv"]
    assert _error(run(model)["y"], run(result.model)["y"]) < 0.02
    assert [record.note for record in result.steps[0].records] == ["dense x int8(channel)"] * 2


def test_weights_are_codes_times_scales(model_of, normal, quantize):
    model = _chain(model_of, normal)
    for before, after in zip(layers(model), layers(quantize(model).model), strict=True):
        tensor = after.tensor
        assert isinstance(tensor, EncodedTensor)
        assert tensor.codes.dtype == np.int8
        assert np.abs(tensor.matrix(tensor.codes)).max(axis=1).tolist() == [127] * len(tensor.scales)
        wide = tensor.scales.reshape(-1, 1, 1, 1)
        np.testing.assert_array_equal(tensor.numpy(), tensor.codes.astype(np.float32) * wide)
        assert (np.abs(before.tensor.numpy() - tensor.numpy()) <= wide * 0.501).all()


def test_activation_codes_have_seven_bits_even_far_outside_the_calibrated_range(model_of, normal, quantize):
    result = quantize(_residual(model_of, normal))
    codes = [v.name for node in result.model.graph if node.op_type == "QuantizeLinear" for v in node.outputs]
    oracle = Oracle(result.model, codes)
    seen = [oracle.run({"x": normal(1, 8, 6, 6) * scale}) for scale in (0, 1, 100, -1e6)]
    arrays = [values[name] for values in seen for name in codes]
    assert all(array.dtype == np.uint8 for array in arrays)
    assert max(int(array.max()) for array in arrays) == 127


def test_clip_that_is_there_sets_the_range(model_of, normal, quantize, ops):
    model = quantize(_residual(model_of, normal)).model
    node = next(n for n in model.graph if n.op_type == "QuantizeLinear" and n.inputs[0].producer().name == "b")
    assert node.inputs[0].name == "b"
    assert node.inputs[1].const_value.numpy() == np.float32(6 / 127)
    assert node.inputs[2].const_value.numpy() == np.uint8(0)
    assert ops(model).count("Clip") == 1 + 2


def test_clip_far_above_what_was_seen_does_not_set_the_range(model_of, normal, quantize, ops):
    model = quantize(_residual(model_of, normal, high=1e4)).model
    assert ops(model).count("Clip") == 1 + 3


def test_one_pair_serves_all_readers_and_the_sum_stands_between_pairs(model_of, normal, quantize, ops):
    model = quantize(_residual(model_of, normal)).model
    assert ops(model).count("QuantizeLinear") == 3
    add = next(node for node in model.graph if node.op_type == "Add")
    conv, shared = add.inputs
    assert conv.producer().op_type == "Conv"
    assert shared.producer().op_type == "DequantizeLinear"
    assert {user.op_type for user, _ in shared.uses()} == {"Conv", "Add"}
    (after,) = add.outputs[0].consumers()
    assert (after.op_type, after.outputs[0].consumers()[0].op_type) == ("Clip", "QuantizeLinear")


def test_outputs_stay_float_and_names_stay(model_of, normal, quantize):
    text = "g (float[2,8] x) => (float[2,8] h, float[2,8] y) { h = MatMul(x, v) y = MatMul(h, w) }"
    model = model_of(text, v=normal(8, 8), w=normal(8, 8, seed=2))
    result = quantize(model).model
    assert [(v.name, v.producer().op_type) for v in result.graph.outputs] == [("h", "MatMul"), ("y", "MatMul")]
    assert [n.name for n in result.graph if n.op_type == "MatMul"] == [n.name for n in model.graph]
    assert set(model.graph.initializers) <= set(result.graph.initializers)


def test_every_value_has_type_and_shape(model_of, normal, quantize):
    for node in quantize(_residual(model_of, normal)).model.graph:
        for value in node.outputs:
            assert value.dtype is not None
            assert value.shape is not None


def test_keeps_the_pattern_of_a_pruned_weight(model_of, normal, quantize):
    result = quantize(_chain(model_of, normal), PruneBlocks(density=0.25, min_weights=33)).model
    first, second = layers(result)
    assert str(first.encoded.encoding) == "block(4x4) x int8(channel)"
    assert first.encoded.density == 0.25
    assert str(second.encoded.encoding) == "dense x int8(channel)"


def test_finds_zeros_that_are_in_a_weight_already(model_of, normal, quantize):
    weight = normal(8, 8, 1, 1)
    weight[:4, :4] = 0
    text = "g (float[1,8,6,6] x) => (float[1,8,6,6] y) { y = Conv(x, w) }"
    (layer,) = layers(quantize(model_of(text, w=weight)).model)
    assert str(layer.encoded.encoding) == "block(4x4) x int8(channel)"
    assert layer.encoded.density == 0.75


def test_round_trip_through_plain_onnx_keeps_encodings_and_numbers(model_of, normal, quantize, run, ops):
    model = quantize(_residual(model_of, normal), PruneBlocks(density=0.5, min_weights=1)).model
    proto = to_onnx(model)
    assert sum(n.op_type == "DequantizeLinear" for n in proto.graph.node) == 6
    again = from_qdq(load_onnx(proto))
    assert ops(again) == ops(model)
    for before, after in zip(layers(model), layers(again), strict=True):
        assert before.encoded.encoding == after.encoded.encoding
        np.testing.assert_array_equal(before.encoded.codes, after.encoded.codes)
        np.testing.assert_array_equal(before.encoded.scales, after.encoded.scales)
        np.testing.assert_array_equal(before.mask, after.mask)
    np.testing.assert_array_equal(run(again)["y"], run(model)["y"])


def test_exact_passes_afterwards_keep_the_encodings(model_of, normal, quantize, ops):
    model = quantize(_residual(model_of, normal), PruneBlocks(density=0.5, min_weights=1)).model
    result = PassManager([FoldConstants(), FoldBatchnorm(), FuseLayernorm()]).run(model)
    assert not result.changed
    assert [layer.tensor for layer in layers(result.model)] == [layer.tensor for layer in layers(model)]


def test_second_run_changes_nothing(model_of, normal, quantize):
    first = quantize(_chain(model_of, normal)).model
    again = quantize(first)
    assert not again.changed
    assert {record.note for record in again.steps[0].records} == {"it is already quantized"}


SKIPS = {
    "in 'ignore'": ("g (float[2,8] x) => (float[2,8] y) { y = MatMul(x, w) }", {"ignore": ("*",)}),
    "computed at run time": ("g (float[2,8] x, float[8,8] z) => (float[2,8] y) { y = MatMul(x, z) }", {}),
    "first operand is constant": ("g (float[8,8] x) => (float[8,8] y) { y = MatMul(w, x) }", {}),
    "not a matrix": ("g (float[3,2,8] x) => (float[3,2,8] y) { y = MatMul(x, t) }", {}),
    "also used by": ("g (float[8,8] x) => (float[8,8] y) { m = MatMul(x, w) y = Add(m, w) }", {}),
}


@pytest.mark.parametrize("why", SKIPS)
def test_does_not_fire(why, model_of, normal, quantize, ops):
    text, options = SKIPS[why]
    weights = {"w": normal(8, 8), "t": normal(3, 8, 8)}
    model = model_of(
        text, **{name: array for name, array in weights.items() if f"{name})" in text or f"({name}" in text}
    )
    result = quantize(model, **options)
    assert not result.changed
    assert ops(result.model) == ops(model)
    assert why in result.steps[0].records[0].note


def test_calibration_must_be_given_and_long_enough(model_of, normal, calibration):
    model = _chain(model_of, normal)
    manager = PassManager([Quantize()])
    with pytest.raises(PassError, match=r"Pass 'quantize' needs calibration data\. Give --calibration FILE\.npz"):
        manager.run(model)
    with pytest.raises(DataError, match=r"Pass 'quantize': Calibration has 7 samples, expected at least 8\."):
        manager.run(model, PassContext(calibration=calibration(model, 7)))


def test_channels_of_zeros_and_of_tiny_numbers_quantize():
    matrix = np.array([[0, 0], [1e-44, -1e-44], [3e38, -1]], np.float32)
    grids = fit(matrix, Quant(8, "channel"))
    assert grids.scales[0] == 1
    assert (grids.scales > 0).all()
    assert grids.codes(matrix).tolist() == [[0, 0], [0, 0], [127, 0]]
    assert np.isfinite(grids.rounded(matrix)).all()


BAD = {
    "bits=1": "Pass 'quantize': option 'bits' is 1, expected 2 to 8.",
    "group=-1": "Pass 'quantize': option 'group' is -1, expected 0 (a scale an output channel) to 4096.",
    "symmetric=false": "Pass 'quantize': option 'symmetric' is false, expected true unless 'group' is given.",
    "range=max": "Pass 'quantize', option 'range': Unknown value 'max'; expected one of: minmax, mse, percentile. "
    "Did you mean 'minmax'?",
    "ignor=a": "Pass 'quantize': Unknown option 'ignor'; expected one of: act, bits, correct_bias, group, ignore, "
    "method, min_samples, only, range, symmetric, weight_range. Did you mean 'ignore'?",
}


@pytest.mark.parametrize("option", BAD)
def test_bad_option_gives_this_message(option):
    with pytest.raises(RecipeError) as caught:
        parse_pass(f"quantize{{{option}}}")
    assert str(caught.value) == BAD[option]


CLASHES = """g (float[1,8,6,6] x, float[1] x__scale)
    => (float[1,4,6,6] y, float[1] x__codes, float[1] v__codes, float[1] z) {
    x__codes = Neg(x__scale) v__codes = Abs(x__scale) x__dequantized = Exp(x__scale) b__low = Neg(x__dequantized)
    v__scales = Add(x__codes, b__low) x__clip = Mul(v__scales, v__codes) z = Add(x__clip, w__zero)
    a = Conv(x, v, v__bias) b = Relu(a) y = Conv(b, w) }"""
"""Two underscores stand for a dot, which the text form does not allow."""


def test_new_names_are_those_of_no_other_value(model_of, normal, quantize, run):
    weights = {"v": normal(8, 8, 1, 1), "w": normal(4, 8, 1, 1, seed=9), "v__bias": normal(8), "w__zero": normal(1)}
    model = model_of(CLASHES, **weights)
    for value in (*model.graph.inputs, *model.graph.initializers.values(), *(n.outputs[0] for n in model.graph)):
        value.name = value.name.replace("__", ".")
    for node in model.graph:
        node.name = node.outputs[0].name
    result = quantize(model).model
    names = [value.name for node in result.graph for value in node.outputs]
    names += [value.name for value in result.graph.inputs] + list(result.graph.initializers)
    assert len(set(names)) == len(names)
    nodes = [node.name for node in result.graph]
    assert len(set(nodes)) == len(nodes)
    assert {"x.scale_", "x.codes_", "x.dequantized_", "b.low_"} <= set(names)
    want, got = run(model), run(result)
    assert _error(want["y"], got["y"]) < 0.02
    for name in ("x.codes", "v.codes", "z"):
        np.testing.assert_array_equal(want[name], got[name])
