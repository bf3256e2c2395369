# SPDX-License-Identifier: Apache-2.0
import io
import re

import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.errors import DataError, ModelError, RecipeError
from sparsec.compiler.fidelity import measure
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.compiler.registry import parse_pass
from sparsec.compiler.sweep.plot import check_suffix, draw
from sparsec.compiler.sweep.recipe import by_curves, by_index, choose_densities, recipe
from sparsec.compiler.sweep.request import Request, pruning_pass
from sparsec.compiler.sweep.swapping import Swapper
from sparsec.compiler.sweep.sweep import sweep

TEXT = """<ir_version: 10, opset_import: ["": 21]>
g (float[1,6,16] x) => (float[1,6,8] y) <float[1,6,32] h, float[1,6,32] r, float[1,6,32] k, float[1,6,32] q> {
    h = MatMul(x, a) r = Relu(h) k = MatMul(r, b) q = Relu(k) y = MatMul(q, c) }"""
BLOCKS = "prune-blocks{min_weights=1}"


def network(**weights):
    """Three products with 16x32, 32x32 and 32x8 weights; the middle one is nearly 16 blocks of 4x4."""
    random = np.random.RandomState(0)
    arrays = {
        "a": random.standard_normal((16, 32)),
        "b": random.standard_normal((32, 32))
        * np.where(np.indices((8, 8)).sum(0) % 4, 1e-3, 1).repeat(4, 0).repeat(4, 1),
        "c": random.standard_normal((32, 8)),
    }
    tensors = [ir.tensor(array.astype(np.float32), name=name) for name, array in {**arrays, **weights}.items()]
    model = ir.from_onnx_text(TEXT, initializers=tensors)
    for node, name in zip(model.graph, ("first", "relu", "middle", "relu2", "last"), strict=True):
        node.name = name
    return load_onnx(model)


def samples(count=6, seed=1):
    return Calibration({"x": np.random.RandomState(seed).standard_normal((count, 6, 16)).astype(np.float32)})


@pytest.fixture
def context():
    return PassContext(calibration=samples(12), heldout=samples(6, 2))


@pytest.fixture(scope="module")
def found():
    request = Request((BLOCKS,), (0.25, 0.5, 0.75, 1.0))
    return sweep(network(), request, PassContext(calibration=samples(12), heldout=samples(6, 2)))


def test_every_layer_and_the_whole_model_have_a_curve(found):
    assert [layer.name for layer in found.layers] == ["first", "middle", "last"]
    assert [layer.weights for layer in found.layers] == [512, 1024, 256]
    assert found.samples == 6
    for curve in (*found.whole, *(curve for layer in found.layers for curve in layer.curves)):
        assert [point.density for point in curve.points] == [1.0, 0.75, 0.5, 0.25]
        assert curve.points[0].quality == 1.0
        assert curve.points[0].comparison.relative_error == 0


def test_what_is_prunable_by_its_numbers_is_found(found):
    first, middle, last = found.layers
    assert (middle.curves[0].knee, middle.curves[0].recommended) == (None, 0.25)
    assert (first.curves[0].knee, first.curves[0].recommended) == (0.75, 1.0)
    assert middle.pq_index > max(first.pq_index, last.pq_index)
    assert middle.pq_density < 0.5


def test_realised_zeros_count_not_the_target(context):
    """A third of 64 blocks is 21: the density is 21/64, not a third."""
    found = sweep(network(), Request((BLOCKS,), (1 / 3,), only=("middle",)), context)
    (point,) = found.whole[0].points
    assert point.density == 1 / 3
    assert point.realised == 21 / 64


def test_points_equal_the_pass_run_alone(found, context):
    """The same pass, applied to a model and measured by other code."""
    text = "prune-blocks{min_weights=1 density=0.5 correct_bias=false%s}"
    for only, curve in (("", found.whole[0]), (" only=[last]", found.layers[2].curves[0])):
        pruned = PassManager([parse_pass(text % only)]).run(network(), context).model
        want = measure(network(), pruned, context.heldout)["y"]
        (got,) = (point.comparison for point in curve.points if point.density == 0.5)
        assert got.relative_error == pytest.approx(want.relative_error, rel=1e-5)
        assert got.rows == want.rows == 36
        assert got.top1 == want.top1


def test_it_is_measured_on_what_was_held_out(context):
    request = Request((BLOCKS,), (0.5,), each=False)
    one, two = (sweep(network(), request, PassContext(calibration=context.calibration, heldout=h)).whole[0].points[0]
                for h in (context.heldout, samples(6, 9)))  # fmt: skip
    assert one.realised == two.realised
    assert one.comparison.relative_error != two.comparison.relative_error


