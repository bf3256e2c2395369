# SPDX-License-Identifier: Apache-2.0

import numpy as np
import onnx_ir as ir
import pytest

import sparsec
from sparsec.compiler.calibration import Calibration
from sparsec.compiler.encoding import EncodedTensor
from sparsec.compiler.errors import DataError, PassError, RecipeError
from sparsec.compiler.exchange import to_onnx
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.compiler.registry import parse_pass
from sparsec.models.catalog import find
from sparsec.passes.prune_blocks import PruneBlocks
from sparsec.passes.prune_channels import PruneChannels
from tests.compiler import coupled_networks as networks

SPARE = {"kinds": ("channels", "neurons", "heads", "head-channels"), "multiple": 1}


def _prune(model, calibration=None, **options):
    return PassManager([PruneChannels(**options)]).run(model, PassContext(calibration=calibration))


def _records(result, skipped=False):
    return {record.layer: record.note for record in result.steps[0].records if record.skipped == skipped}


def _shapes(model):
    return {n: tuple(v.const_value.shape.numpy()) for n, v in model.graph.initializers.items()}


def _difference(want, got):
    return max(float(np.linalg.norm(want[n] - got[n]) / np.linalg.norm(want[n])) for n in want)


def _array(model, name):
    return model.graph.initializers[name].const_value.numpy()


def _set(model, **arrays):
    for name, array in arrays.items():
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return model


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_structure_shrinks_and_runs(name, run):
    model = networks.network(name)
    result = _prune(model, density=0.5, **SPARE)
    assert result.changed
    before, after = _shapes(model), _shapes(result.model)
    assert sum(map(np.prod, after.values())) < 0.8 * sum(map(np.prod, before.values()))
    assert {n: v.shape for n, v in run(model).items()} == {n: v.shape for n, v in run(result.model).items()}
    again = _prune(result.model, density=0.5, **SPARE)
    assert not again.changed
    assert [node.name for node in model.graph] == [node.name for node in result.model.graph]


def test_keeps_the_strongest_channels_and_equals_the_model_with_silenced_readers(run):
    model = networks.network("chain")
    first, second = _array(model, "w1"), _array(model, "w2")
    energies = [(w**2).sum(axis=axes) for w, axes in ((first, (1, 2, 3)), (second, (0, 2, 3)))]
    kept = np.sort(np.argsort(-sum(e / e.mean() for e in energies))[:8])
    result = _prune(model, density=0.5)
    np.testing.assert_array_equal(_array(result.model, "w1"), first[kept])
    np.testing.assert_array_equal(_array(result.model, "b1"), _array(model, "b1")[kept])
    np.testing.assert_array_equal(_array(result.model, "w2"), second[:, kept])
    gone = np.setdiff1d(np.arange(16), kept)
    silenced = second.copy()
    silenced[:, gone] = 0
    assert _difference(run(_set(model.clone(), w2=silenced)), run(result.model)) < 1e-5
    name = model.graph[0].name
    assert _records(result) == {name: f"16 channels -> 8, in {name}, {model.graph[2].name}"}


def test_heads_go_whole_with_their_reshapes(run):
    model = networks.network("attention")
    result = _prune(model, density=0.5, kinds=("heads",))
    shapes = _shapes(result.model)
    assert [shapes[n] for n in ("wq", "wk", "wv", "wo")] == [(12, 16), (12, 16), (12, 16), (16, 12)]
    parts = [_array(model, n).reshape(12, 4, 8) for n in ("wq", "wk", "wv")]
    readers = _array(model, "wo").reshape(4, 8, 12)
    energies = [(w**2).sum(axis=(0, 2)) for w in parts] + [(readers**2).sum(axis=(1, 2))]
    kept = np.sort(np.argsort(-sum(e / e.mean() for e in energies))[:2])
    np.testing.assert_array_equal(_array(result.model, "wv").reshape(12, 2, 8), parts[2][:, kept])
    silenced = readers * np.isin(np.arange(4), kept)[:, None, None].astype(np.float32)
    assert _difference(run(_set(model.clone(), wo=silenced.reshape(32, 12))), run(result.model)) < 1e-5
    reshapes = [node for node in result.model.graph if node.op_type == "Reshape"]
    assert [node.inputs[1].const_value.numpy().tolist() for node in reshapes] == [[1, 7, 2, 8]] * 3 + [[1, 7, 16]]


def test_grouped_convolution_loses_groups(run):
    model = networks.network("residual")
    result = _prune(model, density=0.5)
    depthwise = next(node for node in result.model.graph if node.attributes.get_int("group", 1) > 1)
    assert depthwise.attributes.get_int("group", 1) == 12
    assert _shapes(result.model)["depthwise"] == (12, 1, 3, 3)
    assert _shapes(result.model)["mean"] == (8,)


