# SPDX-License-Identifier: Apache-2.0
"""Codes equal onnxruntime's; gradients are straight-through, those of scales as in learned step sizes."""

import numpy as np
import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.importers import load_model
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.models.catalog import MODELS
from sparsec.passes.fuse_layernorm import FuseLayernorm
from sparsec.passes.quantize import Quantize

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="torch is not installed")

PAIR = "c = Clip (x, low, high) q = QuantizeLinear (c, s, z) y = DequantizeLinear (q, s, z)"
GRID = {"s": np.float32(0.05), "z": np.uint8(40), "low": np.float32(-2.0), "high": np.float32(4.35)}


@pytest.fixture
def executor_of():
    from sparsec.compiler.executor.executor import Executor

    return Executor


def _pair(model_of, **grid):
    return model_of(f"g (float[1,4001] x) => (float[1,4001] y) {{ {PAIR} }}", **{**GRID, **grid})


def _sweep(low=-4.0, high=8.0):
    """Numbers on, between and half way between the grid's points."""
    steps = np.linspace(low, high, 4001, dtype=np.float32)
    steps[:200] = (np.arange(-60, 140) + np.float32(0.5)) * np.float32(0.05)
    return steps[None]


@pytest.mark.parametrize("apart", [False, True], ids=["merged", "apart"])
def test_codes_equal_onnxruntimes(apart, model_of, executor_of):
    model, x = _pair(model_of), _sweep()
    expected = Oracle(model, ["q"]).run({"x": x})
    found = executor_of(model).run({"x": torch.tensor(x)}, ["q", "y"] if apart else ["y"])
    np.testing.assert_array_equal(found["y"].numpy(), expected["y"])
    if apart:
        np.testing.assert_array_equal(found["q"].numpy(), expected["q"])
        assert found["q"].dtype == torch.uint8


@pytest.mark.parametrize("name", ["tiny-cnn", "tiny-transformer"])
def test_codes_of_quantized_models_equal_onnxruntimes(name, executor_of):
    entry = MODELS[name]
    calibration = Calibration(entry.inputs("calibration", 16))
    model = (
        PassManager([FuseLayernorm(), Quantize()])
        .run(load_model(entry.build()), PassContext(calibration=calibration))
        .model
    )
    codes = [node.outputs[0].name for node in model.graph if node.op_type == "QuantizeLinear"]
    sources = [node.inputs[0].name for node in model.graph if node.op_type == "QuantizeLinear"]
    feed = next(calibration.feeds(model))
    expected = Oracle(model, [*codes, *sources]).run(feed)
    executor = executor_of(model)
    for code, source in zip(codes, sources, strict=True):
        found = executor.run({source: torch.tensor(expected[source])}, [code])[code]
        np.testing.assert_array_equal(found.numpy(), expected[code])
    whole = executor.run({name: torch.tensor(array) for name, array in feed.items()})["logits"].numpy()
    assert np.linalg.norm(whole - expected["logits"]) <= 1e-5 * np.linalg.norm(expected["logits"])


def _gradients(executor, wanted):
    s = torch.tensor(GRID["s"], requires_grad=True)
    low, high = (-40 * s, 87 * s) if len(wanted) > 1 else (-40 * s.detach(), 87 * s.detach())
    x = torch.tensor(_sweep(-4, 8))
    near = (x + 2).abs().minimum((x - 4.35).abs()) < 0.05  # there the two differ: Clip cuts, rounding still reaches
    x = torch.where(near, 0, x).requires_grad_()
    weights = torch.linspace(-1, 1, x.numel())
    (executor.run({"x": x}, wanted, {"s": s, "low": low, "high": high})["y"] * weights).sum().backward()
    return x.grad, s.grad


def test_gradients_merged_and_apart_agree(model_of, executor_of):
    executor = executor_of(_pair(model_of))
    (x1, s1), (x2, s2) = _gradients(executor, ["y"]), _gradients(executor, ["y", "q"])
    torch.testing.assert_close(x1, x2)
    torch.testing.assert_close(s1, s2, rtol=1e-3, atol=1e-3)


def test_gradients_are_those_of_learned_steps(model_of, executor_of):
    executor = executor_of(_pair(model_of))
    for value, to_x, to_s in ((1.02, 1.0, 20 - 1.02 / 0.05), (9.0, 0.0, 87.0), (-7.0, 0.0, -40.0), (0.0, 1.0, 0.0)):
        x = torch.full((1, 4001), value, requires_grad=True)
        s = torch.tensor(GRID["s"], requires_grad=True)
        executor.run({"x": x}, (), {"s": s})["y"][0, 0].backward()
        assert x.grad[0, 0].item() == to_x
        assert s.grad.item() == pytest.approx(to_s, abs=1e-3)


def test_a_batch_gives_what_its_samples_give(model_of, executor_of):
    executor = executor_of(_pair(model_of))
    x = torch.tensor(np.stack([_sweep(), _sweep(-1, 1)]))
    batch = executor.run_batch({"x": x})["y"]
    for row, found in zip(x, batch, strict=True):
        assert torch.equal(executor.run({"x": row})["y"], found)


def test_channel_scales_of_foreign_models(model_of, normal, executor_of):
    body = """d = DequantizeLinear <axis = 1> (w, s) e = Add (x, d)
    q = QuantizeLinear <axis = 1> (e, s, z) y = DequantizeLinear <axis = 1> (q, s, z)"""
    codes = np.random.RandomState(0).randint(-127, 127, (3, 4)).astype(np.int8)
    model = model_of(
        f"g (float[3,4] x) => (float[3,4] y) {{ {body} }}",
        w=codes,
        s=np.abs(normal(4)) + 0.1,
        z=np.array([0, 3, -5, 7], np.int8),
    )
    x = 20 * normal(3, 4, seed=4)
    expected = Oracle(model).run({"x": x})["y"]
    np.testing.assert_array_equal(executor_of(model).run({"x": torch.tensor(x)})["y"].numpy(), expected)
