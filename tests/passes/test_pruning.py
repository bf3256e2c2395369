# SPDX-License-Identifier: Apache-2.0
"""What the pruning passes share, and what prune-nm, prune-unstructured and prune-kernels add."""

import numpy as np
import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.errors import DataError, PassError, RecipeError
from sparsec.compiler.instruments import Verify
from sparsec.compiler.layers import layers
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.compiler.pattern import parse_pattern
from sparsec.compiler.registry import parse_pass

PASSES = {
    "prune-blocks{rows=2 cols=4 density=0.5}": "block(2x4)",
    "prune-nm": "nm(2:4)",
    "prune-nm{n=1 m=8}": "nm(1:8)",
    "prune-nm{width=2}": "nm(2:4x2)",
    "prune-unstructured{density=0.3}": "unstructured",
    "prune-unstructured{density=0.25 scope=row}": "unstructured",
    "prune-kernels{rows=2 cols=2 density=0.5 ends=true}": "block(2x2)",
}
MLP = "g (float[1,6,32] x) => (float[1,6,24] y) { h = MatMul(x, v) r = Relu(h) y = MatMul(r, w) }"


def _prune(model, text, data=None):
    text = text if "{" in text else f"{text}{{}}"
    step = parse_pass(text.replace("{", "{min_weights=1 ", 1))
    return PassManager([step], [Verify()]).run(model, PassContext(calibration=data))


@pytest.fixture
def mlp(model_of, normal):
    return model_of(MLP, v=normal(32, 40), w=normal(40, 24, seed=1))


def _correlated(normal, samples=12):
    """Samples whose channels resemble each other, so that there is something to make up with."""
    return Calibration({"x": normal(samples, 1, 6, 32) @ normal(32, 32, seed=7) * 0.3 + normal(1, seed=3)})


@pytest.mark.parametrize("text", PASSES)
def test_structure_numbers_and_a_second_run(text, mlp, run):
    result = _prune(mlp, text)
    pattern = parse_pattern(PASSES[text])
    for before, after in zip(layers(mlp), layers(result.model), strict=True):
        tensor = after.encoded
        assert tensor.encoding.pattern == pattern
        mask = tensor.matrix(tensor.mask)
        assert pattern.check(mask)
        np.testing.assert_array_equal(after.matrix(), before.matrix() * mask)
        assert mask.mean() == pytest.approx(
            {"prune-n": 0.5, "prune-u": 0.3, "prune-b": 0.5, "prune-k": 0.5}[text[:7]]
            if "m=8" not in text and "row" not in text.partition("scope=")[2]
            else (0.125 if "m=8" in text else 0.25),
            abs=0.02,
        )
    dense = mlp.clone()
    for layer, pruned in zip(layers(dense), layers(result.model), strict=True):
        layer.weight.const_value = type(layer.tensor)(pruned.tensor.numpy(), name=layer.weight.name)
    np.testing.assert_array_equal(run(result.model)["y"], run(dense)["y"])
    again = _prune(result.model, text)
    assert not again.changed
    assert all("is already" in record.note for record in again.steps[0].records)


@pytest.mark.parametrize("score", ["wanda", "ria", "hessian"])
@pytest.mark.parametrize("text", ["prune-nm{", "prune-unstructured{density=0.4 ", "prune-blocks{rows=2 cols=2 "])
def test_each_update_makes_less_output_error_than_the_one_before(text, score, mlp, normal):
    data, errors = _correlated(normal), []
    for update in ("none", "sweep", "refit"):
        result = _prune(mlp, f"{text}correct_bias=false score={score} update={update}}}", data)
        first, second = layers(mlp), layers(result.model)
        before, after = next(first), next(second)
        assert after.encoded.encoding.pattern.check(after.encoded.matrix(after.encoded.mask))
        x = data.arrays["x"].reshape(-1, 32)
        errors.append(np.square(x @ (before.matrix() - after.matrix()).T).sum())
    assert errors[2] <= errors[1] < errors[0]


def test_a_row_scope_keeps_the_same_share_of_each_row(mlp):
    result = _prune(mlp, "prune-unstructured{density=0.25 scope=row}")
    for layer in layers(result.model):
        counts = layer.encoded.matrix(layer.encoded.mask).sum(axis=1)
        assert (counts == round(0.25 * layer.matrix().shape[1])).all()


def test_densities_of_single_layers(mlp):
    first, second = (layer.name for layer in layers(mlp))
    result = _prune(mlp, f'prune-unstructured{{density=0.5 densities=["{second}=0.1"]}}')
    shares = [layer.encoded.density for layer in layers(result.model)]
    assert shares == pytest.approx([0.5, 0.1], abs=0.01)
    with pytest.raises(PassError, match=f"'densities': Unknown layer 'fc'; expected one of: {first}"):
        _prune(mlp, 'prune-unstructured{densities=["fc=0.1"]}')


def test_only_some_layers(mlp):
    _, second = (layer.name for layer in layers(mlp))
    result = _prune(mlp, f"prune-nm{{only=[{second}]}}")
    assert [layer.encoded is not None for layer in layers(result.model)] == [False, True]
    assert [record.note for record in result.steps[0].records if record.skipped] == ["it is not in 'only'"]
    with pytest.raises(PassError, match=r"'only': Unknown layer 'fc\*'"):
        _prune(mlp, "prune-nm{only=[fc*]}")


def test_an_input_axis_that_m_does_not_divide_is_skipped_by_name(model_of, normal):
    model = model_of("g (float[2,30] x) => (float[2,8] y) { y = MatMul(x, w) }", w=normal(30, 8))
    result = _prune(model, "prune-nm")
    assert not result.changed
    assert result.steps[0].records[0].note == "its input axis has 30 elements, not a multiple of m=4"