def test_rounds_up_to_a_multiple(run):
    model = networks.network("gated neurons")
    for density, multiple, kept in ((0.5, 4, 16), (0.51, 4, 16), (0.6, 8, 24), (0.01, 4, 4), (0.9, 5, 30)):
        result = _prune(model, density=density, multiple=multiple)
        assert _shapes(result.model)["wd"] == (kept, 12)
    assert not _prune(model, density=0.95, multiple=32).changed


@pytest.mark.parametrize("score", ["wanda", "hessian"])
def test_measured_scores_keep_what_matters_on_the_samples(score, calibration, run):
    model = networks.network("gated neurons")
    up, down = _array(model, "wu").copy(), _array(model, "wd").copy()
    up[:, :16] *= 1e-3
    down[:16] *= 100
    model = _set(model, wu=up, wd=down)
    options = {"density": 0.5}
    measured = _prune(model, calibration(model, 32), score=score, **options)
    np.testing.assert_array_equal(_array(measured.model, "wd"), down[16:])
    assert not np.array_equal(_array(_prune(model, **options).model, "wd"), down[16:])


def test_hessian_knows_what_others_can_make_up_for(calibration):
    model = networks.network("chain")
    weight, reader = _array(model, "w1").copy(), _array(model, "w2").copy()
    weight[8:] = weight[:8]
    reader[:, 3] *= 0.5
    reader[:, 11] = reader[:, 3]
    model = _set(model, w1=weight, b1=np.tile(_array(model, "b1")[:8], 2), w2=reader)
    options = {"density": 0.5, "score": "hessian", "update": "refit", "multiple": 1}
    found = _array(_prune(model, calibration(model, 32), **options).model, "w1")
    assert len(np.unique(found, axis=0)) >= 5


def test_refit_and_bias_correction_make_up_for_the_loss(calibration):
    model = networks.network("chain")
    weight = _array(model, "w1").reshape(16, -1).copy()
    weight[8:] = np.random.RandomState(1).standard_normal((8, 8)) @ weight[:8] * 0.2
    model = _set(model, w1=weight.reshape(16, 3, 3, 3).astype(np.float32), b1=np.full(16, 12, np.float32))
    inputs = calibration(model, 96).arrays["x"]
    samples, fresh = Calibration({"x": inputs[:64]}), inputs[64:]
    errors = []
    for options in ({}, {"update": "bias"}, {"update": "refit"}):
        changed = Oracle(_prune(model, samples, density=0.5, **options).model)
        pairs = [(Oracle(model).run({"x": x})["y"], changed.run({"x": x})["y"]) for x in fresh]
        errors.append(sum(float(np.square(want - got).sum()) for want, got in pairs))
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 0.5 * errors[1]


def test_dead_units_go_without_any_change(calibration, run):
    model = networks.network("chain")
    first, bias, second = (_array(model, n).copy() for n in ("w1", "b1", "w2"))
    first[:3], bias[:3] = 0, 0
    second[:, 3] = 0
    bias[4] = -1000
    model = _set(model, w1=first, b1=bias, w2=second)
    by_weights = _prune(model, density=1.0, multiple=1)
    np.testing.assert_array_equal(_array(by_weights.model, "w1"), first[4:])
    assert _difference(run(model), run(by_weights.model)) < 1e-6
    by_samples = _prune(model, calibration(model), density=1.0, multiple=1, dead=True)
    np.testing.assert_array_equal(_array(by_samples.model, "w1"), first[5:])
    assert _difference(run(model), run(by_samples.model)) < 1e-6
    assert not _prune(by_samples.model, density=1.0, multiple=1).changed


@pytest.mark.parametrize("harm", ["bias", "low"])
def test_constant_units_are_not_dead(harm, run):
    model = networks.network("residual")
    weight, bias = _array(model, "expand").copy(), _array(model, "eb").copy()
    depthwise, later = _array(model, "depthwise"), _array(model, "db").copy()
    weight[:4], bias[:4], later[:4] = 0, 0, 0
    dead = _set(model.clone(), expand=weight, eb=bias, db=later)
    assert _shapes(_prune(dead, density=1.0).model)["depthwise"] == (20, *depthwise.shape[1:])
    later[:4] = 1 if harm == "bias" else 0
    low = np.array(0.5 if harm == "low" else 0, np.float32)
    alive = _set(model.clone(), expand=weight, eb=bias, db=later, low=low)
    assert not _prune(alive, density=1.0).changed


