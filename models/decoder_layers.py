# SPDX-License-Identifier: Apache-2.0
"""The layers of a LLaMA-like decoder as exporters write them, on a `GraphBuilder`.

Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", 2023; rotary positions: Su et al., "RoFormer",
2021; grouped queries: Ainslie et al., "GQA", 2023. Activations are ``[1, tokens, width]``; the number of tokens may be
symbolic.
"""

import math
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from sparsec.models.graph_builder import GraphBuilder

MASKED = np.float32(-10000)
"""Added to the score of what may not be seen; its exponential is 0 in float32."""


class Heads(NamedTuple):
    """Heads of queries, heads of keys and values, channels of each."""

    queries: int
    keys: int
    width: int


class Rotation(NamedTuple):
    """Cosine and sine of each position's angles, each ``[tokens, width]``, and the channels of a head."""

    cosine: ir.Value
    sine: ir.Value
    width: int


def rotation_tables(net: GraphBuilder, tokens: ir.Value, positions: int, width: int, base: float) -> Rotation:
    """The angles of the first positions; channels i and i + width / 2 turn together, by position * base^(-2i / width).

    Args:
        net: The graph.
        tokens: ``[1, tokens]``, at most `positions`.
        positions: Rows of the tables.
        width: Channels of a head.
        base: Of the geometric series of frequencies.
    """
    frequencies = base ** (-np.arange(0, width, 2) / width)
    angles = np.tile(np.outer(np.arange(positions), frequencies), 2)
    length = net.node("Shape", "rotary.length", [tokens], start=1, end=2)
    start, axis = net.constant("rotary.start", np.array([0])), net.constant("rotary.axis", np.array([0]))
    cosine, sine = (
        net.node("Slice", f"rotary.{name}", [net.constant(f"rotary.{name}.table", table), start, length, axis])
        for name, table in (("cosine", np.cos(angles).astype(np.float32)), ("sine", np.sin(angles).astype(np.float32)))
    )
    return Rotation(cosine, sine, width)


def causal_bias(net: GraphBuilder, tokens: ir.Value) -> ir.Value:
    """What is added to the scores ``[tokens, tokens]``: 0 for the token itself and those before, else `MASKED`."""
    length = net.node("Shape", "causal.length", [tokens], start=1, end=2)
    square = net.node("Concat", "causal.shape", [length, length], axis=0)
    full = net.node("ConstantOfShape", "causal.full", [square], value=ir.tensor(np.array([MASKED])))
    return net.node("Trilu", "causal.bias", [full, net.constant("causal.diagonal", np.int64(1))], upper=1)


def decoder_layer(
    net: GraphBuilder, name: str, x: ir.Value, rotation: Rotation, bias: ir.Value, heads: Heads, epsilon: float
) -> ir.Value:
    """Self-attention and a gated perceptron, each on the normalized input and added to it."""
    normed = rms_norm(net, f"{name}.input_layernorm", x, epsilon)
    x = net.node(
        "Add", f"{name}.self_attn.add", [attention(net, f"{name}.self_attn", normed, rotation, bias, heads), x]
    )
    normed = rms_norm(net, f"{name}.post_attention_layernorm", x, epsilon)
    return net.node("Add", f"{name}.mlp.add", [gated_perceptron(net, f"{name}.mlp", normed), x])


def attention(net: GraphBuilder, name: str, x: ir.Value, rotation: Rotation, bias: ir.Value, heads: Heads) -> ir.Value:
    """Attention to the tokens before, `heads.queries` heads that share `heads.keys` of keys and values."""
    query = rotate(net, f"{name}.q_rotary", _split(net, f"{name}.q_proj", x, heads.queries, heads.width), rotation)
    key = rotate(net, f"{name}.k_rotary", _split(net, f"{name}.k_proj", x, heads.keys, heads.width), rotation)
    keys = net.node("Transpose", f"{name}.k_transpose", [_repeat(net, f"{name}.k", key, heads)], perm=[0, 1, 3, 2])
    values = _repeat(net, f"{name}.v", _split(net, f"{name}.v_proj", x, heads.keys, heads.width), heads)
    scores = net.node("MatMul", f"{name}.scores", [query, keys])
    root = net.constant("attention.scale", np.float32(1 / math.sqrt(heads.width)))
    masked = net.node("Add", f"{name}.mask", [net.node("Mul", f"{name}.scale", [scores, root]), bias])
    weights = net.node("Softmax", f"{name}.softmax", [masked], axis=-1)
    rows = net.node(
        "Transpose", f"{name}.rows", [net.node("MatMul", f"{name}.context", [weights, values])], perm=[0, 2, 1, 3]
    )
    shape = net.constant("attention.merged", np.array([0, 0, heads.queries * heads.width]))
    return net.matmul(f"{name}.o_proj", net.node("Reshape", f"{name}.merge", [rows, shape]))


