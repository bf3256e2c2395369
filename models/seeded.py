# SPDX-License-Identifier: Apache-2.0
"""Weights and inputs drawn from a seed, for networks that need no package.

`numpy.random.RandomState` is used because its stream is frozen: the same seed gives the same network for ever.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.models.runner import Arrays, Run, onnxruntime_run

Shape = tuple[int, ...]


def conv_shapes(name: str, shape: Shape, norm: str = "") -> dict[str, Shape]:
    """The tensors of a convolution with weight `shape`, followed by batch normalization `norm`, else with a bias."""
    if not norm:
        return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.weight": shape, **{f"{norm}.{part}": shape[:1] for part in parts}}


def linear_shapes(name: str, outputs: int, inputs: int) -> dict[str, Shape]:
    """The tensors of a fully connected layer."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def draw(shapes: Mapping[str, Shape], seed: int) -> dict[str, NDArray[np.float32]]:
    """Weights that keep activations near unit size through the network.

    Matrices and kernels are normal with variance 2 / fan-in (He et al., "Delving Deep into Rectifiers", 2015); scales
    and variances lie between 0.5 and 1.5, shifts near 0.
    """
    random = np.random.RandomState(seed)
    return {name: _draw_tensor(name, shape, random).astype(np.float32) for name, shape in shapes.items()}


def random_pictures(count: int, size: int, seed: int) -> NDArray[np.float32]:
    """Random pictures, ``[count, 1, 3, size, size]``: a colour plus patches of 8x8 and of 2x2 pixels, about -4..4."""
    random = np.random.RandomState(seed)
    sides = (size, 8, 2)
    patches = (random.normal(0, 1, (count, 1, 3, size // side, size // side)) for side in sides)
    layers = [patch.repeat(side, 3).repeat(side, 4) for patch, side in zip(patches, sides, strict=True)]
    return np.asarray(np.sum(layers, axis=0), np.float32)


def correlation(model: ir.Model, run: Run, samples: Arrays) -> float:
    """How closely `run` follows onnxruntime from sample to sample: 1 for the same logits, about 0 for constant ones.

    Each logit is centred over the samples first; then it is Pearson's correlation over all of them.
    """
    reference = onnxruntime_run(model)
    rows = [dict(zip(samples, row, strict=True)) for row in zip(*samples.values(), strict=True)]
    pair = (np.stack([execute(row)["logits"] for row in rows]) for execute in (run, reference))
    found, expected = (logits - logits.mean(axis=0) for logits in pair)
    product = np.linalg.norm(found) * np.linalg.norm(expected)
    return float(np.vdot(found, expected) / product) if product else 0.0


def _draw_tensor(name: str, shape: Shape, random: Any) -> NDArray[np.float64]:
    """One tensor, by the last part of its name and its rank."""
    if len(shape) > 1:
        return np.asarray(random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape))
    if name.endswith((".weight", ".running_var")):
        return np.asarray(random.uniform(0.5, 1.5, shape))
    return np.asarray(random.normal(0, 0.1, shape))