def test_leaves_alone_what_it_is_told_to(run):
    model = networks.network("residual")
    stem, expand = model.graph[0].name, model.graph[3].name
    ignored = _prune(model, density=0.5, ignore=(stem,))
    assert _records(ignored, skipped=True)[stem] == "it is in 'ignore'"
    assert _shapes(ignored.model)["stem"] == (12, 3, 3, 3)
    assert _shapes(ignored.model)["expand"] == (12, 12, 1, 1)
    chosen = _prune(model, density=0.5, only=(stem,))
    assert _records(chosen, skipped=True)[expand] == "it is not in 'only'"
    neurons = _prune(model, density=0.5, kinds=("neurons",))
    assert not neurons.changed
    assert _records(neurons, skipped=True)[stem] == "its units are channels, not in 'kinds'"
    with pytest.raises(PassError, match="option 'only': Unknown layer 'nothing'"):
        _prune(model, only=("nothing",))


def test_records_say_why_a_group_stays(run):
    model = networks.network("attention")
    notes = _records(_prune(model, density=0.5), skipped=True)
    assert "it is the model's output 'y'" in notes.values()
    assert "it is the model's input 'x'" in notes.values()
    assert "its units are head-channels, not in 'kinds'" in notes.values()


def test_compressed_weight_stays(run):
    model = networks.network("chain")
    pruned = PassManager([PruneBlocks(min_weights=1, ignore=(model.graph[0].name,))]).run(model).model
    result = _prune(pruned, density=0.5)
    assert not result.changed
    reason = f"the weight of '{model.graph[2].name}' is already block(4x4); prune channels first"
    assert reason in _records(result, skipped=True).values()
    assert isinstance(pruned.graph.initializers["w2"].const_value, EncodedTensor)


def test_weight_that_is_not_finite_stays():
    model = networks.network("chain")
    weight = _array(model, "w1").copy()
    weight[2, 0] = np.nan
    result = _prune(_set(model, w1=weight), density=0.5)
    assert not result.changed
    assert "holds NaN or infinity" in _records(result, skipped=True)[model.graph[0].name]


def test_calibration_is_needed_for_what_is_measured(calibration):
    model = networks.network("chain")
    for options in ({"score": "wanda"}, {"update": "refit"}, {"dead": True}):
        with pytest.raises(PassError, match="Pass 'prune-channels' needs calibration data"):
            _prune(model, **options)
    with pytest.raises(DataError, match="Calibration has 3 samples, expected at least 8"):
        _prune(model, calibration(model, 3), score="wanda")


def test_the_number_of_units_at_first_outlives_the_file():
    result = _prune(networks.network("chain"), density=0.5)
    again = load_onnx(to_onnx(result.model))
    assert not _prune(again, density=0.5).changed
    assert _shapes(_prune(again, density=0.25).model)["w1"] == (4, 3, 3, 3)


@pytest.mark.parametrize("name", ["tiny-cnn", "tiny-transformer"])
def test_shrunk_model_compiles(name, tmp_path):
    entry = find(name)
    passes = ["prune-channels{density=0.5}"]
    with sparsec.compile(entry.build(), "host", passes=passes, output=tmp_path / "out") as artifact:
        golden = artifact.golden()
        found = artifact.run(golden.inputs)
        assert _difference(golden.outputs, found) < 1e-4
    sparsec.compile(entry.build(), "host", output=tmp_path / "whole").close()
    small, whole = ((tmp_path / folder / "weights.bin").stat().st_size for folder in ("out", "whole"))
    assert small < 0.75 * whole


BAD = {
    "density=0": "Pass 'prune-channels': option 'density' is 0, expected more than 0 and at most 1.",
    "density=1.5": "Pass 'prune-channels': option 'density' is 1.5, expected more than 0 and at most 1.",
    "multiple=0": "Pass 'prune-channels': option 'multiple' is 0, expected at least 1.",
    "kinds=[]": "Pass 'prune-channels': option 'kinds' is empty, expected some of channels, neurons, heads, "
    "head-channels.",
    "kinds=[filters]": "Pass 'prune-channels', option 'kinds': Unknown value 'filters'; expected one of: channels, "
    "head-channels, heads, neurons.",
    "score=ria": "Pass 'prune-channels', option 'score': Unknown value 'ria'; expected one of: hessian, magnitude, "
    "wanda.",
}


@pytest.mark.parametrize("option", BAD)
def test_bad_option_gives_this_message(option):
    with pytest.raises(RecipeError) as caught:
        parse_pass(f"prune-channels{{{option}}}")
    assert str(caught.value) == BAD[option]


def test_text_form_reads_back():
    step = PruneChannels(density=0.5, kinds=("heads",), update="refit")
    assert parse_pass(str(step)) == step
