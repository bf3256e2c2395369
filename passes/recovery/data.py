# SPDX-License-Identifier: Apache-2.0
"""Samples for recovery: split into training and validation, mixed into batches, and varied where they are images."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from sparsec.compiler.calibration import Calibration

Feeds = dict[str, Tensor]
_VALIDATION = 8
"""One sample in so many is kept apart."""
_CLOSEST = 0.6
"""The smallest side of a view, as a share of the image's."""


def load(model: ir.Model, calibration: Calibration) -> tuple[Feeds, Feeds]:
    """All samples as tensors with a leading axis: those to train on, and the last eighth to validate with."""
    rows = list(calibration.feeds(model))
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    apart = max(1, len(rows) // _VALIDATION)
    tensors = {name: torch.tensor(array) for name, array in stacked.items()}
    return {name: t[:-apart] for name, t in tensors.items()}, {name: t[-apart:] for name, t in tensors.items()}


def size(feeds: Mapping[str, Tensor]) -> int:
    """Number of samples."""
    return len(next(iter(feeds.values())))


def take(feeds: Mapping[str, Tensor], rows: Tensor | slice) -> Feeds:
    """Some of the samples."""
    return {name: tensor[rows] for name, tensor in feeds.items()}


def batches(count: int, batch: int, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Indices of samples, `batch` at a time, mixed if there is a generator."""
    order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
    yield from torch.split(order, batch)


def images(feeds: Mapping[str, Tensor]) -> list[str]:
    """Inputs that look like images: ``[samples, 1, 3, height, width]``, float32, at least 16 pixels a side."""
    return [
        n
        for n, t in feeds.items()
        if t.dim() == 5 and t.shape[2] == 3 and t.is_floating_point() and min(t.shape[3:]) >= 16
    ]


def varied(feeds: Mapping[str, Tensor], generator: torch.Generator) -> Feeds:
    """Another view of each image: a part of it, moved, scaled back to its size, mirrored half the time, brightened.

    The teacher sees the same view, so no label is needed, nor has what the image shows to stay the same.
    """
    changed = {name: torch.stack([_view(image, generator) for image in feeds[name]]) for name in images(feeds)}
    return {**feeds, **changed}


def _view(image: Tensor, generator: torch.Generator) -> Tensor:
    """One image ``[1, 3, height, width]``."""
    a, b, c, d, e = torch.rand(5, generator=generator).tolist()
    height, width = image.shape[2:]
    share = _CLOSEST + (1 - _CLOSEST) * a
    rows, columns = round(height * share), round(width * share)
    top, left = int(b * (height - rows + 1)), int(c * (width - columns + 1))
    part = image[:, :, top : top + rows, left : left + columns]
    part = torch.nn.functional.interpolate(part, (height, width), mode="bilinear", antialias=False)
    part = part.flip(-1) if d < 0.5 else part
    mean = part.mean((2, 3), keepdim=True)
    return torch.add(mean, part - mean, alpha=0.8 + 0.4 * e)


def with_views(feeds: Mapping[str, Tensor], views: int, seed: int) -> Feeds:
    """The samples as they are, followed by ``views - 1`` varied copies of each."""
    generator = torch.Generator().manual_seed(seed + 1)
    copies = [dict(feeds), *(varied(feeds, generator) for _ in range(views - 1))]
    return {name: torch.cat([copy[name] for copy in copies]) for name in feeds}