def test_a_score_sees_calibration_samples_only(context):
    request = Request(("unstructured",), (0.5,), "wanda", ("middle",), each=False)
    wide = network(b=np.random.RandomState(3).standard_normal((32, 32)))
    request_small = Request(("prune-unstructured{min_weights=1 score=wanda}",), (0.5,), only=("middle",))
    loud = Calibration({"x": context.calibration.arrays["x"] * np.linspace(0, 9, 16, dtype=np.float32)})
    points = [
        sweep(wide, request_small, PassContext(calibration=calibration, heldout=context.heldout)).whole[0].points[0]
        for calibration in (context.calibration, loud, context.calibration)
    ]
    assert points[0] == points[2] != points[1]
    with pytest.raises(ModelError, match="Pattern 'unstructured' fits none of the layers: 'middle': it has 1024 "):
        sweep(wide, request, context)


def test_a_pattern_with_a_density_of_its_own_has_one_point(context):
    found = sweep(network(), Request(("prune-nm{min_weights=1}",)), context)
    assert [point.density for point in found.whole[0].points] == [0.5]
    assert all(len(layer.curves[0].points) == 1 for layer in found.layers)


def test_the_number_of_jobs_changes_nothing(found, context):
    for jobs in (2, 5):
        assert sweep(network(), Request((BLOCKS,), (0.25, 0.5, 0.75, 1.0), jobs=jobs), context) == found


def test_the_model_stays_as_it_is(context):
    model = network()
    before = [value.const_value for value in model.graph.initializers.values()]
    sweep(model, Request((BLOCKS,), (0.5,)), context)
    assert all(
        value.const_value is tensor for value, tensor in zip(model.graph.initializers.values(), before, strict=True)
    )


def test_layers_that_are_left_alone_are_told(context):
    found = sweep(network(), Request(("prune-blocks{min_weights=500}",), (0.5,)), context)
    assert [layer.name for layer in found.layers if layer.curves] == ["first", "middle"]
    (records,) = found.skipped.values()
    assert [(record.layer, record.note) for record in records] == [
        ("last", "it has 256 weights, fewer than min_weights=500")
    ]


def test_progress_rises_to_the_end(context):
    seen = []
    told = PassContext(
        calibration=context.calibration, heldout=context.heldout, reporter=lambda *step: seen.append(step)
    )
    sweep(network(), Request((BLOCKS,), (0.5, 0.25)), told)
    steps = [(done, total) for what, done, total in seen if what.startswith(("sweep", "prune"))]
    assert steps == sorted(steps)
    assert {total for _, total in steps} == {8}
    assert steps[-1][0] == 7


REFUSED = {
    "Density 1.5: expected numbers of more than 0 and at most 1, such as 0.5.": {"densities": (0.5, 1.5)},
    "Density 0: expected numbers of more than 0 and at most 1, such as 0.5.": {"densities": (0.0,)},
    "Density nan: expected numbers of more than 0 and at most 1, such as 0.5.": {"densities": (float("nan"),)},
    "No density: expected numbers of more than 0 and at most 1, such as 0.5.": {"densities": ()},
    "A sweep has no pattern; expected at least one, such as 'block(4x4)'.": {"patterns": ()},
    "Pattern 'dense' cannot be swept; expected one of 'block(4x4)', 'nm(2:4)', 'unstructured', or the text of a "
    "pass.": {"patterns": ("dense",)},
    "Pass 'quantize' does not prune weights; a sweep takes passes that do, such as 'prune-blocks'.": {
        "patterns": ("quantize{}",)
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_requests_are_refused(message):
    with pytest.raises(RecipeError) as caught:
        Request(**REFUSED[message])
    assert str(caught.value) == message


def test_a_wrong_pattern_text_names_the_forms():
    with pytest.raises(RecipeError, match=r"Pattern 'blok\(4x4\)' is not known; expected a form such as 'dense'"):
        pruning_pass("blok(4x4)")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "A sweep needs real inputs. Give --calibration FILE.npz, --heldout FILE.npz, or both."),
        (samples(1), "Calibration has 1 samples, expected at least 2."),
        (
            Calibration({"x": np.ones((3, 6, 16), np.float32)}),
            "Calibration has 3 samples that are all the same; expected different real inputs.",
        ),
    ],
)
def test_samples_that_do_not_serve_are_refused(data, message):
    with pytest.raises(DataError) as caught:
        sweep(network(), Request((BLOCKS,), (0.5,)), PassContext(calibration=data))
    assert str(caught.value) == message


def test_a_layer_that_is_not_there_is_refused(context):
    with pytest.raises(ModelError) as caught:
        sweep(network(), Request((BLOCKS,), (0.5,), only=("midle",)), context)
    expected = "Option '--layers': Unknown layer 'midle'; expected one of: first, last, middle. Did you mean 'middle'?"
    assert str(caught.value) == expected


def test_a_quantized_model_has_nothing_to_sweep(context):
    model = PassManager([parse_pass("quantize{}")]).run(network(), context).model
    with pytest.raises(ModelError, match="the weight is already quantized"):
        sweep(model, Request((BLOCKS,), (0.5,)), context)


