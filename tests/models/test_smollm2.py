# SPDX-License-Identifier: Apache-2.0
"""SmolLM2 and the layers it is built of, against numpy."""

import math

import numpy as np
import onnx_ir as ir
import pytest

from sparsec.models import decoder_layers as layers
from sparsec.models import smollm2
from sparsec.models.graph_builder import GraphBuilder
from sparsec.models.runner import onnxruntime_run

HEADS = layers.Heads(queries=4, keys=2, width=6)
WIDTH, BASE = 24, 100.0


def random_weights():
    random = np.random.RandomState(0)
    shapes = {"q_proj": (24, 24), "k_proj": (12, 24), "v_proj": (12, 24), "o_proj": (24, 24)}
    return {f"a.{name}.weight": random.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}


def built(weights, extra_rows=2):
    """Attention alone, on five tokens."""
    net = GraphBuilder("attention", weights)
    tokens, x = net.input("ids", (1, "tokens"), ir.DataType.INT64), net.input("x", (1, "tokens", WIDTH))
    rotation = layers.rotation_tables(net, tokens, 5 + extra_rows, HEADS.width, BASE)
    return net.model(y=layers.attention(net, "a", x, rotation, layers.causal_bias(net, tokens), HEADS))


def turn(rows):
    """Rotary positions of [tokens, width] by complex numbers: channel i is the real part, i + width / 2 the other."""
    half = rows.shape[1] // 2
    pairs = rows[:, :half] + 1j * rows[:, half:]
    angles = np.outer(np.arange(len(rows)), BASE ** (-np.arange(half) / half))
    turned = pairs * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], axis=1)


def expected_attention(weights, x):
    query, key, value = (x @ weights[f"a.{part}_proj.weight"].T for part in "qkv")
    heads = []
    for number in range(HEADS.queries):
        shared = number // (HEADS.queries // HEADS.keys)
        own, other = (slice(index * HEADS.width, (index + 1) * HEADS.width) for index in (number, shared))
        scores = turn(query[:, own]) @ turn(key[:, other]).T / math.sqrt(HEADS.width)
        scores[np.triu_indices(len(x), 1)] = -np.inf
        weight = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(weight / weight.sum(-1, keepdims=True) @ value[:, other])
    return np.concatenate(heads, axis=1) @ weights["a.o_proj.weight"].T


def test_attention_is_causal_rotary_and_grouped():
    weights, x = random_weights(), np.random.RandomState(1).normal(size=(5, WIDTH)).astype(np.float32)
    found = onnxruntime_run(built(weights))({"ids": np.zeros((1, 5), np.int64), "x": x[None]})["y"]
    np.testing.assert_allclose(found[0], expected_attention(weights, x.astype(np.float64)), atol=2e-6)


def test_rms_norm_and_gated_perceptron():
    random = np.random.RandomState(2)
    weights = {
        f"m.{part}_proj.weight": random.normal(size=(8, 8)).astype(np.float32) for part in ("gate", "up", "down")
    }
    weights["n.weight"] = random.normal(size=8).astype(np.float32)
    net = GraphBuilder("mlp", weights)
    y = layers.gated_perceptron(net, "m", layers.rms_norm(net, "n", net.input("x", (1, 3, 8)), 1e-5))
    x = random.normal(size=(1, 3, 8)).astype(np.float32)
    normed = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5) * weights["n.weight"]
    gate, up = (normed @ weights[f"m.{part}_proj.weight"].T for part in ("gate", "up"))
    expected = (gate / (1 + np.exp(-gate)) * up) @ weights["m.down_proj.weight"].T
    np.testing.assert_allclose(onnxruntime_run(net.model(y=y))({"x": x})["y"], expected, rtol=1e-4, atol=1e-5)


def test_rows_are_brought_from_neighbours_to_halves():
    weight = np.arange(12, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    assert smollm2._halves(weight, 2)[:, 0].tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


def test_log_likelihood_skips_the_first_token_of_a_window():
    logits = np.log(np.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1, 1, 1]]], np.float32)) + 3
    found = smollm2._log_likelihood(lambda _: {"logits": logits}, np.array([[0, 1, 2]]))
    assert found == pytest.approx((math.log(0.25) + math.log(0.8)) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2"])
def test_perplexity_and_tokens(model):
    run = onnxruntime_run(model.build())
    assert smollm2.perplexity(run, 512) == pytest.approx(30.89, abs=0.01)
    assert smollm2.perplexity(run) == pytest.approx(math.exp(-model.baseline), abs=0.01)
    tokenizer = smollm2._tokenizer(None)
    words = "It's 2024: they'll pay  $3.50\n"
    assert tokenizer.decode(tokenizer.encode(words).ids) == words
    calibration, heldout = (model.inputs(split)["input_ids"].reshape(-1, 256) for split in ("calibration", "heldout"))
    assert len(calibration) == 2491
    news = smollm2._windows(smollm2._tokens("\n".join(smollm2._news(None)[50:]), None), 256)
    assert np.array_equal(calibration[: 4 * len(news) : 4], news)
    assert {row.tobytes() for row in calibration}.isdisjoint(row.tobytes() for row in heldout)
