# SPDX-License-Identifier: Apache-2.0
"""Photographs and textures as arrays: labelled ImageNet images, and unlabelled ones for calibration and backgrounds."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.models.packages import import_tool, verified_file, verified_files
from sparsec.models.pins import PACKAGES

Pixels = NDArray[np.uint8]
"""An RGB image ``[height, width, 3]``."""
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
TEXTURES = ("brick.png", "grass.png", "gravel.png")
MORE_PHOTOGRAPHS = (
    *("camera.png", "coins.png", "cheetah.jpg", "cheetah1.jpg", "cheetah2.jpg", "lion.jpg", "tower.jpg", "quokka.jpg"),
    *("kiwi.jpg", "faust_github.jpg", "Wall.jpg", "cityCC0.png", "china.jpg", "flower.jpg"),
)
MORE_TEXTURES = ("ihc.png", "Bubbles.jpg", "tex3.jpg")
_HOMES = {Path(file).name: (package.name, file) for package in PACKAGES.values() for file in package.files}
"""Where a picture is, by its name."""
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue, on a scale of 0..1."""


def pillow(module: str = "PIL.Image", folder: Path | None = None) -> ModuleType:
    """A module of Pillow."""
    return import_tool("pillow", module, folder)


def imagenet(folder: Path | None = None) -> list[tuple[Pixels, int]]:
    """20 validation images of ImageNet with their labels, which the files are named after."""
    files = verified_files("foolbox", "foolbox/data/imagenet_*.jpg", folder)
    return [(_read(file, folder), int(file.stem.rpartition("_")[2])) for file in files]


def pictures(names: tuple[str, ...], folder: Path | None = None) -> list[Pixels]:
    """Pictures by name, of the four groups above; they are of many sizes."""
    return [_read(verified_file(*_HOMES[name], folder), folder) for name in names]


def thumbnails(folder: Path | None = None) -> list[Pixels]:
    """40 test images of CIFAR-10 and CIFAR-100, 32 x 32."""
    patterns = ("foolbox/data/cifar10_*.png", "foolbox/data/cifar100_*.png")
    return [_read(file, folder) for pattern in patterns for file in verified_files("foolbox", pattern, folder)]


def crops(count: int, size: int, seed: int, folder: Path | None = None) -> NDArray[np.uint8]:
    """Random square parts of photographs, some mirrored: ``[count, size, size, 3]``, the same for the same seed."""
    random = np.random.RandomState(seed)
    photographs = pictures(PHOTOGRAPHS, folder)
    return np.stack([crop(photographs[index % len(photographs)], size, random, folder) for index in range(count)])


def crop(image: Pixels, size: int, random: Any, folder: Path | None) -> Pixels:
    """A random square of half to all of the shorter side, mirrored or not, as ``[size, size, 3]``."""
    side = int(min(image.shape[:2]) * random.uniform(0.5, 1.0))
    top, left = (random.randint(0, extent - side + 1) for extent in image.shape[:2])
    part = resize(image[top : top + side, left : left + side], size, size, folder)
    return part[:, ::-1] if random.randint(2) else part


def resize(image: Pixels, width: int, height: int, folder: Path | None = None) -> Pixels:
    """The whole image at another size, bicubic."""
    module = pillow(folder=folder)
    return np.asarray(module.fromarray(image).resize((width, height), module.Resampling.BICUBIC))


def centre(image: Pixels, shorter: int, size: int, folder: Path | None = None) -> Pixels:
    """The middle square of `size` pixels after the shorter side has become `shorter`."""
    return ten_crops(image, shorter, size, folder)[0]


def ten_crops(image: Pixels, shorter: int, size: int, folder: Path | None = None) -> list[Pixels]:
    """The middle and the four corners, each as it is and mirrored; Krizhevsky et al., 2012. The first is `centre`.

    Args:
        image: The picture.
        shorter: What its shorter side becomes before it is cut, in pixels.
        size: Of a crop, in pixels.
        folder: The folder of all packages.
    """
    scaled = _scaled(image, shorter, folder)
    bottom, right = scaled.shape[0] - size, scaled.shape[1] - size
    corners = ((bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right))
    crops = [scaled[top : top + size, left : left + size] for top, left in corners]
    return [picture for crop in crops for picture in (crop, crop[:, ::-1])]


def normalized(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images [n, height, width, 3] by the mean and deviation of ImageNet's colours, as [n, 1, 3, height, width]."""
    mean, deviation = (np.array(values, np.float32) for values in (_MEAN, _DEVIATION))
    scaled = (pixels.astype(np.float32) / 255 - mean) / deviation
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)[:, None])


def _scaled(image: Pixels, shorter: int, folder: Path | None) -> Pixels:
    """The whole image, its shorter side `shorter` pixels."""
    scale = shorter / min(image.shape[:2])
    return resize(image, round(image.shape[1] * scale), round(image.shape[0] * scale), folder)


def _read(file: Path, folder: Path | None) -> Pixels:
    with pillow(folder=folder).open(file) as image:
        return np.asarray(image.convert("RGB"))
