# SPDX-License-Identifier: Apache-2.0
"""Resize along one axis as a matrix: every mode of ONNX's operator, from its specification."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.compiler.graph import attribute

Array = NDArray[Any]
_MOST_ELEMENTS = 2**24


def resize_matrix(
    node: ir.Node, length: int, out: int, scale: float | None, region: tuple[float, float] | None
) -> Array | None:
    """What each output element takes of each input element.

    Args:
        node: A Resize of opset 19 or newer.
        length: Elements before.
        out: Elements after.
        scale: As the node gives it; None: from the lengths.
        region: Start and end of the axis in ``tf_crop_and_resize``, as fractions.

    Returns:
        float64 [length][out]; None for what no matrix can say, or no small one.
    """
    if length * out > _MOST_ELEMENTS:
        return None
    scale = out / length if scale is None else scale
    mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
    places = _places(mode, np.arange(out, dtype=np.float64), scale, length, region)
    if places is None:
        return None
    kept = np.ones(out) if region is None else ((places >= 0) & (places <= length - 1)).astype(np.float64)
    if not kept.all() and attribute(node, "extrapolation_value", 0.0):
        return None
    if attribute(node, "mode", "nearest") == "nearest":
        matrix = _nearest(node, places, length)
    else:
        matrix = _interpolated(node, places, scale, length)
    return matrix * kept


def _places(mode: str, x: Array, scale: float, length: int, region: tuple[float, float] | None) -> Array | None:
    """Where output element x lies in the input."""
    wide = scale * length
    centred = (x + 0.5) / scale - 0.5
    if mode == "tf_crop_and_resize":
        if region is None:
            return None
        first, span = region[0] * (length - 1), (region[1] - region[0]) * (length - 1)
        return first + (x * span / (wide - 1) if wide > 1 else x * 0 + span / 2)
    table = {
        "half_pixel": centred,
        "pytorch_half_pixel": centred if wide > 1 else x * 0 - 0.5,
        "half_pixel_symmetric": length / 2 * (1 - len(x) / wide) + centred,
        "asymmetric": x / scale,
        "align_corners": x * (length - 1) / (wide - 1) if wide != 1 else x * 0,
    }
    return table.get(mode)


_ROUNDING: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _nearest(node: ir.Node, places: Array, length: int) -> Array:
    rounded = _ROUNDING[attribute(node, "nearest_mode", "round_prefer_floor")](places)
    return np.eye(length)[:, np.clip(rounded, 0, length - 1).astype(np.int64)]


def _interpolated(node: ir.Node, places: Array, scale: float, length: int) -> Array:
    """Weights by distance; beyond the ends the last element goes on, or nothing does."""
    cubic = attribute(node, "mode", "nearest") == "cubic"
    shrink = min(scale, 1.0) if attribute(node, "antialias", 0) else 1.0
    reach = int(np.ceil((2 if cubic else 1) / shrink))
    taps = np.floor(places)[:, None] + np.arange(-reach, reach + 2)
    distance = np.abs(taps - places[:, None]) * shrink
    weights = _cubic(distance, attribute(node, "cubic_coeff_a", -0.75)) if cubic else np.clip(1 - distance, 0, None)
    if attribute(node, "exclude_outside", 0):
        weights = np.where((taps >= 0) & (taps < length), weights, 0)
    weights = weights / weights.sum(1, keepdims=True)
    matrix = np.zeros((length, len(places)))
    columns = np.broadcast_to(np.arange(len(places))[:, None], taps.shape)
    np.add.at(matrix, (np.clip(taps, 0, length - 1).astype(np.int64), columns), weights)
    return matrix


def _cubic(x: Array, a: float) -> Array:
    """The cubic convolution kernel of R. Keys (1981) at distances x."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
