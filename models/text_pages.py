# SPDX-License-Identifier: Apache-2.0
"""Rendered pages of text, turned by quarters and spoilt by noise: labelled images without a download."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.models.photographs import Pixels, centre, pillow

_WIDTH, _HEIGHT = 420, 560
_TEXT = (
    "the river runs below an old stone bridge where boats wait for morning light and every market day brings people "
    "from farms across the valley who sell bread apples wool and honey while children follow the music of a small band "
    "playing under green trees near the town hall until evening when lamps are lit along the quiet streets"
)


def turned_pages(count: int, size: int, noise: float, seed: int, folder: Path | None = None) -> NDArray[np.uint8]:
    """Pages in all four orientations, one after the other.

    Args:
        count: Number of images, ``[count, size, size, 3]``; image i is turned clockwise by ``i % 4`` quarters.
        size: Of the square cut from the middle of the page, whose shorter side is 8/7 of it, in pixels.
        noise: Standard deviation of what is added to each pixel, in grey levels of 0..255.
        seed: The same seed gives the same pages.
        folder: The folder of all packages.
    """
    random = np.random.RandomState(seed)
    images = []
    for index in range(count):
        upright = _page(random, folder)
        turned = np.ascontiguousarray(np.rot90(upright, -(index % 4)))
        square = centre(turned, size * 8 // 7, size, folder)
        spoilt = square + random.normal(0, noise, (size, size, 1))
        images.append(spoilt.clip(0, 255).astype(np.uint8))
    return np.stack(images)


def _page(random: Any, folder: Path | None) -> Pixels:
    """A page of paragraphs: font size, leading, margin and greys vary."""
    paper, ink = int(random.randint(200, 256)), int(random.randint(0, 90))
    image = pillow("PIL.Image", folder).new("RGB", (_WIDTH, _HEIGHT), (paper, paper, paper))
    draw = pillow("PIL.ImageDraw", folder).Draw(image)
    font = pillow("PIL.ImageFont", folder).load_default(int(random.randint(11, 27)))
    margin, leading = int(random.randint(16, 60)), font.size * random.uniform(1.2, 1.7)
    y = float(margin)
    while y < _HEIGHT - margin - font.size:
        last = random.rand() < 0.2
        width = (_WIDTH - 2 * margin) * (random.uniform(0.3, 1) if last else 1)
        draw.text((margin, y), _line(draw, font, width, random), fill=(ink, ink, ink), font=font)
        y += leading * (2 if last else 1)
    return np.asarray(image)


def _line(draw: Any, font: Any, width: float, random: Any) -> str:
    """As many random words as fit."""
    words = _TEXT.split()
    line = ""
    while draw.textlength(longer := f"{line} {words[random.randint(len(words))]}", font) < width:
        line = longer
    return line
