# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from sparsec.compiler.errors import RecipeError
from sparsec.compiler.pass_manager import PassManager
from sparsec.compiler.registry import parse_pass
from sparsec.passes.fuse_layernorm import FuseLayernorm

HEAD = "g (float[2,5,8] x) => (float[2,5,8] y) "
MEAN = "m = ReduceMean <keepdims = 1> (x, last) d = Sub(x, m) "
SQUARE = "q = Pow(d, two) v = ReduceMean <keepdims = 1> (q, last) e = Add(v, eps) r = Sqrt(e) "
FORMS = {
    "plain": MEAN + SQUARE + "y = Div(d, r)",
    "affine": MEAN + SQUARE + "n = Div(d, r) k = Mul(n, scale) y = Add(k, shift)",
    "scaled": MEAN + SQUARE + "n = Div(d, r) y = Mul(scale, n)",
    "square by product": MEAN + SQUARE.replace("Pow(d, two)", "Mul(d, d)") + "n = Div(d, r) y = Mul(n, scale)",
    "reciprocal": MEAN + SQUARE + "i = Reciprocal(r) n = Mul(i, d) k = Mul(n, scale) y = Add(shift, k)",
    "deviation twice": MEAN + "d2 = Sub(x, m) " + SQUARE + "y = Div(d2, r)",
    "epsilon first": MEAN + SQUARE.replace("Add(v, eps)", "Add(eps, v)") + "y = Div(d, r)",
}


def _model(model_of, normal, body, **changed):
    constants = {
        "last": np.array([-1]),
        "two": np.float32(2),
        "eps": np.float32(1e-5),
        "scale": normal(8, seed=2),
        "shift": normal(8, seed=3),
        **changed,
    }
    used = {name: array for name, array in constants.items() if f"{name})" in body or f"{name}," in body}
    return model_of(HEAD + "{ " + body + " }", **used)


def _fuse(model):
    return PassManager([FuseLayernorm()]).run(model)


@pytest.mark.parametrize("form", FORMS)
def test_fuses_with_equal_numbers(form, model_of, normal, run, ops):
    model = _model(model_of, normal, FORMS[form])
    result = _fuse(model)
    assert ops(result.model) == ["LayerNormalization"]
    assert [value.name for value in result.model.graph.outputs] == ["y"]
    np.testing.assert_allclose(run(result.model)["y"], run(model)["y"], rtol=1e-5, atol=1e-6)
    assert not _fuse(result.model).changed


def test_keeps_the_name_of_the_division(model_of, normal):
    model = _model(model_of, normal, FORMS["affine"])
    name = next(node.name for node in model.graph if node.op_type == "Div")
    result = _fuse(model)
    assert [node.name for node in result.model.graph] == [name]
    assert result.steps[0].records[0].layer == name


GUARDS = {
    "another axis": (FORMS["plain"], {"last": np.array([1])}),
    "two axes": (FORMS["plain"], {"last": np.array([1, 2])}),
    "a cube": (FORMS["plain"], {"two": np.float32(3)}),
    "variance of something else": (FORMS["plain"].replace("Pow(d, two)", "Pow(x, two)"), {}),
    "epsilon for each element": (FORMS["plain"], {"eps": np.full((2, 5, 1), 1e-5, np.float32)}),
}


@pytest.mark.parametrize("why", GUARDS)
def test_does_not_fire(why, model_of, normal, ops):
    body, changed = GUARDS[why]
    model = _model(model_of, normal, body, **changed)
    result = _fuse(model)
    assert not result.changed
    assert ops(result.model) == ops(model)


def test_a_scale_for_each_token_stays_outside(model_of, normal, run, ops):
    model = _model(model_of, normal, FORMS["scaled"], scale=normal(5, 8))
    result = _fuse(model)
    assert ops(result.model) == ["LayerNormalization", "Mul"]
    np.testing.assert_allclose(run(result.model)["y"], run(model)["y"], rtol=1e-5, atol=1e-6)


def test_has_no_options():
    with pytest.raises(RecipeError, match="Pass 'fuse-layernorm': Unknown option 'axis'"):
        parse_pass("fuse-layernorm{axis=1}")
