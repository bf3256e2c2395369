# SPDX-License-Identifier: Apache-2.0
import hashlib
import subprocess
import sys

import numpy as np
import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.encoding import EncodedTensor, Encoding
from sparsec.compiler.errors import DataError, PassError, RecipeError
from sparsec.compiler.fidelity import measure
from sparsec.compiler.importers import load_model
from sparsec.compiler.layers import layers
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.compiler.registry import parse_pass
from sparsec.models import decoder_layers
from sparsec.models.catalog import MODELS
from sparsec.models.graph_builder import GraphBuilder
from sparsec.passes.recover import Recover

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="torch is not installed")

EXACT = ("fold-constants", "fold-batchnorm", "fuse-layernorm")
PRUNE, QUANTIZE = "prune-blocks{density=0.5 min_weights=64}", "quantize"
QUICK = "epochs=4 batch=16"
TINY = ("tiny-cnn", "tiny-transformer")


@pytest.fixture(scope="module")
def original():
    """A catalog model after the exact passes, by name."""
    return lambda name: PassManager(map(parse_pass, EXACT)).run(load_model(MODELS[name].build())).model


def _context(name, samples=64, **fields):
    return PassContext(calibration=Calibration(MODELS[name].inputs("calibration", samples)), **fields)


def _run(model, context, *texts):
    return PassManager([parse_pass(text) for text in texts]).run(model, context)


def _tensors(model):
    return {layer.name: layer.encoded for layer in layers(model)}


