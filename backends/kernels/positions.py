# SPDX-License-Identifier: Apache-2.0
"""How positions are cut into register tiles, and where a convolution finds its operand. Plain integers, no TIR."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from sparsec.compiler.lowering.ops import Convolution, Pad

_OVERLAP = 16
"""A tail is computed by one more whole tile, which overlaps the last, if that adds less than 1 in this many."""

_REST = 4
"""A rest of a tile is at most a vector's lanes divided by this."""


@dataclass(frozen=True, slots=True)
class Span:
    """Equal tiles along one axis; tile i starts at min(start + i * step, last).

    Attributes:
        start: Where the first tile starts.
        count: Number of tiles.
        step: From tile to tile.
        last: The largest start.
        offsets: Where each vector (or row) of a tile begins, from the tile's start.
        valid: Lanes of the last vector that exist; 0 means all.
        rest: Elements behind the last vector that belong to the tile, too few for a vector of their own.
    """

    start: int
    count: int
    step: int
    last: int
    offsets: tuple[int, ...]
    valid: int = 0
    rest: int = 0


def spans(extent: int, size: int, unit: int = 1) -> list[Span]:
    """Cover 0..extent by tiles of `size` vectors of `unit` elements, never beyond; some elements twice.

    Args:
        extent: Number of elements, at least `unit`.
        size: Vectors of a whole tile.
        unit: Elements of a vector.
    """
    step = size * unit
    full, rest = divmod(extent, step)
    vectors = -(-rest // unit)
    if not rest or (full and (vectors == size or (step - rest) * _OVERLAP < extent)):
        return [covering(extent, size, unit)]
    whole = tuple(range(0, step, unit))
    start = max(extent - vectors * unit, 0)
    tail = Span(start, 1, 0, start, tuple(min(v * unit, extent - unit - start) for v in range(vectors)))
    return [Span(0, full, step, (full - 1) * step, whole), tail] if full else [tail]


def spans_with_rest(extent: int, size: int, unit: int) -> list[Span]:
    """As `spans`, where a few elements that would need one more vector go to the last tile as its rest."""
    rest = extent % unit
    if extent < unit or not 0 < rest <= max(1, unit // _REST):
        return spans(extent, size, unit)
    *head, tail = spans(extent - rest, size, unit)
    if tail.count > 1:
        head.append(replace(tail, count=tail.count - 1))
    return [*head, Span(tail.last, 1, 0, tail.last, tail.offsets, rest=rest)]


def covering(extent: int, size: int, unit: int = 1) -> Span:
    """Cover at least one tile's elements by whole tiles alone, the last of which may overlap: the shortest code."""
    step = size * unit
    return Span(0, -(-extent // step), step, extent - step, tuple(range(0, step, unit)))


def open_spans(extent: int, size: int, unit: int) -> list[Span]:
    """As `spans`, where vectors may be read and computed, though not stored, beyond a short extent."""
    if extent >= size * unit:
        return spans(extent, size, unit)
    vectors = -(-extent // unit)
    return [Span(0, 1, 0, 0, tuple(range(0, vectors * unit, unit)), extent % unit)]


def row_spans(extent: int, size: int) -> list[Span]:
    """Cover rows by tiles of `size` rows and one shorter tile: nothing twice."""
    full, rest = divmod(extent, size)
    main = [Span(0, full, size, (full - 1) * size, tuple(range(size)))] if full else []
    return main + ([Span(full * size, 1, 0, full * size, tuple(range(rest)))] if rest else [])


def computed(tiles: Sequence[Span]) -> int:
    """Vectors (or rows) that the tiles compute, counted as often as they are."""
    return sum(tile.count * len(tile.offsets) for tile in tiles)


@dataclass(frozen=True, slots=True)
class Tile:
    """Register tile of a convolution: filters x (rows x vectors) of positions; `lanes` float32 a vector."""

    filters: int
    rows: int
    vectors: int
    lanes: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a convolution walks its operand. All numbers count positions (float32, or words of four codes).

    Attributes:
        rows: Output rows as walked; 1 where the image is one run of positions.
        columns: Output columns as walked.
        plane: From a channel (or word of four) to the next.
        pitch: From an output row's operand to the next one's.
        taps: Offset of each kernel element, row-major.
        pad: The op that prepares the operand, None where it is the convolution's input itself.
    """

    rows: int
    columns: int
    plane: int
    pitch: int
    taps: tuple[int, ...]
    pad: Pad | None

    @property
    def flat(self) -> bool:
        """Whether vectors run across row ends."""
        return self.rows == 1 and self.pitch == 0


def geometry(op: Convolution, tile: Tile) -> Geometry:
    """Where the operand of `op` lies for kernels that use `tile`."""
    if op.kernel == (1, 1):
        moved = op.stride != (1, 1) or any(op.pads)
        size = prod(op.out_size)
        return Geometry(1, size, size, 0, (0,), pad_op(op, op.out_size) if moved else None)
    if reads_in_place(op, tile):
        return _walk(op, op.size, (1, 1), None)
    pad = pad_op(op, _plane(op, tile))
    return _walk(op, pad.plane, pad.phases, pad)


def reads_in_place(op: Convolution, tile: Tile) -> bool:
    """Whether the input needs no copy: neither padding nor stride, and rows at least one tile long."""
    return op.stride == (1, 1) and not any(op.pads) and op.out_size[1] >= tile.vectors * tile.lanes


def pad_op(op: Convolution, plane: tuple[int, int]) -> Pad:
    """The op that pads the input and splits it by phases of the stride into planes of this size."""
    channels = -(-op.channels // 4) if op.dtype == "uint8" else op.channels
    fill = op.pad_code * 0x01010101 if op.dtype == "uint8" else 0
    return Pad(op.dtype, channels, op.size, op.stride, (op.pads[0], op.pads[1]), _phases(op), plane, fill)


def _phases(op: Convolution) -> tuple[int, int]:
    """How many residues of the stride the kernel's elements fall on: 1 + the largest."""
    axes = zip(op.kernel, op.dilation, op.stride, strict=True)
    rows, columns = (1 + max(d * i % s for i in range(k)) for k, d, s in axes)
    return rows, columns


def _plane(op: Convolution, tile: Tile) -> tuple[int, int]:
    """Rows and columns of a phase: what the taps reach, and whole vectors in short rows."""
    reach_y, reach_x = (d * (k - 1) // s for k, d, s in zip(op.kernel, op.dilation, op.stride, strict=True))
    height, width = op.out_size
    if width < tile.vectors * tile.lanes:
        width = -(-width // tile.lanes) * tile.lanes
    return height + reach_y, width + reach_x


def _walk(op: Convolution, plane: tuple[int, int], phases: tuple[int, int], pad: Pad | None) -> Geometry:
    size = prod(plane)
    taps = tuple(
        (y % op.stride[0] * phases[1] + x % op.stride[1]) * size
        + y // op.stride[0] * plane[1] + x // op.stride[1]
        for y in range(0, op.kernel[0] * op.dilation[0], op.dilation[0])
        for x in range(0, op.kernel[1] * op.dilation[1], op.dilation[1])
    )  # fmt: skip
    return Geometry(*op.out_size, prod(phases) * size, plane[1], taps, pad)


def upright(op: Convolution) -> Convolution:
    """The same convolution with a single column turned into a single row: vectors run along columns."""
    if op.size[1] != 1 or op.out_size[1] != 1 or op.kernel[1] != 1:
        return op
    turned = {name: getattr(op, name)[::-1] for name in ("size", "kernel", "stride", "dilation")}
    top, left, bottom, right = op.pads
    return replace(op, **turned, pads=(left, top, right, bottom))
