# SPDX-License-Identifier: Apache-2.0
"""A mobile network in miniature, weights from a seed: each kind of layer that such networks have, 29 k parameters."""

from pathlib import Path

import numpy as np
import onnx_ir as ir

from sparsec.models.graph_builder import GraphBuilder
from sparsec.models.runner import Arrays, Run, Split
from sparsec.models.seeded import conv_shapes, correlation, draw, linear_shapes, random_pictures

SIZE = 32
_EPSILON = 1e-3
_SHAPES = {
    **conv_shapes("stem.conv", (16, 3, 3, 3), "stem.bn"),
    **conv_shapes("blocks.0.conv_dw", (16, 1, 3, 3), "blocks.0.bn1"),
    **conv_shapes("blocks.0.conv_pw", (16, 16, 1, 1), "blocks.0.bn2"),
    **conv_shapes("blocks.1.conv_pw", (48, 16, 1, 1), "blocks.1.bn1"),
    **conv_shapes("blocks.1.conv_dw", (48, 1, 5, 5), "blocks.1.bn2"),
    **conv_shapes("blocks.1.conv_pwl", (24, 48, 1, 1), "blocks.1.bn3"),
    **conv_shapes("blocks.2.conv_pw", (192, 24, 1, 1), "blocks.2.bn1"),
    **conv_shapes("blocks.2.conv_dw", (192, 1, 5, 5), "blocks.2.bn2"),
    **conv_shapes("blocks.2.se.reduce", (16, 192, 1, 1)),
    **conv_shapes("blocks.2.se.expand", (192, 16, 1, 1)),
    **conv_shapes("blocks.2.conv_pwl", (24, 192, 1, 1), "blocks.2.bn3"),
    **conv_shapes("blocks.3.conv_dw", (24, 1, 3, 3), "blocks.3.bn1"),
    **conv_shapes("blocks.3.conv_pw", (64, 24, 1, 1), "blocks.3.bn2"),
    **linear_shapes("head.fc", 10, 64),
}


def build(folder: Path | None = None) -> ir.Model:
    """The network: ``image`` [1, 3, 32, 32] to ``logits`` [1, 10]. It reads no package."""
    net = GraphBuilder("tiny_cnn", draw(_SHAPES, seed=7))
    x = net.conv("stem.conv", net.input("image", [1, 3, SIZE, SIZE]), stride=2, pads=(0, 0, 1, 1))
    x = net.relu6("stem.act", net.batch_norm("stem.bn", x, _EPSILON))
    for block in (_separable, _inverted, _squeeze_excite, _strided):
        x = block(net, x)
    x = net.node("Flatten", "head.flatten", [net.node("GlobalAveragePool", "head.pool", [x])])
    return net.model(logits=net.linear("head.fc", x))


def inputs(split: Split, folder: Path | None = None) -> Arrays:
    """Random pictures [64, 1, 3, 32, 32]."""
    return {"image": random_pictures(64, SIZE, seed=1 if split == "calibration" else 2)}


def score(run: Run, folder: Path | None = None, limit: int | None = None) -> float:
    """Correlation of the logits on held-out pictures with onnxruntime's."""
    return correlation(build(), run, {name: array[:limit] for name, array in inputs("heldout").items()})


def _separable(net: GraphBuilder, x: ir.Value) -> ir.Value:
    """3x3 on each channel, pointwise, and the input added."""
    y = net.depthwise("blocks.0.conv_dw", x, pads=(1, 1, 1, 1))
    y = net.relu6("blocks.0.act1", net.batch_norm("blocks.0.bn1", y, _EPSILON))
    y = net.batch_norm("blocks.0.bn2", net.conv("blocks.0.conv_pw", y), _EPSILON)
    return net.node("Add", "blocks.0.add", [y, x])


def _inverted(net: GraphBuilder, x: ir.Value) -> ir.Value:
    """Expanded, 5x5 on each channel with stride 2 and uneven padding, projected."""
    x = net.batch_norm("blocks.1.bn1", net.conv("blocks.1.conv_pw", x), _EPSILON)
    x = net.depthwise("blocks.1.conv_dw", net.relu6("blocks.1.act1", x), stride=2, pads=(1, 1, 2, 2))
    x = net.relu6("blocks.1.act2", net.batch_norm("blocks.1.bn2", x, _EPSILON))
    return net.batch_norm("blocks.1.bn3", net.conv("blocks.1.conv_pwl", x), _EPSILON)


def _squeeze_excite(net: GraphBuilder, x: ir.Value) -> ir.Value:
    """Expanded, 5x5 on each channel, channels weighted by their means, projected, and the input added."""
    y = net.batch_norm("blocks.2.bn1", net.conv("blocks.2.conv_pw", x), _EPSILON)
    y = net.depthwise("blocks.2.conv_dw", net.node("HardSwish", "blocks.2.act1", [y]), pads=(2, 2, 2, 2))
    y = net.node("HardSwish", "blocks.2.act2", [net.batch_norm("blocks.2.bn2", y, _EPSILON)])
    gate = net.conv("blocks.2.se.reduce", net.node("GlobalAveragePool", "blocks.2.se.pool", [y]))
    gate = net.conv("blocks.2.se.expand", net.node("Relu", "blocks.2.se.act", [gate]))
    gate = net.node("HardSigmoid", "blocks.2.se.gate", [gate], alpha=float(np.float32(1 / 6)), beta=0.5)
    y = net.conv("blocks.2.conv_pwl", net.node("Mul", "blocks.2.se.mul", [y, gate]))
    return net.node("Add", "blocks.2.add", [net.batch_norm("blocks.2.bn3", y, _EPSILON), x])


def _strided(net: GraphBuilder, x: ir.Value) -> ir.Value:
    """3x3 on each channel with stride 2 and even padding, pointwise."""
    x = net.depthwise("blocks.3.conv_dw", x, stride=2, pads=(1, 1, 1, 1))
    x = net.relu6("blocks.3.act1", net.batch_norm("blocks.3.bn1", x, _EPSILON))
    return net.relu6("blocks.3.act2", net.batch_norm("blocks.3.bn2", net.conv("blocks.3.conv_pw", x), _EPSILON))
