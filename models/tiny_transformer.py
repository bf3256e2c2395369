# SPDX-License-Identifier: Apache-2.0
"""A text encoder in miniature, weights from a seed: two layers, 4 heads, 64 channels, 16 tokens."""

from pathlib import Path

import numpy as np
import onnx_ir as ir

from sparsec.models import transformer_layers as layers
from sparsec.models.graph_builder import GraphBuilder
from sparsec.models.runner import Arrays, Run, Split
from sparsec.models.seeded import Shape, correlation, draw, linear_shapes

TOKENS, WIDTH, HIDDEN, HEADS, VOCABULARY, CLASSES = 16, 64, 128, 4, 50, 8


def _norm_shapes(name: str) -> dict[str, Shape]:
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def _layer_shapes(name: str) -> dict[str, Shape]:
    """The tensors of one encoder layer."""
    square = (f"{name}.attention.{part}" for part in ("self.query", "self.key", "self.value", "output.dense"))
    return {
        **{tensor: shape for part in square for tensor, shape in linear_shapes(part, WIDTH, WIDTH).items()},
        **_norm_shapes(f"{name}.attention.output.LayerNorm"),
        **linear_shapes(f"{name}.intermediate.dense", HIDDEN, WIDTH),
        **linear_shapes(f"{name}.output.dense", WIDTH, HIDDEN),
        **_norm_shapes(f"{name}.output.LayerNorm"),
    }


_SHAPES = {
    "embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
    "embeddings.token_type_embeddings.weight": (2, WIDTH),
    "embeddings.position_embeddings.weight": (2 * TOKENS, WIDTH),
    **_norm_shapes("embeddings.LayerNorm"),
    **_layer_shapes("encoder.layer.0"),
    **_layer_shapes("encoder.layer.1"),
    **linear_shapes("head.fc", CLASSES, WIDTH),
}


def build(folder: Path | None = None) -> ir.Model:
    """The network: ``tokens`` and ``mask`` [1, 16] to ``logits`` [1, 8]. It reads no package.

    Layer 0 has its normalizations written out, layer 1 has them as operators.
    """
    net = GraphBuilder("tiny_transformer", draw(_SHAPES, seed=11))
    tokens, mask = (net.input(name, [1, TOKENS], ir.DataType.INT64) for name in ("tokens", "mask"))
    x = layers.embeddings(net, tokens, layers.layer_norm)
    bias = layers.mask_bias(net, mask)
    x = layers.encoder_layer(net, "encoder.layer.0", x, bias, HEADS, layers.layer_norm_written_out)
    x = layers.encoder_layer(net, "encoder.layer.1", x, bias, HEADS, layers.layer_norm)
    return net.model(logits=net.linear("head.fc", layers.mean_pool(net, x, mask)))


def inputs(split: Split, folder: Path | None = None) -> Arrays:
    """Random tokens [64, 1, 16], the last ones of most rows masked as padding."""
    random = np.random.RandomState(3 if split == "calibration" else 4)
    tokens = random.randint(1, VOCABULARY, (64, 1, TOKENS)).astype(np.int64)
    lengths = random.randint(4, TOKENS + 1, (64, 1, 1))
    mask = (np.arange(TOKENS) < lengths).astype(np.int64)
    return {"tokens": tokens * mask, "mask": mask}


def score(run: Run, folder: Path | None = None, limit: int | None = None) -> float:
    """Correlation of the logits on held-out rows with onnxruntime's."""
    return correlation(build(), run, {name: array[:limit] for name, array in inputs("heldout").items()})
