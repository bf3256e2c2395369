# SPDX-License-Identifier: Apache-2.0
"""A weight of 4-bit groups as one plain array, so that whatever slices, masks or counts weights does the same to it.

An element is uint32: the scale's float16 bits above, then a mark, the zero point and the code. An element of a group
that is not stored is 0; within a stored group none is.
"""

from dataclasses import dataclass

import numpy as np

from sparsec.compiler.encoding import EncodedTensor
from sparsec.compiler.lowering.kernel import Array

BITS = 4
"""The widest code."""
_SCALE, _MARK, _ZERO = 16, 15, 4
_NIBBLE = 15


@dataclass(frozen=True, slots=True)
class Groups:
    """A weight [out][in], the inputs a multiple of the group.

    Attributes:
        codes: uint8 [out][groups][group], 0 to 15.
        zeros: uint8 [out][groups]: the code that stands for 0.
        scales: float16 [out][groups].
        kept: bool [out][groups]: whether the group is stored; else its weights are 0.
    """

    codes: Array
    zeros: Array
    scales: Array
    kept: Array

    @property
    def values(self) -> Array:
        """float32 [out][in]: what the codes stand for."""
        steps = self.codes.astype(np.float32) - self.zeros[..., np.newaxis]
        scales = np.where(self.kept, self.scales, np.float16(0)).astype(np.float32)
        return np.asarray((steps * scales[..., np.newaxis]).reshape(len(self.codes), -1))


def join(groups: Groups) -> Array:
    """The one array: uint32 [out][in]."""
    shared = groups.scales.view(np.uint16).astype(np.uint32) << _SCALE | groups.zeros.astype(np.uint32) << _ZERO
    words = (shared | np.uint32(1 << _MARK))[..., np.newaxis] | groups.codes
    kept = words * groups.kept[..., np.newaxis]
    return np.asarray(kept.reshape(len(words), -1).astype(np.uint32))


def split(words: Array, group: int) -> Groups:
    """The inverse of `join`."""
    runs = words.reshape(len(words), -1, group)
    first = runs[..., 0]
    return Groups(
        (runs & _NIBBLE).astype(np.uint8),
        ((first >> _ZERO) & _NIBBLE).astype(np.uint8),
        (first >> _SCALE).astype(np.uint16).view(np.float16),
        first != 0,
    )


def groups_of(tensor: EncodedTensor) -> Groups | None:
    """A tensor's groups; None if it has none, or not all of one size, or more bits than four."""
    quant = tensor.encoding.quant
    if quant is None or not quant.group or quant.bits > BITS:
        return None
    assert tensor.codes is not None
    assert tensor.scales is not None
    codes = tensor.matrix(tensor.codes)
    if codes.shape[1] % quant.group:
        return None
    offset = -quant.lowest
    zeros = np.full(tensor.scales.shape, offset) if tensor.zero_points is None else tensor.zero_points
    runs = (codes.astype(np.int16) + offset).astype(np.uint8).reshape(len(codes), -1, quant.group)
    kept = np.asarray(tensor.matrix(tensor.mask).reshape(runs.shape).any(axis=2))
    return Groups(runs, zeros.astype(np.uint8), tensor.scales.astype(np.float16), kept)
