# SPDX-License-Identifier: Apache-2.0
"""How a value's elements stand in memory, and the copies that change it."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from sparsec.compiler.lowering.ops import CHANNELS, CHANNELS4, Elementwise, Operand
from sparsec.compiler.lowering.ops import PLAIN as ROW_MAJOR

Part = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int, int]
"""A copy: sizes, row-major strides, packed strides, row-major start, packed start."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A kind of `ops` and, where it is not row-major, which axis holds the channels.

    Attributes:
        kind: ``plain``, ``channels`` or ``channels4``.
        view: ``image``: [batch, channels, spatial...]; ``tokens``: [..., channels]; empty for plain.
    """

    kind: str
    view: str = ""

    def simplest(self, shape: tuple[int, ...]) -> "Layout":
        """Row-major where that is the same."""
        same = self.kind == CHANNELS and (self.view == "image" or 1 in self.split(shape)[1:])
        return PLAIN if same else self

    def split(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Batch, channels and positions of a shape seen in this view."""
        if self.view == "tokens":
            return 1, shape[-1], prod(shape[:-1])
        return shape[0], shape[1], prod(shape[2:])

    def elements(self, shape: tuple[int, ...]) -> int:
        """Elements stored, filling lanes included."""
        if self.kind != CHANNELS4:
            return prod(shape)
        batch, channels, positions = self.split(shape)
        return batch * -(-channels // 4) * 4 * positions

    def image_elements(self, shape: tuple[int, ...]) -> int:
        """Elements of one image of the batch."""
        return self.elements(shape) // self.split(shape)[0]


PLAIN = Layout(ROW_MAJOR)


def for_kernel(kind: str, axis: int | None) -> Layout:
    """The layout a kernel asks for, of a value whose channels are at `axis` (1: image, -1: tokens)."""
    return PLAIN if kind == ROW_MAJOR else Layout(kind, "tokens" if axis == -1 else "image")


def copy(dtype: str, elements: int) -> Elementwise:
    """A contiguous copy."""
    return Elementwise((elements,), (Operand(dtype, (1,)),), dtype=dtype)


def copies(shape: tuple[int, ...], dtype: str, other: Layout, *, backwards: bool) -> Iterator[Elementwise]:
    """The copies from row-major to `other`, or backwards.

    Lanes beyond the channels of a ``channels4`` layout are left as they are.
    """
    batch, channels, positions = other.split(shape)
    across, along = (1, channels) if other.view == "tokens" else (positions, 1)
    if other.kind == CHANNELS:
        parts: list[Part] = [((channels, positions), (across, along), (positions, 1), 0, 0)]
    else:
        parts = list(_groups(channels, positions, across, along))
    for image in range(batch):
        base = (image * channels * positions, image * other.image_elements(shape))
        for sizes, plain, packed, plain_start, packed_start in parts:
            ends = [(plain, base[0] + plain_start), (packed, base[1] + packed_start)]
            (strides, start), (out_strides, out_start) = reversed(ends) if backwards else ends
            yield Elementwise(
                sizes, (Operand(dtype, strides, start),), dtype=dtype, out_strides=out_strides, out_offset=out_start
            )


def _groups(channels: int, positions: int, across: int, along: int) -> Iterator[Part]:
    """Full groups of four channels, then the rest: sizes, row-major strides, packed strides, both starts."""
    groups, rest = divmod(channels, 4)
    if groups:
        yield (groups, positions, 4), (4 * across, along, across), (4 * positions, 4, 1), 0, 0
    if rest:
        yield (positions, rest), (along, across), (4, 1), groups * 4 * across, groups * 4 * positions
