# SPDX-License-Identifier: Apache-2.0
"""MobileNet-v1 at 224x224, width 1, weights from a seed: 13 depthwise-separable blocks, 4.2 M parameters.

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017, table 1. It
is the network on which kernel sparsity is usually timed; random weights do for that, not for accuracy.
"""

from pathlib import Path

import onnx_ir as ir

from sparsec.models.graph_builder import GraphBuilder
from sparsec.models.runner import Arrays, Run, Split
from sparsec.models.seeded import conv_shapes, correlation, draw, linear_shapes, random_pictures

SIZE = 224
_EPSILON = 1e-3
_BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1),
)  # fmt: skip
"""Output channels and stride of each block."""
_STEM = 32
_CLASSES = 1000
_SAMPLES = 16


def build(folder: Path | None = None) -> ir.Model:
    """The network: ``image`` [1, 3, 224, 224] to ``logits`` [1, 1000]. It reads no package."""
    net = GraphBuilder("mobilenet_v1", draw(_shapes(), seed=11))
    x = net.conv("stem.conv", net.input("image", [1, 3, SIZE, SIZE]), stride=2, pads=(0, 0, 1, 1))
    x = net.relu6("stem.act", net.batch_norm("stem.bn", x, _EPSILON))
    for number, (_, stride) in enumerate(_BLOCKS):
        x = _separable(net, f"blocks.{number}", x, stride)
    x = net.node("Flatten", "head.flatten", [net.node("GlobalAveragePool", "head.pool", [x])])
    return net.model(logits=net.linear("head.fc", x))


def inputs(split: Split, folder: Path | None = None) -> Arrays:
    """Random pictures [16, 1, 3, 224, 224]."""
    return {"image": random_pictures(_SAMPLES, SIZE, seed=1 if split == "calibration" else 2)}


def score(run: Run, folder: Path | None = None, limit: int | None = None) -> float:
    """Correlation of the logits on held-out pictures with onnxruntime's."""
    return correlation(build(), run, {name: array[:limit] for name, array in inputs("heldout").items()})


def _separable(net: GraphBuilder, name: str, x: ir.Value, stride: int) -> ir.Value:
    """3x3 on each channel, then pointwise, each with batch normalization and ReLU6."""
    pads = (0, 0, 1, 1) if stride == 2 else (1, 1, 1, 1)
    x = net.depthwise(f"{name}.conv_dw", x, stride=stride, pads=pads)
    x = net.relu6(f"{name}.act1", net.batch_norm(f"{name}.bn1", x, _EPSILON))
    return net.relu6(f"{name}.act2", net.batch_norm(f"{name}.bn2", net.conv(f"{name}.conv_pw", x), _EPSILON))


def _shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor's shape by name, in the order in which they are drawn."""
    shapes, inputs_ = conv_shapes("stem.conv", (_STEM, 3, 3, 3), "stem.bn"), _STEM
    for number, (outputs, _) in enumerate(_BLOCKS):
        shapes |= conv_shapes(f"blocks.{number}.conv_dw", (inputs_, 1, 3, 3), f"blocks.{number}.bn1")
        shapes |= conv_shapes(f"blocks.{number}.conv_pw", (outputs, inputs_, 1, 1), f"blocks.{number}.bn2")
        inputs_ = outputs
    return shapes | linear_shapes("head.fc", _CLASSES, inputs_)