def rotate(net: GraphBuilder, name: str, x: ir.Value, rotation: Rotation) -> ir.Value:
    """Rotary positions of ``[1, heads, tokens, width]``: ``x * cosine + (-second half, first half) * sine``."""
    half = rotation.width // 2
    places = {end: net.constant(f"rotary.{end}", np.array([end])) for end in (0, half, 2 * half)}
    axis = net.constant("rotary.last", np.array([-1]))
    first = net.node("Slice", f"{name}.first", [x, places[0], places[half], axis])
    second = net.node("Slice", f"{name}.second", [x, places[half], places[2 * half], axis])
    turned = net.node("Concat", f"{name}.turn", [net.node("Neg", f"{name}.negate", [second]), first], axis=-1)
    along = net.node("Mul", f"{name}.cosine", [x, rotation.cosine])
    return net.node("Add", name, [along, net.node("Mul", f"{name}.sine", [turned, rotation.sine])])


def gated_perceptron(net: GraphBuilder, name: str, x: ir.Value) -> ir.Value:
    """``down(silu(gate(x)) * up(x))``; Shazeer, "GLU Variants Improve Transformer", 2020."""
    gate = net.matmul(f"{name}.gate_proj", x)
    opened = net.node("Mul", f"{name}.silu", [gate, net.node("Sigmoid", f"{name}.sigmoid", [gate])])
    return net.matmul(f"{name}.down_proj", net.node("Mul", f"{name}.gated", [opened, net.matmul(f"{name}.up_proj", x)]))


def rms_norm(net: GraphBuilder, name: str, x: ir.Value, epsilon: float) -> ir.Value:
    """Root-mean-square normalization, written out; Zhang and Sennrich, 2019."""
    squared = net.node("Pow", f"{name}.square", [x, net.constant("two", np.float32(2))])
    mean = net.node("ReduceMean", f"{name}.mean", [squared, net.constant("last_axis", np.array([-1]))])
    shifted = net.node("Add", f"{name}.shift", [mean, net.constant("epsilon", np.float32(epsilon))])
    scaled = net.node("Div", f"{name}.divide", [x, net.node("Sqrt", f"{name}.root", [shifted])])
    return net.node("Mul", name, [scaled, net.weight(f"{name}.weight")])


def tied_head(net: GraphBuilder, x: ir.Value, table: str) -> ir.Value:
    """The logits ``[1, tokens, vocabulary]``: products with the rows of the embedding table, which is not copied."""
    vocabulary, width = net.array(table).shape
    rows = net.node("Reshape", "lm_head.rows", [x, net.constant("lm_head.flat", np.array([-1, width]))])
    product = net.node("Gemm", "lm_head", [rows, net.weight(table)], transB=1)
    return net.node("Reshape", "lm_head.batch", [product, net.constant("lm_head.wide", np.array([1, -1, vocabulary]))])


def _split(net: GraphBuilder, name: str, x: ir.Value, heads: int, width: int) -> ir.Value:
    """A projection of `x` as ``[1, heads, tokens, width]``."""
    shape = net.constant(f"attention.split{heads}", np.array([0, 0, heads, width]))
    split = net.node("Reshape", f"{name}.split", [net.matmul(name, x), shape])
    return net.node("Transpose", f"{name}.transpose", [split], perm=[0, 2, 1, 3])


def _repeat(net: GraphBuilder, name: str, x: ir.Value, heads: Heads) -> ir.Value:
    """``[1, keys, tokens, width]`` as ``[1, queries, tokens, width]``: each head as often as queries share it."""
    times = heads.queries // heads.keys
    apart = net.node("Unsqueeze", f"{name}_apart", [x, net.constant("attention.apart", np.array([2]))])
    copies = net.constant("attention.copies", np.array([1, 1, times, 1, 1]))
    repeated = net.node("Expand", f"{name}_repeat", [apart, copies])
    shape = net.constant("attention.together", np.array([0, heads.queries, -1, heads.width]))
    return net.node("Reshape", f"{name}_together", [repeated, shape])