def _hash(arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def _bytes(model):
    return _hash(value.const_value.numpy() for _, value in sorted(model.graph.initializers.items()))


def _error(original, changed, name):
    heldout = Calibration(MODELS[name].inputs("heldout", 64))
    (comparison,) = measure(original, changed, heldout).values()
    return comparison.relative_error


def test_recovers_groups_of_codes(original):
    model, context = original("tiny-transformer"), _context("tiny-transformer")
    before = "quantize{bits=3 group=16 symmetric=false act=none}"
    damaged = _run(model, context, before).model
    recovered = _run(model, context, before, f"recover{{{QUICK}}}").model
    assert _error(model, recovered, "tiny-transformer") < _error(model, damaged, "tiny-transformer")
    for layer, tensor in _tensors(damaged).items():
        assert np.array_equal(_tensors(recovered)[layer].zero_points, tensor.zero_points)
        assert str(_tensors(recovered)[layer].encoding) == str(tensor.encoding)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("before", [(PRUNE,), (PRUNE, QUANTIZE)], ids=["pruned", "pruned and quantized"])
@pytest.mark.parametrize("method", ["reconstruct", "distill"])
def test_recovers_on_inputs_it_has_not_seen(method, before, name, original):
    model, context = original(name), _context(name)
    damaged = _run(model, context, *before).model
    result = _run(model, context, *before, f"recover{{method={method} epochs=6 batch=16}}")
    assert result.steps[-1].changed
    assert _error(model, result.model, name) < _error(model, damaged, name)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("method", ["reconstruct", "distill"])
def test_masks_patterns_and_names_stay(method, name, original):
    model, context = original(name), _context(name)
    damaged = _run(model, context, PRUNE, QUANTIZE).model
    recovered = _run(model, context, PRUNE, QUANTIZE, f"recover{{method={method} {QUICK}}}").model
    before, after = _tensors(damaged), _tensors(recovered)
    assert list(before) == list(after)
    assert _hash(t.mask for t in before.values() if t) == _hash(t.mask for t in after.values() if t)
    changed = 0
    for layer, tensor in before.items():
        assert str(after[layer].encoding) == str(tensor.encoding)
        assert not after[layer].numpy()[~tensor.mask].any()
        assert np.abs(after[layer].codes.astype(int)).max() <= 127
        changed += not np.array_equal(after[layer].codes, tensor.codes)
    assert changed
    assert [node.op_type for node in damaged.graph] == [node.op_type for node in recovered.graph]


def test_pruned_floats_stay_under_their_mask(original):
    model, context = original("tiny-cnn"), _context("tiny-cnn")
    damaged = _run(model, context, PRUNE).model
    recovered = _run(model, context, PRUNE, f"recover{{{QUICK}}}").model
    for layer, tensor in _tensors(damaged).items():
        found = _tensors(recovered)[layer]
        assert (found is None) == (tensor is None)
        if tensor is not None:
            assert np.array_equal(found.mask, tensor.mask)
            assert not found.numpy()[~tensor.mask].any()
            assert not np.array_equal(found.numpy(), tensor.numpy())


@pytest.mark.parametrize("method", ["reconstruct", "distill"])
def test_scales_alone_leave_codes_bit_for_bit(method, original):
    model, context = original("tiny-transformer"), _context("tiny-transformer")
    damaged = _run(model, context, PRUNE, QUANTIZE).model
    result = _run(model, context, PRUNE, QUANTIZE, f"recover{{method={method} train=scales {QUICK}}}")
    before, after = _tensors(damaged).values(), _tensors(result.model).values()
    assert result.steps[-1].changed
    assert _hash(t.codes for t in before) == _hash(t.codes for t in after)
    assert _hash(t.mask for t in before) == _hash(t.mask for t in after)
    assert _hash(t.scales for t in before) != _hash(t.scales for t in after)


def test_activation_codes_stay_in_seven_bits(original):
    model, context = original("tiny-cnn"), _context("tiny-cnn")
    damaged = _run(model, context, QUANTIZE).model
    recovered = _run(model, context, QUANTIZE, f"recover{{method=distill {QUICK}}}").model
    quantizers = [node for node in recovered.graph if node.op_type == "QuantizeLinear"]
    oracle = Oracle(recovered, [node.outputs[0].name for node in quantizers])
    for feed in Calibration({"image": 3 * MODELS["tiny-cnn"].inputs("heldout", 4)["image"]}).feeds(recovered):
        found = oracle.run(feed)
        assert max(found[node.outputs[0].name].max() for node in quantizers) <= 127
    names = [node.inputs[1].name for node in quantizers]
    scales = [[m.graph.initializers[name].const_value.numpy() for name in names] for m in (damaged, recovered)]
    assert any(a != b for a, b in zip(*scales, strict=True))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("method", ["reconstruct", "distill"])
def test_recovers_in_bfloat16(method, name, original):
    model, context = original(name), _context(name)
    damaged = _run(model, context, PRUNE, QUANTIZE).model
    text = f"recover{{method={method} epochs=6 batch=16 precision=bfloat16}}"
    first, second = (_run(model, context, PRUNE, QUANTIZE, text).model for _ in range(2))
    exact = _run(model, context, PRUNE, QUANTIZE, text.replace("bfloat16", "float32")).model
    assert _error(model, first, name) < _error(model, damaged, name)
    assert _bytes(first) == _bytes(second) != _bytes(exact)
    assert {value.dtype for value in first.graph.initializers.values()} == {
        value.dtype for value in damaged.graph.initializers.values()
    }


@pytest.mark.parametrize("method", ["reconstruct", "distill"])
def test_same_seed_same_bytes(method, original):
    model, text = original("tiny-cnn"), f"recover{{method={method} {QUICK} views=2}}"
    runs = [_run(model, _context("tiny-cnn", seed=seed), PRUNE, text).model for seed in (3, 3, 4)]
    first, second, other = map(_bytes, runs)
    assert first == second
    assert first != other


@pytest.mark.parametrize("name", TINY)
def test_onnxruntime_agrees_with_what_was_trained(name, original):
    from sparsec.compiler.executor.executor import Executor

    model, context = original(name), _context(name)
    recovered = _run(model, context, PRUNE, QUANTIZE, f"recover{{method=distill {QUICK}}}").model
    for feed in Calibration(MODELS[name].inputs("heldout", 4)).feeds(recovered):
        wanted = Oracle(recovered).run(feed)["logits"]
        found = Executor(recovered).run({key: torch.tensor(array) for key, array in feed.items()})["logits"]
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("form", ["int4(group8)", "int4(group8,asymmetric)", "int3(channel)", "int8(tensor)"])
def test_every_quantization_is_put_back_as_it_was(form, model_of, normal, calibration):
    from sparsec.passes.recovery.roles import find_trainables

    model = model_of("g (float[1,20] x) => (float[1,12] y) { y = MatMul (x, w) }", w=normal(20, 12))
    encoded = _quantized(form, normal(20, 12))
    model.graph.initializers["w"].const_value = encoded
    (trainable,) = find_trainables(model, "weights")
    np.testing.assert_array_equal(trainable.tensors()["w"].detach().numpy(), encoded.numpy())
    trainable.write(model.graph)
    found = model.graph.initializers["w"].const_value
    assert _hash([found.codes, found.scales, found.mask]) == _hash([encoded.codes, encoded.scales, encoded.mask])
    with torch.no_grad():
        for leaf in trainable.leaves:
            leaf += 0.3
    trainable.write(model.graph)
    moved = model.graph.initializers["w"].const_value
    assert str(moved.encoding) == str(encoded.encoding)
    assert not np.array_equal(moved.codes, encoded.codes)
    assert not moved.numpy()[~encoded.mask].any()
    np.testing.assert_array_equal(moved.numpy(), trainable.tensors()["w"].detach().numpy())


def _quantized(form, weight):
    """A weight [20, 12] on a grid, a block of it pruned."""
    encoding = Encoding.parse(f"block(4x4) x {form}")
    quant = encoding.quant
    mask = np.ones(weight.shape, bool)
    mask[4:8, 4:8] = False
    shape = {"tensor": (1,), "channel": (12,), "group": (12, 3)}[quant.granularity]
    random = np.random.RandomState(0)
    codes = random.randint(max(quant.lowest, -quant.highest), quant.highest + 1, weight.shape)
    scales = (random.randint(1, 9, shape) / 64).astype(np.float32)
    if quant.symmetric:
        return EncodedTensor("another name", encoding, mask, 1, codes=(codes * mask).astype(np.int8), scales=scales)
    zeros = random.randint(0, quant.highest + 1, shape).astype(np.uint8)
    wide = zeros.repeat(8, axis=1)[:, :20].T
    kept = np.where(mask, codes, wide).astype(np.uint8)
    return EncodedTensor("another name", encoding, mask, 1, codes=kept, scales=scales, zero_points=zeros)


def test_never_worse_on_validation_and_stops_early(original):
    model, context = original("tiny-cnn"), _context("tiny-cnn")
    text = "recover{method=distill lr=0.3 epochs=30 patience=1 batch=16}"
    damaged = _run(model, context, QUANTIZE).model
    result = _run(model, context, QUANTIZE, text)
    (record,) = result.steps[-1].records
    assert record.skipped
    assert record.note.startswith("training did not lower the validation loss")
    assert not result.steps[-1].changed
    assert _bytes(result.model) == _bytes(damaged)


def test_early_stop_ends_training():
    from sparsec.passes.recovery.training import Progress, Schedule, fit

    leaf, losses = torch.zeros(1, requires_grad=True), iter([1.0, 0.5, 0.7, 0.6, 0.4])
    told = []
    progress = Progress("test", 40, lambda what, done, total: told.append((what, done, total)))
    found = fit(
        [leaf], lambda rows: (leaf - 1).square().sum(), lambda: next(losses), 4, Schedule(10, 0.1, 1, 1, 0), progress
    )
    assert (found.before, found.after, found.epochs) == (1.0, 0.5, 3)
    assert 0.2 < leaf.item() < 0.5
    assert told[0][0].startswith("test 1.0000, ")
    assert told[0][0].endswith(" s left")
    assert told[-1][1:] == (12, 40)


def test_blocks_are_trained_in_the_order_of_the_data(original):
    model, context = original("tiny-transformer"), _context("tiny-transformer")
    records = _run(model, context, PRUNE, f"recover{{{QUICK}}}").steps[-1].records
    assert [record.layer for record in records] == [layer.name for layer in layers(model)]


BLOCKS = {
    "digits-like": (
        "a = Conv (x, w) b = Relu (a) c = Conv (b, v) y = Relu (c)",
        [("b", ["a"]), ("y", ["c"])],
    ),
    "residual": (
        "a = Conv (x, w) b = Conv (a, v) c = Add (a, b) d = Relu (c) y = Conv (d, u)",
        [("a", ["a"]), ("d", ["b"]), ("y", ["y"])],
    ),
    "parallel": (
        "a = Conv (x, w) b = Conv (x, v) c = Add (a, b) y = Conv (c, u)",
        [("a", ["a"]), ("c", ["b"]), ("y", ["y"])],
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_cuts_are_where_all_flows_through_but_inputs(name, model_of, normal):
    from sparsec.passes.recovery.cuts import cut_into_blocks

    body, expected = BLOCKS[name]
    text = f"g (float[1,4,5,5] x) => (float[1,4,5,5] y) {{ {body} }}"
    used = {n: normal(4, 4, 1, 1, seed=i) for i, n in enumerate("wvu") if f", {n})" in body}
    graph = model_of(text, **used).graph
    assert [(piece.ends[0], list(piece.layers)) for piece in cut_into_blocks(graph, graph)] == expected


def test_wide_middle_of_a_block_is_no_cut(original):
    from sparsec.passes.recovery.cuts import cut_into_blocks

    graph = original("tiny-cnn").graph
    ends = [piece.ends[0] for piece in cut_into_blocks(graph, graph)]
    assert ends[:2] == ["stem.act", "blocks.0.add"]
    assert "blocks.2.add" in ends
    assert "blocks.1.act1" not in ends


def test_ignored_layers_stay(original):
    model, context = original("tiny-cnn"), _context("tiny-cnn")
    recovered = _run(model, context, PRUNE, f"recover{{{QUICK} ignore=[head.fc,blocks.0.*]}}").model
    damaged = _run(model, context, PRUNE).model
    for layer in ("head.fc", "blocks.0.conv_dw", "blocks.0.conv_pw"):
        pairs = [next(x for x in layers(m) if x.name == layer).node.inputs[1:] for m in (damaged, recovered)]
        for before, after in zip(*pairs, strict=True):
            np.testing.assert_array_equal(before.const_value.numpy(), after.const_value.numpy())


def test_says_what_it_does_and_how_long(original):
    told = []
    context = _context("tiny-cnn", reporter=lambda what, done, total: told.append((what, done, total)))
    _run(original("tiny-cnn"), context, PRUNE, f"recover{{method=distill {QUICK}}}")
    mine = [entry for entry in told if entry[0].startswith("distill ")]
    assert [done for _, done, _ in mine] == list(range(1, 17))
    assert {total for *_, total in mine} == {16}
    assert all(what.endswith(" left") for what, *_ in mine)


OPTIONS = {
    "epochs=0": "Pass 'recover': option 'epochs' is 0, expected at least 1, or no 'epochs' for the method's own.",
    "epochs=-1": "Pass 'recover': option 'epochs' is -1, expected at least 1, or no 'epochs' for the method's own.",
    "lr=0": "Pass 'recover': option 'lr' is 0, expected more than 0, or no 'lr' for the method's own.",
    "lr=0x": "Pass 'recover': option 'lr' is 0x, expected a number.",
    "batch=0": "Pass 'recover': option 'batch' is 0, expected at least 1.",
    "lr=-0.1": "Pass 'recover': option 'lr' is -0.1, expected more than 0, or no 'lr' for the method's own.",
    "min_samples=1": "Pass 'recover': option 'min_samples' is 1, expected at least 2.",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_bad_option(option):
    with pytest.raises(RecipeError) as caught:
        parse_pass(f"recover{{{option}}}")
    assert str(caught.value) == OPTIONS[option]


def test_needs_a_pass_that_loses_something(original):
    wanted = "Pass 'recover': nothing is lost yet. Put it behind a pass that loses something, as 'quantize'."
    model, context = original("tiny-cnn"), _context("tiny-cnn")
    with pytest.raises(PassError) as caught:
        _run(model, context, "recover")
    assert str(caught.value) == wanted
    with pytest.raises(PassError) as caught:
        Recover().run(model, context)
    assert str(caught.value) == wanted


def test_does_nothing_where_the_passes_before_it_left_all_layers_alone(original):
    model, context = original("tiny-cnn"), _context("tiny-cnn")
    result = _run(model, context, "prune-nm{min_weights=999999}", "recover", "quantize{ignore=[*]}", "recover")
    assert not result.changed
    found = [record for step in result.steps if step.name == "recover" for record in step.records]
    assert [(record.layer, record.skipped) for record in found] == [("all", True)] * 2
    reasons = dict.fromkeys(record.note for record in result.steps[0].records)
    pruned = f"nothing is lost yet: 'prune-nm' left all layers alone ({next(iter(reasons))}; ...)"
    assert found[0].note == pruned
    assert found[1].note == f"{pruned}, 'quantize' left all layers alone (it is in 'ignore')"


def test_trains_behind_the_first_pass_that_lost_something(original):
    model, context = original("tiny-cnn"), _context("tiny-cnn")
    steps = _run(model, context, "prune-nm{min_weights=999999}", "recover", "quantize", f"recover{{{QUICK}}}").steps
    assert [step.changed for step in steps] == [False, False, True, True]


def test_a_model_that_came_quantized_has_nothing_to_recover(original):
    context = _context("tiny-cnn")
    model = _run(original("tiny-cnn"), context, "quantize").model
    for passes in (("recover",), ("quantize", "recover")):
        with pytest.raises(PassError) as caught:
            _run(model, context, *passes)
        assert str(caught.value).removesuffix(" Ran before it: quantize.") == (
            "Pass 'recover': the model came with quantized weights, and no pass before this one changed it; what it "
            "lost then cannot be won back without the float32 model. Start from that one, or leave 'recover' out."
        )


def test_what_is_not_given_is_the_methods_own():
    for text in ("recover", "recover{method=distill epochs=3}", "recover{lr=0.0003}"):
        step = parse_pass(text)
        assert parse_pass(str(step)) == step
    assert "epochs" not in str(Recover())
    assert "lr" not in str(Recover())


def test_needs_samples_before_anything_runs(original):
    with pytest.raises(DataError) as caught:
        _run(original("tiny-cnn"), _context("tiny-cnn", 15), PRUNE, "recover")
    assert str(caught.value) == "Pass 'recover': Calibration has 15 samples, expected at least 16."
    with pytest.raises(PassError, match=r"^Pass 'recover' needs calibration data\."):
        _run(original("tiny-cnn"), PassContext(), PRUNE, "recover")


def test_divergence_says_what_to_do(original):
    with pytest.raises(PassError) as caught:
        _run(original("tiny-cnn"), _context("tiny-cnn"), PRUNE, "recover{method=distill lr=1e30 batch=16}")
    assert str(caught.value) == (
        "Pass 'recover' on 'all': the loss became infinite or NaN. Choose a lower 'lr' than 1e+30. "
        "Ran before it: prune-blocks."
    )


def test_without_torch():
    code = """
import sys
sys.modules["torch"] = None
from sparsec.compiler.calibration import Calibration
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.compiler.registry import parse_pass
from sparsec.models.catalog import MODELS
model = MODELS["tiny-cnn"]
context = PassContext(calibration=Calibration(model.inputs("calibration", 16)))
PassManager([parse_pass("prune-blocks"), parse_pass("recover")]).run(model.build(), context)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    wanted = "Pass 'recover' needs torch, which is not installed. Install 'sparsec[torch]'."
    assert found.stderr.strip().splitlines()[-1].endswith(wanted)


def test_one_loud_token_does_not_decide_the_error():
    from sparsec.passes.recovery.losses import squared

    wanted = torch.randn(2, 1, 64, 8, generator=torch.Generator().manual_seed(3))
    found = wanted + 0.1 * torch.randn(wanted.shape, generator=torch.Generator().manual_seed(4))
    usual = squared(found, wanted)
    assert usual == pytest.approx(0.01, rel=0.2)
    loud, spoilt = wanted.clone(), found.clone()
    loud[:, :, 0] *= 1000
    spoilt[:, :, 0] = loud[:, :, 0]
    assert squared(spoilt, loud) == pytest.approx(float(usual), rel=0.25)
    torch.testing.assert_close(squared(found.flatten(1), wanted.flatten(1)), usual, rtol=1e-4, atol=0)


def test_scores_are_scores_behind_a_reshape_that_keeps_them_together():
    from sparsec.passes.recovery.losses import output_kinds

    net = GraphBuilder("head", {"table": np.ones((12, 8), np.float32)})
    logits = decoder_layers.tied_head(net, net.input("x", (1, 5, 8)), "table")
    halves = net.node("Reshape", "halves", [logits, net.constant("split", np.array([1, 5, 2, 6]))])
    model = load_model(net.model(logits=logits, halves=halves))
    assert output_kinds(model) == {"logits": "scores", "halves": "values"}


def test_the_axis_of_a_softmax_is_read_where_the_softmax_is():
    from sparsec.passes.recovery.losses import output_kinds

    net = GraphBuilder("head", {})
    x, shape = net.input("x", (1, 5, 8)), net.constant("shape", np.array([1, 1, 5, 8]))
    wide, tall = (net.node("Softmax", f"softmax{axis}", [x], axis=axis) for axis in (2, 1))
    outputs = {name: net.node("Reshape", f"{name}_out", [value, shape]) for name, value in (("w", wide), ("t", tall))}
    assert output_kinds(load_model(net.model(**outputs))) == {"w": "probabilities", "t": "values"}


def test_a_layer_to_ignore_must_exist():
    entry = MODELS["tiny-cnn"]
    model, samples = load_model(entry.build()), Calibration(entry.inputs("calibration", 16))
    steps = [parse_pass("prune-blocks{density=0.5 min_weights=1}"), parse_pass("recover{ignore=[blocks.9.*]}")]
    with pytest.raises(PassError, match=r"^Pass 'recover', option 'ignore': Unknown layer 'blocks\.9\.\*'; expected"):
        PassManager(steps).run(model, PassContext(calibration=samples))
