# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.encoding import Block
from sparsec.compiler.errors import DataError, PassError, RecipeError
from sparsec.compiler.exchange import from_qdq, to_onnx
from sparsec.compiler.importers import load_model
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.instruments import Verify
from sparsec.compiler.layers import layers
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.compiler.recipe import Recipe
from sparsec.compiler.registry import parse_pass
from sparsec.compiler.statistics import collect
from sparsec.models.catalog import find
from sparsec.passes.column_sweep import output_error
from sparsec.passes.gqsa import Gqsa, imbalance
from sparsec.passes.quantize import Quantize
from sparsec.passes.recover import Recover
from sparsec.passes.scores import scores

CHAIN = "g (float[4,48] x) => (float[4,24] y) { a = MatMul(x, v) b = Relu(a) y = Gemm <transB = 1> (b, w) }"
GROUP = 8


@pytest.fixture
def chain(model_of, normal):
    return model_of(CHAIN, v=normal(48, 32), w=normal(24, 32, seed=9))


@pytest.fixture
def data():
    random = np.random.RandomState(7)
    mix = random.standard_normal((48, 48)) * np.logspace(0, -1.5, 48)
    return Calibration({"x": (random.standard_normal((32, 4, 48)) @ mix).astype(np.float32)})


@pytest.fixture
def compress(data):
    def compress(model, step=None, **options):
        step = step or Gqsa(**{"group": GROUP, "min_weights": 1, "correct_bias": False, **options})
        return PassManager([step], [Verify()]).run(model, PassContext(calibration=data))

    return compress


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scope", ["layer", "row"])
@pytest.mark.parametrize("update", ["none", "sweep", "refit"])
def test_structure(update, scope, bits, chain, compress):
    result = compress(chain, bits=bits, scope=scope, update=update)
    for layer in layers(result.model):
        tensor = layer.encoded
        assert str(tensor.encoding) == f"block(1x8) x int{bits}(group8,asymmetric)"
        blocks = Block(1, GROUP).blocks(tensor.matrix(tensor.mask))
        runs = tensor.matrix().reshape(len(blocks), -1, GROUP)
        assert blocks.mean() == 0.5
        assert scope == "layer" or (blocks.sum(axis=1) == blocks.shape[1] // 2).all()
        assert not runs[~blocks].any()
        assert tensor.scales.shape == tensor.zero_points.shape == blocks.shape
        assert tensor.stored_scales == blocks.sum()
        levels = [len(np.unique(run)) for run in runs[blocks]]
        assert max(levels) <= min(GROUP, 2**bits)


def test_onnxruntime_computes_the_stored_values_after_a_round_trip(chain, compress, run):
    model = compress(chain).model
    again = from_qdq(load_onnx(to_onnx(model)))
    np.testing.assert_array_equal(run(again)["y"], run(model)["y"])
    for before, after in zip(layers(model), layers(again), strict=True):
        assert before.encoded.encoding == after.encoded.encoding
        np.testing.assert_array_equal(before.tensor.numpy(), after.tensor.numpy())
        np.testing.assert_array_equal(before.encoded.zero_points, after.encoded.zero_points)


def test_density_one_is_group_quantization(chain, compress):
    want = compress(
        chain, Quantize(bits=4, group=GROUP, symmetric=False, method="gptq", act="none", correct_bias=False)
    )
    got = compress(chain, density=1.0, damping=0.0)
    for one, other in zip(layers(want.model), layers(got.model), strict=True):
        assert one.encoded.encoding == other.encoded.encoding
        np.testing.assert_array_equal(one.encoded.codes, other.encoded.codes)
        np.testing.assert_array_equal(one.encoded.scales, other.encoded.scales)
        np.testing.assert_array_equal(one.encoded.zero_points, other.encoded.zero_points)


def test_sixteen_bits_are_group_pruning(chain, compress):
    prune = (
        f"prune-blocks{{rows=1 cols={GROUP} density=0.5 score=hessian update=sweep min_weights=1 correct_bias=false}}"
    )
    want, got = compress(chain, parse_pass(prune)), compress(chain, bits=16, damping=0.0, rounds=1)
    for one, other in zip(layers(want.model), layers(got.model), strict=True):
        assert one.encoded.encoding == other.encoded.encoding
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(one.tensor.numpy(), other.tensor.numpy())


def test_least_important_groups_go(chain, compress, data):
    (first, _) = layers(chain)
    known = collect(chain, data, [first], hessian=True)[first.name]
    sums = scores("hessian", first.matrix(), known).reshape(32, -1, GROUP).sum(axis=-1)
    kept = Block(1, GROUP).blocks(next(layers(compress(chain, damping=0.0, rounds=1).model)).encoded.mask.T)
    assert sums[kept].min() >= sums[~kept].max()


@pytest.mark.parametrize("bits", [2, 4, 16])
def test_each_update_errs_less_on_the_first_layers_output(bits, chain, compress, data):
    (first, _) = layers(chain)
    hessian = collect(chain, data, [first], hessian=True)[first.name].hessian
    errors = []
    for update in ("none", "sweep", "refit"):
        after = next(layers(compress(chain, bits=bits, update=update, damping=0.01).model)).matrix()
        errors.append(output_error(after.astype(np.float64) - first.matrix(), hessian))
    assert errors[2] < errors[1] < errors[0]


def test_rounds_err_less_at_the_same_density(chain, compress, data):
    (_, second) = layers(chain)
    hessian = collect(chain, data, [second], hessian=True)[second.name].hessian
    errors = []
    for rounds in (1, 4):
        (_, after) = layers(compress(chain, bits=16, update="refit", rounds=rounds).model)
        assert after.mask.mean() == 0.5
        errors.append(output_error(after.matrix().astype(np.float64) - second.matrix(), hessian))
    assert errors[1] < errors[0]


def test_damping_keeps_a_loud_input_that_others_resemble(model_of, normal):
    random = np.random.RandomState(1)
    quiet = random.standard_normal((64, 4, 47))
    loud = 30 * quiet.mean(axis=-1, keepdims=True)
    samples = Calibration({"x": np.concatenate([loud, quiet], axis=-1).astype(np.float32)})
    model = model_of("g (float[4,48] x) => (float[4,32] y) { y = MatMul(x, v) }", v=normal(48, 32) * 0.1)
    (layer,) = layers(model)
    hessian = collect(model, samples, [layer], hessian=True)[layer.name].hessian
    errors = []
    for damping in (0.0, 0.2):
        step = Gqsa(group=8, density=0.25, min_weights=1, correct_bias=False, damping=damping)
        after = PassManager([step]).run(model, PassContext(calibration=samples)).model
        errors.append(output_error(next(layers(after)).matrix().astype(np.float64) - layer.matrix(), hessian))
    assert errors[1] < errors[0]


def test_record_says_bits_and_imbalance(chain, compress):
    note = compress(chain).steps[0].records[1].note
    assert note.startswith("block(1x8) x int4(group8,asymmetric) at density 0.500, 4.75 bits a weight, load imbalance ")
    assert "of the output's energy" in note
    row = compress(chain, scope="row").steps[0].records[1].note
    assert "load imbalance 1.00" in row


def test_imbalance_is_the_fullest_row_over_the_mean():
    mask = np.zeros((4, 16), bool)
    mask[0], mask[1, :4] = True, True
    assert imbalance(mask, 4) == 4 / (5 / 4)


def test_second_run_changes_nothing(chain, compress):
    for options in ({}, {"bits": 16}, {"bits": 16, "density": 1.0}):
        again = compress(compress(chain, **options).model, **options)
        assert not again.changed
        assert all(record.skipped for record in again.steps[0].records)


SKIPS = {
    "the input axis has 20 elements, not a multiple of group=8": ("MatMul(x, m)", "float[2,20] x", (20, 16)),
    "it is in 'ignore'": ("MatMul(x, m)", "float[2,16] x", (16, 16)),
    "its kernel is larger than 1x1": ("Conv(x, m)", "float[1,16,5,5] x", (8, 16, 3, 3)),
    "it is a grouped convolution": ("Conv <group = 2> (x, m)", "float[1,16,5,5] x", (8, 8, 1, 1)),
    "it has 128 weights, fewer than min_weights=4096": ("MatMul(x, m)", "float[2,16] x", (16, 8)),
}


@pytest.mark.parametrize("why", SKIPS)
def test_does_not_fire(why, model_of, normal, calibration):
    call, given, shape = SKIPS[why]
    output = (
        "float[1,8,3,3] y" if "Conv(" in call else "float[1,8,5,5] y" if "Conv" in call else f"float[2,{shape[1]}] y"
    )
    model = model_of(f"g ({given}) => ({output}) {{ y = {call} }}", m=normal(*shape))
    ignore = ("y",) if "ignore" in why else ()
    step = Gqsa(group=8, min_weights=4096 if "4096" in why else 1, ignore=ignore)
    result = PassManager([step]).run(model, PassContext(calibration=calibration(model)))
    assert not result.changed
    assert [(record.note, record.skipped) for record in result.steps[0].records] == [(why, True)]


def test_pruning_after_it_is_refused(chain, data):
    with pytest.raises(RecipeError, match="Pass 'prune-nm' stands after 'gqsa'"):
        PassManager([Gqsa(), parse_pass("prune-nm")]).run(chain, PassContext(calibration=data))


def test_calibration_must_be_given_and_long_enough(chain, data):
    with pytest.raises(PassError, match=r"Pass 'gqsa' needs calibration data\. Give --calibration FILE\.npz"):
        PassManager([Gqsa()]).run(chain)
    few = Calibration({"x": data.arrays["x"][:7]})
    with pytest.raises(DataError, match=r"Pass 'gqsa': Calibration has 7 samples, expected at least 8\."):
        PassManager([Gqsa(group=8, min_weights=1)]).run(chain, PassContext(calibration=few))


BAD = {
    "bits=9": "Pass 'gqsa': option 'bits' is 9, expected 2 to 8, or 16 for float32.",
    "group=0": "Pass 'gqsa': option 'group' is 0, expected 1 to 4096.",
    "rounds=0": "Pass 'gqsa': option 'rounds' is 0, expected at least 1.",
    "damping=-1": "Pass 'gqsa': option 'damping' is -1, expected at least 0.",
    "density=0": "Pass 'gqsa': option 'density' is 0, expected more than 0 and at most 1.",
}


@pytest.mark.parametrize("option", BAD)
def test_bad_option_gives_this_message(option):
    with pytest.raises(RecipeError) as caught:
        parse_pass(f"gqsa{{{option}}}")
    assert str(caught.value) == BAD[option]


def test_recipe_keeps_groups_and_codes_through_training():
    pytest.importorskip("torch")
    entry, steps = find("tiny-transformer"), Recipe.load("gqsa-w4s50").passes
    brief = [replace(step, epochs=1) if isinstance(step, Recover) else step for step in steps]
    samples = Calibration(entry.inputs("calibration", 32))
    context = PassContext(calibration=samples)
    model = load_model(entry.build(), dict(entry.shapes), lambda _: None)
    pruned, trained, tuned = (
        [layer.encoded for layer in layers(PassManager(brief[:end], [Verify()]).run(model, context).model)]
        for end in (-2, -1, len(brief))
    )
    for before, middle, after in zip(pruned, trained, tuned, strict=True):
        if before is None:
            continue
        assert str(after.encoding) == "block(1x16) x int4(group16,asymmetric)"
        np.testing.assert_array_equal(after.mask, before.mask)
        np.testing.assert_array_equal(after.codes, middle.codes)
        assert not after.numpy()[~after.mask].any()