def test_swapped_weights_are_those_of_another_model():
    one, two = network(), network(b=np.random.RandomState(7).standard_normal((32, 32)))
    data = samples(4)
    want = measure(one, two, data)["y"]
    swapper = Swapper(one, ["b"], list(data.feeds(one)), jobs=2)
    for _ in range(2):
        got = swapper.compare({"b": two.graph.initializers["b"].const_value.numpy()})["y"]
        assert got.relative_error == pytest.approx(want.relative_error, rel=1e-5)
        assert swapper.compare({})["y"].relative_error == 0


def test_a_large_reference_is_computed_again(monkeypatch):
    model, data = network(), samples(4)
    swap = {"b": np.zeros((32, 32), np.float32)}
    kept = Swapper(model, ["b"], list(data.feeds(model))).compare(swap)
    monkeypatch.setattr("sparsec.compiler.sweep.swapping._KEPT_BYTES", 0)
    swapper = Swapper(model, ["b"], list(data.feeds(model)))
    assert swapper.compare(swap) == swapper.compare(swap) == kept


def test_recommended_densities_stop_before_the_knee(found):
    densities = by_curves(found, BLOCKS)
    assert densities == {layer.name: layer.curves[0].recommended for layer in found.layers}
    assert densities["middle"] == 0.25


def test_a_budget_is_spent_better_than_evenly(found, context):
    request = Request((BLOCKS,), (0.25, 0.5, 0.75, 1.0))
    choice = choose_densities(network(), found, request, context, 0.5)
    assert choice.densities["middle"] == 0.25
    assert choice.found.realised == pytest.approx(0.5, abs=0.02)
    assert choice.uniform.realised == pytest.approx(0.5, abs=0.02)
    assert choice.found.loss < 0.5 * choice.uniform.loss


def test_the_recipe_prunes_each_layer_to_its_density(context):
    request = Request((BLOCKS,), (0.5,))
    written = recipe(request, BLOCKS, {"first": 0.75, "middle": 0.25, "last": 1.0})
    (step,) = written.passes
    assert (step.densities, step.ignore, step.only) == (("first=0.75", "middle=0.25"), ("last",), ())
    assert type(written).parse(str(written)).passes == written.passes
    model = PassManager(written.passes).run(network(), context).model
    share = {name: float((model.graph.initializers[name].const_value.numpy() != 0).mean()) for name in "abc"}
    assert share == {"a": 0.75, "b": 0.25, "c": 1.0}


def test_the_recipe_of_some_layers_leaves_the_others_alone(context):
    written = recipe(Request((BLOCKS,), (0.5,), only=("m*",)), BLOCKS, {"middle": 0.25})
    model = PassManager(written.passes).run(network(), context).model
    assert [float((model.graph.initializers[n].const_value.numpy() != 0).mean()) for n in "abc"] == [1, 0.25, 1]


def test_recipes_that_cannot_be_are_refused():
    request = Request(("nm(2:4)",))
    with pytest.raises(RecipeError, match=r"Pattern 'nm\(2:4\)' has a density of its own, so there is none to choose"):
        recipe(request, "nm(2:4)", {"first": 0.5})
    with pytest.raises(RecipeError, match="Every layer is best left dense under 'unstructured'"):
        recipe(request, "unstructured", {"first": 1.0})


def test_without_data_the_weights_decide():
    layers, densities = by_index(network(), Request((BLOCKS,)), 0.5)
    assert [layer.name for layer in layers] == ["first", "middle", "last"]
    sizes = {layer.name: layer.weights for layer in layers}
    assert sum(sizes[name] * densities[name] for name in sizes) == pytest.approx(0.5 * 1792)
    assert densities["middle"] < min(densities["first"], densities["last"])


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_the_same_sweep_gives_the_same_plot(kind, found):
    drawn = []
    for _ in range(2):
        stream = io.BytesIO()
        draw(found, stream, kind, "net $x^2$")
        drawn.append(stream.getvalue())
    assert drawn[0] == drawn[1]
    assert drawn[0][:8].startswith({"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[kind])


def test_a_plot_of_the_whole_model_alone(context):
    found = sweep(network(), Request((BLOCKS, "prune-nm{min_weights=1}"), (0.5, 0.25), each=False), context)
    stream = io.BytesIO()
    draw(found, stream, "svg", "net")
    assert not re.search(r"20\d\d-\d\d-\d\d", stream.getvalue().decode())


def test_another_suffix_is_refused(tmp_path):
    assert check_suffix(tmp_path / "a.SVG") == "svg"
    with pytest.raises(RecipeError, match=r"the suffix is '.jpg', expected one of .svg, .png, .pdf."):
        check_suffix(tmp_path / "a.jpg")