@pytest.mark.parametrize("option", ["score=wanda", "update=refit"])
def test_measuring_needs_calibration_data(option, mlp):
    with pytest.raises(PassError) as caught:
        _prune(mlp, f"prune-nm{{{option}}}")
    assert str(caught.value) == (
        "Pass 'prune-nm' needs calibration data. Give --calibration FILE.npz with one array per model input and a "
        "leading axis of samples (in Python: calibration={input name: array})."
    )
    with pytest.raises(DataError, match="Calibration has 2 samples, expected at least 8"):
        _prune(mlp, f"prune-nm{{{option}}}", Calibration({"x": np.ones((2, 1, 6, 32), np.float32)}))


def test_constant_samples_do_no_harm(mlp, normal):
    data = Calibration({"x": np.repeat(normal(1, 1, 6, 32), 8, axis=0)})
    result = _prune(mlp, "prune-nm{score=hessian update=refit}", data)
    assert all(np.isfinite(layer.matrix()).all() for layer in layers(result.model))


@pytest.mark.parametrize("noise", [1e-1, 1e-2, 1e-3, 1e-4, 1e-6])
@pytest.mark.parametrize(
    "text",
    [
        "prune-nm{score=hessian update=sweep}", "prune-nm{score=hessian update=refit}",
        "prune-unstructured{score=wanda update=sweep}", "prune-blocks{rows=2 cols=2 update=greedy}",
    ],
)  # fmt: skip
def test_samples_that_hardly_differ_do_no_harm(text, noise, model_of, normal):
    model = model_of(
        "g (float[6,32] x) => (float[6,24] y) { h = MatMul(x, v) k = Add(h, b) r = Relu(k) y = Gemm(r, w) }",
        v=normal(32, 40) / 6, b=normal(40), w=normal(40, 24, seed=1) / 6,
    )  # fmt: skip
    one = np.repeat(normal(1, 1, 32), 6, axis=1)
    data = Calibration({"x": (one + noise * normal(40, 6, 32, seed=3)).astype(np.float32)})
    result = _prune(model, text, data)
    wanted, found = (Oracle(m).run({"x": data.arrays["x"][0]})["y"] for m in (model, result.model))
    assert np.linalg.norm(found - wanted) < 0.3 * np.linalg.norm(wanted)
    shares = [float(record.note.split("output error ")[1].split("%")[0]) for record in result.steps[0].records]
    assert all(0 <= share <= 100 for share in shares)


NETWORK = """g (float[1,4,8,8] x) => (float[1,6] y) {
  a = Conv <pads=[1,1,1,1]> (x, stem) b = Relu(a)
  c = Conv <pads=[1,1,1,1], group=8> (b, deep)
  d = Conv (c, point) e = Relu(d)
  f = Conv <pads=[1,1,1,1]> (e, wide) g = Relu(f)
  h = GlobalAveragePool(g) i = Flatten(h)
  y = Gemm <transB=1> (i, head)
}"""


@pytest.fixture
def network(model_of, normal):
    return model_of(
        NETWORK, stem=normal(8, 4, 3, 3), deep=normal(8, 1, 3, 3), point=normal(16, 8, 1, 1),
        wide=normal(16, 16, 3, 3), head=normal(6, 16),
    )  # fmt: skip


def test_kernels_go_whole_and_the_ends_stay(network):
    result = _prune(network, "prune-kernels{rows=4 density=0.5}")
    found = {layer.weight.name: layer for layer in layers(result.model) if layer.encoded}
    assert {name: str(layer.encoded.encoding.pattern) for name, layer in found.items()} == {
        "point": "block(4x1)",
        "wide": "block(4x9)",
    }
    kernels = found["wide"].encoded.mask.reshape(4, 4, 16, 9)
    assert (kernels == kernels[:, :1, :, :1]).all()
    notes = {record.note for record in result.steps[0].records if record.skipped}
    assert notes == {
        "it reads an input of the model; set ends=true to prune it",
        "it makes an output of the model; set ends=true to prune it",
        "it is a grouped convolution",
    }
    everything = _prune(network, "prune-kernels{rows=2 ends=true}")
    assert sum(layer.encoded is not None for layer in layers(everything.model)) == 4


BAD = {
    "prune-nm{n=4 m=4}": "Pattern 'nm(4:4)': expected 1 <= n < m.",
    "prune-nm{n=5 m=4}": "Pattern 'nm(5:4)': expected 1 <= n < m.",
    "prune-nm{width=0}": "Pattern 'nm(2:4x0)': expected 1 <= n < m, width at least 1.",
    "prune-unstructured{density=0}": "Pass 'prune-unstructured': option 'density' is 0, expected more than 0 and at "
    "most 1.",
    "prune-kernels{density=1.01}": "Pass 'prune-kernels': option 'density' is 1.01, expected more than 0 and at most "
    "1.",
    "prune-kernels{rows=0}": "Pattern 'block(0x1)': expected sides of at least 1.",
    "prune-unstructured{densities=[fc=0.5]}": "Pass text 'prune-unstructured{densities=[fc=0.5]}': a text that holds "
    "'=' needs quotes in the list of option 'densities'; expected a form such as 'prune-blocks{rows=4 density=0.5}'.",
    "prune-nm{update=all}": "Pass 'prune-nm', option 'update': Unknown value 'all'; expected one of: greedy, none, "
    "refit, sweep.",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_option_gives_this_message(text):
    with pytest.raises(RecipeError) as caught:
        parse_pass(text)
    assert str(caught.value) == BAD[text]
