# SPDX-License-Identifier: Apache-2.0
"""Weights in the order in which kernels read them, as 32-bit elements: float32, or int8 codes of four channels.

Every function takes the weight as [rows][channels][taps] and pads the channels of codes to a multiple of four by
zeros, so that a word is four neighbouring channels under one tap.
"""

import numpy as np

from sparsec.backends.kernels.positions import row_spans
from sparsec.compiler.lowering.kernel import Array


def words(weight: Array, dtype: str) -> Array:
    """[rows][channels][taps] as 32-bit elements: float32, or int32 [rows][channels / 4][taps].

    Args:
        weight: float32, or int8 codes.
        dtype: Of the activations: ``float32`` or ``uint8``.
    """
    if dtype == "float32":
        return np.ascontiguousarray(weight, np.float32)
    rows, channels, taps = weight.shape
    padded = np.zeros((rows, -(-channels // 4) * 4, taps), np.int8)
    padded[:, :channels] = weight
    grouped = padded.reshape(rows, -1, 4, taps).swapaxes(2, 3)
    return np.ascontiguousarray(grouped).view(np.int32)[..., 0]


def panels(elements: Array, size: int) -> Array:
    """[rows][...] in panels of `size` rows, the last shorter: within a panel, rows are the fastest axis."""
    flat = elements.reshape(len(elements), -1)
    parts = [
        flat[start : start + len(span.offsets)].T.ravel()
        for span in row_spans(len(flat), size)
        for start in range(span.start, span.start + max(span.count * span.step, 1), max(span.step, 1))
    ]
    return np.concatenate(parts)


def ungrouped(weight: Array, groups: int) -> Array:
    """A weight of several groups [rows][channels of a group][taps] as one of all channels."""
    rows, channels, taps = weight.shape
    whole = np.zeros((groups, rows // groups, groups, channels, taps), weight.dtype)
    for group, part in enumerate(weight.reshape(groups, -1, channels, taps)):
        whole[group, :, group] = part
    return whole.reshape(rows, groups * channels, taps)


def rows_view(weight: Array, rows: int, taps: int) -> Array:
    """A weight of any rank as [rows][channels][taps]."""
    return np.asarray(weight).reshape(rows, -1, taps)
