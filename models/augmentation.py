# SPDX-License-Identifier: Apache-2.0
"""Many views of few pictures: crops, mirroring, colours, blends and pastes.

A network's activations need no labels, and a teacher's outputs are right for any input; so what calibration and
recovery lack in photographs, random views make up in part. Asano and Saeed, "The Augmented Image Prior: Distilling 1000
Classes by Extrapolating from a Single Image", 2023, show how far that goes; crops of varied area: Szegedy et al.,
"Going Deeper with Convolutions", 2015; blends: Zhang et al., "mixup", 2018; pastes: Yun et al., "CutMix", 2019.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.models.photographs import Pixels, resize

_AREA = (0.1, 1.0)
"""Share of a picture's area that a crop covers."""
_ASPECT = (3 / 4, 4 / 3)
_JITTER = 0.4
"""Brightness, contrast and saturation are multiplied by 1 - this to 1 + this."""
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""What red, green and blue add to luminance, ITU-R BT.601."""


def views(pool: Sequence[Pixels], count: int, size: int, seed: int, folder: Path | None = None) -> NDArray[np.uint8]:
    """Random views of pictures.

    Args:
        pool: Pictures, each as likely as the other.
        count: Number of views; the first n of more are the same n.
        size: Of a view, in pixels.
        seed: The same seed gives the same views.
        folder: The folder of all packages.

    Returns:
        ``[count, size, size, 3]``: half of them of one picture, a quarter blends and a quarter pastes of two.
    """
    found = np.empty((count, size, size, 3), np.uint8)
    for index in range(count):
        random = np.random.RandomState([seed, index])
        first, second = (view(pool[random.randint(len(pool))], size, random, folder) for _ in range(2))
        found[index] = _MIXES[random.randint(len(_MIXES))](first, second, random)
    return found


def view(picture: Pixels, size: int, random: Any, folder: Path | None = None) -> Pixels:
    """A random part of a picture, mirrored or not, its colours changed: ``[size, size, 3]``."""
    part = resize(_part(picture, random), size, size, folder)
    return _jitter(part[:, ::-1] if random.randint(2) else part, random)


def _part(picture: Pixels, random: Any) -> Pixels:
    """A rectangle of random area and aspect, as far as the picture has room for it."""
    height, width = picture.shape[:2]
    area = height * width * random.uniform(*_AREA)
    aspect = math.exp(random.uniform(*np.log(_ASPECT)))
    rows = max(1, min(height, round(math.sqrt(area / aspect))))
    columns = max(1, min(width, round(math.sqrt(area * aspect))))
    top, left = random.randint(0, height - rows + 1), random.randint(0, width - columns + 1)
    return picture[top : top + rows, left : left + columns]


def _jitter(picture: Pixels, random: Any) -> Pixels:
    """Brightness, then contrast around the mean luminance, then saturation around each pixel's luminance."""
    brightness, contrast, saturation = random.uniform(1 - _JITTER, 1 + _JITTER, 3).astype(np.float32)
    pixels = picture.astype(np.float32) * brightness
    mean = (pixels @ _GREY).mean()
    pixels = mean + (pixels - mean) * contrast
    grey = (pixels @ _GREY)[..., None]
    return np.asarray((grey + (pixels - grey) * saturation).clip(0, 255).astype(np.uint8))


def _first(first: Pixels, second: Pixels, random: Any) -> Pixels:
    return first


def _blend(first: Pixels, second: Pixels, random: Any) -> Pixels:
    """A weighted mean of both."""
    share = np.float32(random.uniform(0.5, 0.9))
    return np.asarray((share * first + (1 - share) * second).astype(np.uint8))


def _paste(first: Pixels, second: Pixels, random: Any) -> Pixels:
    """A rectangle of the second on the first, at its own place."""
    rows, columns = (sorted(random.randint(0, side + 1, 2)) for side in first.shape[:2])
    mixed = first.copy()
    mixed[slice(*rows), slice(*columns)] = second[slice(*rows), slice(*columns)]
    return mixed


_MIXES: tuple[Callable[[Pixels, Pixels, Any], Pixels], ...] = (_first, _first, _blend, _paste)
