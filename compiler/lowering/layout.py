# SPDX-License-Identifier: Apache-2.0
"""How a value's elements stand in memory, and the copies that change it."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from sparsec.compiler.lowering.ops import CHANNELS, CHANNELS4, Elementwise, Operand
from sparsec.compiler.lowering.ops import PLAIN as ROW_MAJOR


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


@dataclass(frozen=True, slots=True)
class Box:
    """Elements that both layouts walk by strides: some channels of one image, all positions.

    Attributes:
        sizes: Of its axes.
        packed: Element strides in the packed layout.
        start: First element in the packed layout.
        roles: For each axis, how far a step goes in (channels, positions).
        image: Which image of the batch.
        channel: First channel.
    """

    sizes: tuple[int, ...]
    packed: tuple[int, ...]
    start: int
    roles: tuple[tuple[int, int], ...]
    image: int
    channel: int

    def walk(self, image: int, channel: int, position: int) -> tuple[tuple[int, ...], int]:
        """Strides and start in an array with these element strides for each image, channel and position."""
        strides = tuple(c * channel + p * position for c, p in self.roles)
        return strides, self.image * image + self.channel * channel


def boxes(shape: tuple[int, ...], packed: Layout) -> Iterator[Box]:
    """All elements of a shape, box by box; lanes beyond the channels of a ``channels4`` layout are left out."""
    batch, channels, positions = packed.split(shape)
    groups, rest = divmod(channels, 4)
    for image in range(batch):
        start = image * packed.image_elements(shape)
        if packed.kind == CHANNELS:
            yield Box((channels, positions), (positions, 1), start, ((1, 0), (0, 1)), image, 0)
            continue
        if groups:
            roles = ((4, 0), (0, 1), (1, 0))
            yield Box((groups, positions, 4), (4 * positions, 4, 1), start, roles, image, 0)
        if rest:
            last = start + groups * 4 * positions
            yield Box((positions, rest), (4, 1), last, ((0, 1), (1, 0)), image, groups * 4)


def plain_strides(shape: tuple[int, ...], packed: Layout) -> tuple[int, int, int]:
    """Element strides of image, channel and position in row-major order."""
    _, channels, positions = packed.split(shape)
    return (0, 1, channels) if packed.view == "tokens" else (channels * positions, positions, 1)


def copy(dtype: str, elements: int) -> Elementwise:
    """A contiguous copy."""
    return Elementwise((elements,), (Operand(dtype, (1,)),), dtype=dtype)


def copies(shape: tuple[int, ...], dtype: str, packed: Layout, *, backwards: bool) -> Iterator[Elementwise]:
    """The copies from row-major to a packed layout, or backwards."""
    for box in boxes(shape, packed):
        ends = [box.walk(*plain_strides(shape, packed)), (box.packed, box.start)]
        (strides, start), (out_strides, out_start) = reversed(ends) if backwards else ends
        operand = Operand(dtype, strides, start)
        yield Elementwise(box.sizes, (operand,), dtype=dtype, out_strides=out_strides, out_offset=out_start)
