# SPDX-License-Identifier: Apache-2.0
"""The layers of a BERT-like encoder as exporters write them, on a `GraphBuilder`.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2018. Activations are
``[1, tokens, width]``; the number of tokens may be symbolic.
"""

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sparsec.models.graph_builder import GraphBuilder

EPSILON = 1e-12
Norm = Callable[[GraphBuilder, str, ir.Value], ir.Value]


def embeddings(net: GraphBuilder, tokens: ir.Value, norm: Norm) -> ir.Value:
    """Word, first token type and position, added and normalized."""
    words = net.node("Gather", "embeddings.words", [net.weight("embeddings.word_embeddings.weight"), tokens])
    kind = net.constant("embeddings.token_type", net.array("embeddings.token_type_embeddings.weight")[0])
    typed = net.node("Add", "embeddings.typed", [words, kind])
    length = net.node("Shape", "embeddings.length", [tokens], start=1, end=2)
    table = net.weight("embeddings.position_embeddings.weight")
    start, axis = net.constant("embeddings.start", np.array([0])), net.constant("embeddings.axis", np.array([0]))
    positions = net.node("Slice", "embeddings.positions", [table, start, length, axis])
    return norm(net, "embeddings.LayerNorm", net.node("Add", "embeddings.sum", [typed, positions]))


def mask_bias(net: GraphBuilder, mask: ir.Value) -> ir.Value:
    """From 1 for a token and 0 for padding, ``[1, tokens]``, to what is added to the scores, ``[1, 1, 1, tokens]``."""
    wide = net.node("Unsqueeze", "mask.unsqueeze", [mask, net.constant("mask.axes", np.array([1, 2]))])
    number = net.node("Cast", "mask.cast", [wide], to=ir.DataType.FLOAT.value)
    missing = net.node("Sub", "mask.invert", [net.constant("one", np.float32(1)), number])
    return net.node("Mul", "mask.bias", [missing, net.constant("mask.scale", np.float32(-10000))])


def encoder_layer(net: GraphBuilder, name: str, x: ir.Value, bias: ir.Value, heads: int, norm: Norm) -> ir.Value:
    """Self-attention and a two-layer perceptron, each followed by addition and normalization."""
    attended = attention(net, f"{name}.attention", x, bias, heads)
    added = net.node("Add", f"{name}.attention.output.add", [attended, x])
    x = norm(net, f"{name}.attention.output.LayerNorm", added)
    hidden = gelu(net, f"{name}.intermediate.gelu", net.matmul_add(f"{name}.intermediate.dense", x))
    added = net.node("Add", f"{name}.output.add", [net.matmul_add(f"{name}.output.dense", hidden), x])
    return norm(net, f"{name}.output.LayerNorm", added)


def attention(net: GraphBuilder, name: str, x: ir.Value, bias: ir.Value, heads: int) -> ir.Value:
    """Multi-head self-attention with the projection of its output."""
    width = net.array(f"{name}.self.query.weight").shape[0]
    query = _heads(net, f"{name}.self.query", x, heads, [0, 2, 1, 3])
    key = _heads(net, f"{name}.self.key", x, heads, [0, 2, 3, 1])
    value = _heads(net, f"{name}.self.value", x, heads, [0, 2, 1, 3])
    scores = net.node("MatMul", f"{name}.self.scores", [query, key])
    root = net.constant(f"{name}.self.root", np.float32(math.sqrt(width // heads)))
    scaled = net.node("Div", f"{name}.self.scale", [scores, root])
    masked = net.node("Add", f"{name}.self.mask", [scaled, bias])
    weights = net.node("Softmax", f"{name}.self.softmax", [masked], axis=-1)
    context = net.node("MatMul", f"{name}.self.context", [weights, value])
    rows = net.node("Transpose", f"{name}.self.rows", [context], perm=[0, 2, 1, 3])
    shape = net.constant(f"{name}.self.width", np.array([0, 0, width]))
    return net.matmul_add(f"{name}.output.dense", net.node("Reshape", f"{name}.self.merge", [rows, shape]))


def layer_norm(net: GraphBuilder, name: str, x: ir.Value) -> ir.Value:
    """Layer normalization as the operator."""
    return net.node(
        "LayerNormalization", name, [x, net.weight(f"{name}.weight"), net.weight(f"{name}.bias")], epsilon=EPSILON
    )


def layer_norm_written_out(net: GraphBuilder, name: str, x: ir.Value) -> ir.Value:
    """Layer normalization as it is exported to opsets that lack the operator."""
    axes = net.constant("last_axis", np.array([-1]))
    centred = net.node("Sub", f"{name}.centre", [x, net.node("ReduceMean", f"{name}.mean", [x, axes])])
    squared = net.node("Pow", f"{name}.square", [centred, net.constant("two", np.float32(2))])
    variance = net.node("ReduceMean", f"{name}.variance", [squared, axes])
    shifted = net.node("Add", f"{name}.shift", [variance, net.constant("epsilon", np.float32(EPSILON))])
    scaled = net.node("Div", f"{name}.divide", [centred, net.node("Sqrt", f"{name}.root", [shifted])])
    weighted = net.node("Mul", f"{name}.scale", [scaled, net.weight(f"{name}.weight")])
    return net.node("Add", name, [weighted, net.weight(f"{name}.bias")])


def gelu(net: GraphBuilder, name: str, x: ir.Value) -> ir.Value:
    """Gaussian error linear unit, written out with Erf."""
    scaled = net.node("Div", f"{name}.divide", [x, net.constant("root_of_two", np.float32(math.sqrt(2)))])
    error = net.node("Erf", f"{name}.erf", [scaled])
    shifted = net.node("Add", f"{name}.shift", [error, net.constant("one", np.float32(1))])
    product = net.node("Mul", f"{name}.mul", [x, shifted])
    return net.node("Mul", name, [product, net.constant("half", np.float32(0.5))])


def mean_pool(net: GraphBuilder, x: ir.Value, mask: ir.Value) -> ir.Value:
    """The mean over the tokens that are not padding, ``[1, width]``."""
    number = net.node("Cast", "pool.cast", [mask], to=ir.DataType.FLOAT.value)
    column = net.node("Unsqueeze", "pool.unsqueeze", [number, net.constant("pool.axis", np.array([-1]))])
    tokens = net.constant("pool.tokens", np.array([1]))
    total = net.node("ReduceSum", "pool.sum", [net.node("Mul", "pool.mask", [x, column]), tokens], keepdims=0)
    count = net.node("ReduceSum", "pool.count", [column, tokens], keepdims=0)
    return net.node("Div", "pool.mean", [total, count])


def _heads(net: GraphBuilder, name: str, x: ir.Value, heads: int, order: list[int]) -> ir.Value:
    """A projection of `x`, split into heads; `order` permutes batch, token, head, channel."""
    width = net.array(f"{name}.weight").shape[0]
    shape = net.constant(f"{name}.shape", np.array([0, 0, heads, width // heads]))
    split = net.node("Reshape", f"{name}.split", [net.matmul_add(name, x), shape])
    return net.node("Transpose", f"{name}.transpose", [split], perm=order)
