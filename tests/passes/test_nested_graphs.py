# SPDX-License-Identifier: Apache-2.0
"""Passes leave nested graphs alone: weights that one reads stay as they are, and so do the values it reads."""

import numpy as np
import onnx
import pytest

from sparsec.compiler.exchange import to_onnx
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.instruments import Verify
from sparsec.compiler.layers import layers
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.compiler.registry import parse_pass

GRAPH = """g (float[2,32] x, bool c) => (float[2,32] i, float[2,32] y) {
  [one] r = Gemm(x, v)
  [if] i = If (c) <
    then_branch = t () => (float[2,32] p) { [inner] s = Gemm(r, w, b) u = Tanh(s) [last] p = Gemm(u, z) },
    else_branch = e () => (float[2,32] q) { q = Neg(r) }>
  [two] n = Gemm(r, w, b)
  [three] y = Gemm(n, z)
}"""
PASSES = (
    *("quantize", "quantize{bits=4 group=8 act=none}", "quantize{method=gptq}", "gqsa{group=8 min_weights=1}"),
    *("prune-nm{min_weights=1}", "prune-nm{min_weights=1 score=hessian update=refit}"),
    *("prune-unstructured{min_weights=1 density=0.2}", "prune-blocks{min_weights=1 update=greedy}"),
)


def _model(graph, normal, names):
    """The graph with square weights; they are in the model as it is read, so that nested graphs find them."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]>\n{graph}')
    arrays = {name: normal(32, 32, seed=seed) / 6 for seed, name in enumerate(names)} | {"b": normal(32)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return load_onnx(proto)


@pytest.fixture
def nested(normal):
    return _model(GRAPH, normal, "vwz")


def _samples(calibration, nested):
    data = calibration(nested)
    data.arrays["c"] = np.ones(data.samples, bool)
    return data


@pytest.mark.parametrize("text", PASSES)
def test_a_weight_that_a_nested_graph_reads_stays_and_the_record_says_why(text, nested, calibration, normal):
    data = _samples(calibration, nested)
    result = PassManager([parse_pass(text)], [Verify()]).run(nested, PassContext(calibration=data))
    before, after = ({layer.name: layer.tensor.numpy() for layer in layers(model)} for model in (nested, result.model))
    assert not np.array_equal(before["one"], after["one"])
    np.testing.assert_array_equal(before["two"], after["two"])
    np.testing.assert_array_equal(before["three"], after["three"])
    assert [(record.layer, record.note) for record in result.steps[0].records if record.skipped] == [
        ("two", "its weight is also used by 'inner' (Gemm) in a nested graph"),
        ("three", "its weight is also used by 'last' (Gemm) in a nested graph"),
    ]


@pytest.mark.parametrize("text", PASSES)
def test_a_nested_graph_computes_what_it_did_where_its_neighbour_is_compressed(text, nested, calibration, normal):
    only = f"{text.removesuffix('}')}{' ' if '{' in text else '{'}only=[two,three]}}"
    data = _samples(calibration, nested)
    result = PassManager([parse_pass(only)], [Verify()]).run(nested, PassContext(calibration=data))
    feeds = {"x": normal(2, 32, seed=9), "c": np.array(True)}
    for name, array in Oracle(result.model).run(feeds).items():
        np.testing.assert_array_equal(array, Oracle(nested).run(feeds)[name])


def test_values_that_a_nested_graph_reads_stay_float(normal, calibration):
    graph = GRAPH.replace("Gemm(r, w, b) u", "Gemm(r, k, b) u").replace("Gemm(u, z)", "Gemm(u, k)")
    model = _model(graph, normal, "vwzk")
    context = PassContext(calibration=_samples(calibration, model))
    result = PassManager([parse_pass("quantize{ignore=[one]}")], [Verify()]).run(model, context)
    feeds = {"x": normal(2, 32, seed=9), "c": np.array(True)}
    found, wanted = Oracle(result.model).run(feeds), Oracle(model).run(feeds)
    np.testing.assert_array_equal(found["i"], wanted["i"])
    assert not np.array_equal(found["y"], wanted["y"])
    again = load_onnx(to_onnx(result.model))
    np.testing.assert_allclose(Oracle(again).run(feeds)["y"], found["y"], rtol=1e-5, atol=1e-5)
