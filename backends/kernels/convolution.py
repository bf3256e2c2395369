# SPDX-License-Identifier: Apache-2.0
"""Dense convolution of channels x positions, and Linear seen as a 1x1 convolution of one row of tokens.

Vectors run over output positions; a register tile is filters x vectors, so that an activation is loaded once for
several filters and a weight broadcast once for several vectors. Position tiles are the outer loop: the operand of one
stays in the first-level cache while all filters pass over it. A padded or strided convolution reads a copy made by
the `Pad` op (see `prepare`), in which every tap is a constant offset.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, packing, vector
from sparsec.backends.kernels.dot import Arithmetic, arithmetic, splats
from sparsec.backends.kernels.epilogue import Tail, parameters
from sparsec.backends.kernels.pad import pad_cost, pad_spec
from sparsec.backends.kernels.positions import (
    Geometry,
    Span,
    Tile,
    geometry,
    open_spans,
    row_spans,
    spans,
    upright,
)
from sparsec.backends.kernels.product_cost import tile_cost
from sparsec.backends.kernels.reference import finish_channels
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import CHANNELS, CHANNELS4, PLAIN, Convolution, Linear, Op

Expr = Any
_NARROW = 4
_UNROLLED_TAPS = 9
_SHAPES = ((8, 3), (8, 2), (8, 1), (4, 6), (4, 4), (4, 3), (4, 2), (4, 1))
"""Filters x vectors of the tiles tried."""


def as_convolution(op: Op) -> Convolution | None:
    """The op as a convolution; tokens become one row of positions. None for other ops."""
    if isinstance(op, Linear):
        return Convolution(op.dtype, op.inputs, op.outputs, (1, op.positions), epilogue=op.epilogue)
    return upright(op) if isinstance(op, Convolution) else None


def layouts(op: Op) -> tuple[str, str]:
    """Layouts of input and output: words of four where there are codes."""
    plain = CHANNELS if isinstance(op, Linear) else PLAIN
    stored = op.epilogue.dtype if isinstance(op, Convolution | Linear) else "float32"
    source = op.dtype if isinstance(op, Convolution | Linear) else "float32"
    return (CHANNELS4 if source == "uint8" else plain), (CHANNELS4 if stored == "uint8" else plain)


@dataclass(frozen=True, slots=True)
class Plan:
    """All numbers of one kernel.

    Attributes:
        op: The op as a convolution.
        tile: Register tile.
        walk: Where the operand lies.
        depth: 32-bit elements of a group's channels: channels, or words of four.
        filters: Of a group.
    """

    op: Convolution
    tile: Tile
    walk: Geometry
    depth: int
    filters: int

    @classmethod
    def of(cls, spec: KernelSpec) -> "Plan":
        """The plan of a spec whose tile is (filters, rows, vectors, lanes)."""
        op = as_convolution(spec.op)
        assert op is not None
        tile = Tile(*spec.tile[:4])
        op = op if spec.family == "depthwise" else regrouped(op)
        channels = op.channels // op.groups
        depth = -(-channels // 4) if op.dtype == "uint8" else channels
        return cls(op, tile, geometry(op, tile), depth, op.filters // op.groups)

    @property
    def positions(self) -> int:
        """Of the output."""
        return prod(self.op.out_size)

    @property
    def steps(self) -> int:
        """Weights of one filter, as 32-bit elements."""
        return self.depth * len(self.walk.taps)

    @property
    def columns(self) -> list[Span]:
        """Tiles along a row."""
        cut = open_spans if self.walk.pad and not self.walk.flat else spans
        return cut(self.walk.columns, self.tile.vectors, self.tile.lanes)

    @property
    def rows(self) -> list[Span]:
        """Tiles along a column."""
        return spans(self.walk.rows, self.tile.rows)

    @property
    def panels(self) -> list[Span]:
        """Tiles of a group's filters."""
        return row_spans(self.filters, self.tile.filters)

    @property
    def operand_elements(self) -> int:
        """32-bit elements of the operand as the kernel reads it."""
        pad = self.walk.pad
        channels = -(-self.op.channels // 4) if self.op.dtype == "uint8" else self.op.channels
        return pad.out_elements if pad else channels * prod(self.op.size)

    @property
    def places(self) -> Array:
        """Where each step's operand lies, from a tile's start: int32 [channel x tap]."""
        places = np.arange(self.depth)[:, None] * self.walk.plane + np.asarray(self.walk.taps)
        return np.asarray(places.ravel(), np.int32)

    @property
    def tail_parameters(self) -> list[tuple[str, int]]:
        """Of the epilogue and the output."""
        words = -(-self.op.filters // 4) * self.positions
        return parameters(self.op.epilogue, self.op.filters, self.op.filters * self.positions, words)


@dataclass(frozen=True, slots=True)
class Place:
    """A tile of positions while code for it is emitted.

    Attributes:
        start: Element of the operand under the tile's first lane, of the group's first channel and tap 0.
        offsets: Of each vector's operand from there.
        at: Output position of each vector.
        valid: Lanes of each vector that exist; 0 means all.
    """

    start: Expr
    offsets: tuple[int, ...]
    at: tuple[Expr, ...]
    valid: tuple[int, ...]


class ConvolutionKernel:
    """See the module. Parameters: operand, packed weights, epilogue operands, out."""

    family = "convolution"

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """Dense specs with register tiles that fit the op's shape."""
        if is_depthwise(op):
            return
        source, target = layouts(op)
        for tile in tiles(op, lanes):
            yield KernelSpec(self.family, op, "dense", tile, (source,), target)

    def prepare(self, spec: KernelSpec) -> KernelSpec | None:
        """The `Pad` kernel whose result is this kernel's operand; None if it reads the input itself."""
        pad = Plan.of(spec).walk.pad
        return pad_spec(pad) if pad else None

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """The TIR PrimFunc."""
        plan = Plan.of(spec)
        way = arithmetic(isa, plan.op.dtype)
        constants = [(way.dtype, plan.op.filters * plan.steps)] + [("int32", plan.steps)] * _is_indexed(plan)

        def body(x: Expr, w: Expr, *rest: Expr) -> None:
            operands = rest[len(constants) - 1 : -1]
            streams = Streams(x, w, rest[0] if len(constants) > 1 else None)
            tail = Tail(plan.op.epilogue, operands, rest[-1])
            emit_places(plan, lambda group, place: _emit_filters(plan, isa, way, streams, tail, group, place))

        return emit.function([(way.dtype, plan.operand_elements), *constants, *plan.tail_parameters], body)

    def pack(self, spec: KernelSpec, weight: Array) -> Sequence[Array]:
        """Weights as [group][panel of filters][channel][tap][filter]; where each step's operand lies, if indexed."""
        plan = Plan.of(spec)
        elements = packing.words(_rows(plan, weight), plan.op.dtype)
        groups = elements.reshape(plan.op.groups, plan.filters, -1)
        weights = np.concatenate([packing.panels(group, plan.tile.filters) for group in groups])
        return (weights, plan.places) if _is_indexed(plan) else (weights,)

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """The same from the prepared operand."""
        plan = Plan.of(spec)
        assert weight is not None
        sums = sums_of(plan, weight, operands[0])
        return finish_channels(plan.op.epilogue, sums, operands[1:])

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """From the vectors computed, tails included."""
        plan = Plan.of(spec)
        share = float(plan.steps * plan.op.groups)
        return preparation_cost(plan, profile) + tile_cost(plan.op, plan.tile, plan_tiles(plan), share, profile)


def tiles(op: Op, lanes: int, shapes: Sequence[tuple[int, int]] = _SHAPES) -> Iterable[tuple[int, int, int, int]]:
    """Tiles (filters, rows, vectors, lanes) worth pricing for `op`; none if it is no convolution.

    `shapes` are filters x vectors.
    """
    convolution = as_convolution(op)
    if convolution is None:
        return
    convolution = regrouped(convolution)
    height, width = convolution.out_size
    flat = convolution.kernel == (1, 1)
    extent = height * width if flat else width
    found = set()
    for filters, vectors in shapes:
        for wide in _lanes(extent, lanes, closed=flat or _closed(convolution)):
            across = min(vectors, -(-extent // wide))
            down = 1 if flat else max(1, min(vectors // across, height))
            found.add((min(filters, _rounded(convolution)), down, across, wide))
    yield from sorted(found)


def is_depthwise(op: Op) -> bool:
    """Whether the `depthwise` family computes the op: a filter for each channel, or several in float32."""
    if not isinstance(op, Convolution) or op.groups == 1 or op.groups != op.channels:
        return False
    return op.dtype == "float32" or op.filters == op.channels


def regrouped(op: Convolution) -> Convolution:
    """Groups that share words of four codes are computed as one, whose other weights are zero."""
    return op if _groups_fit(op) else replace(op, groups=1)


def _groups_fit(op: Convolution) -> bool:
    """Whether no group shares a word of four codes with another."""
    channels, filters = op.channels // op.groups, op.filters // op.groups
    grouped = op.epilogue.dtype == "uint8" or "codes" in op.epilogue.operands
    reads = op.groups == 1 or op.dtype != "uint8" or channels % 4 == 0
    return reads and (op.groups == 1 or not grouped or filters % 4 == 0)


def _rounded(op: Convolution) -> int:
    return -(-(op.filters // op.groups) // 4) * 4


def _closed(op: Convolution) -> bool:
    """Whether rows may be read in place, where nothing may be read beyond them."""
    return op.stride == (1, 1) and not any(op.pads)


def _lanes(extent: int, lanes: int, *, closed: bool) -> list[int]:
    """Vector lengths to try: the register's, and half of it where a row is short."""
    fitting = [lanes >> i for i in range(lanes.bit_length()) if not closed or lanes >> i <= extent]
    wasteful = extent < 2 * fitting[0]
    return fitting[: 2 if wasteful and lanes > 4 else 1]


def emit_places(plan: Plan, body: Callable[[Expr, Place], None]) -> None:
    """Loops over groups and tiles of positions."""
    with emit.loop(plan.op.groups) as group:
        for ys in plan.rows:
            with emit.loop(ys.count) as iy:
                y = ys.start + emit.clamped(iy, ys.step, ys.last - ys.start)
                for xs in plan.columns:
                    with emit.loop(xs.count) as ix:
                        x = xs.start + emit.clamped(ix, xs.step, xs.last - xs.start)
                        body(group, place_of(plan, group, ys, y, xs, x))


def place_of(plan: Plan, group: Expr, ys: Span, y: Expr, xs: Span, x: Expr) -> Place:
    """The tile of positions that starts at output row y, column x."""
    start = group * (plan.depth * plan.walk.plane) + y * plan.walk.pitch + x
    pairs = [(dy, dx) for dy in ys.offsets for dx in xs.offsets]
    offsets = tuple(dy * plan.walk.pitch + dx for dy, dx in pairs)
    at = tuple((y + dy) * plan.walk.columns + x + dx for dy, dx in pairs)
    valid = tuple(xs.valid if dx == xs.offsets[-1] else 0 for _, dx in pairs)
    return Place(start, offsets, at, valid)


@dataclass(frozen=True, slots=True)
class Streams:
    """What the inner loop reads: the operand, the weights, and where each step's operand lies, if that is indexed."""

    x: Expr
    weights: Expr
    places: Expr | None


def _is_indexed(plan: Plan) -> bool:
    """Whether the inner loop takes one step a turn and reads where its operand lies.

    Otherwise all taps of a channel are in one turn. Compilers to WebAssembly put the sums of such a turn into one
    expression, which needs more registers than there are; and many taps make long code.
    """
    taps = len(plan.walk.taps)
    return taps > _UNROLLED_TAPS or (taps > 1 and plan.tile.lanes <= _NARROW)


def _emit_filters(
    plan: Plan, isa: Isa, way: Arithmetic, streams: Streams, tail: Tail, group: Expr, place: Place
) -> None:
    """All filters of a group over one tile of positions."""
    for span in plan.panels:
        count = len(span.offsets)
        with emit.loop(span.count) as panel:
            row = group * plan.filters + span.start + panel * span.step
            sums = emit.Registers(count * len(place.at), way.dtype, plan.tile.lanes)
            for at, weights in _steps(plan, streams, place, row * plan.steps, count):
                emit_step(isa, way, streams.x, at, streams.weights, weights, sums, plan.tile.lanes)
            accumulators = [sums[i] for i in range(len(sums))]
            width = len(place.at)
            rows = [accumulators[i : i + width] for i in range(0, len(sums), width)]
            tail.store_channels(rows, row, plan.positions, place.at, place.valid)


def _steps(plan: Plan, streams: Streams, place: Place, first: Expr, count: int) -> Iterator[tuple[list[Expr], Expr]]:
    """Inside the inner loop, for each step of a turn: where its vectors and its weights lie."""
    taps = plan.walk.taps
    if streams.places is not None:
        with emit.loop(plan.steps) as step:
            start = emit.bind(place.start + streams.places[step])
            yield [start + offset for offset in place.offsets], first + step * count
        return
    with emit.loop(plan.depth) as channel:
        start = place.start + channel * plan.walk.plane
        for t, tap in enumerate(taps):
            yield [start + tap + offset for offset in place.offsets], first + (channel * len(taps) + t) * count


def emit_step(
    isa: Isa, way: Arithmetic, x: Expr, at: Sequence[Expr], w: Expr, weights: Expr, sums: emit.Registers, lanes: int
) -> None:
    """One element of the sum for a whole register tile: rows of weights times vectors of activations."""
    xs = [way.activation(emit.bind(vector.load(x, position, lanes))) for position in at]
    for r, splat in enumerate(splats(isa, w, weights, len(sums) // len(at), lanes)):
        weight = way.weight(splat)
        for v, activation in enumerate(xs):
            sums[r * len(at) + v] = way.accumulate(sums[r * len(at) + v], activation, weight)


def sums_of(plan: Plan, weight: Array, operand: Array) -> Array:
    """[filters][positions] sums: exact integers for codes, float64 rounded to float32 else."""
    op, walk = plan.op, plan.walk
    y, x = np.divmod(np.arange(plan.positions), walk.columns)
    index = np.asarray(walk.taps)[:, None] + y * walk.pitch + x
    if op.dtype == "uint8":
        planes = np.ascontiguousarray(operand).reshape(-1).view(np.uint8).reshape(-1, walk.plane, 4)[:, index]
        gathered = np.moveaxis(planes, -1, 1).reshape(-1, *index.shape).astype(np.int64)[: op.channels]
    else:
        gathered = operand.reshape(-1, walk.plane)[:, index].astype(np.float64)
    grouped = gathered.reshape(op.groups, -1, plan.positions)
    rows = _rows(plan, weight).astype(gathered.dtype)
    return (rows.reshape(op.groups, plan.filters, -1) @ grouped).reshape(op.filters, -1).astype(np.float32)


def _rows(plan: Plan, weight: Array) -> Array:
    """The weight as [filters][channels of a group][taps]."""
    rows = packing.rows_view(weight, plan.op.filters, len(plan.walk.taps))
    groups = plan.op.channels // rows.shape[1]
    return packing.ungrouped(rows, groups) if groups > plan.op.groups else rows


def preparation_cost(plan: Plan, profile: Profile) -> float:
    """Microseconds of the `Pad` before the kernel."""
    return pad_cost(plan.walk.pad, profile) if plan.walk.pad else 0.0


def plan_tiles(plan: Plan) -> list[tuple[int, int, float]]:
    """(filters, vectors, how often) of every register tile that the kernel runs."""
    return [
        (len(span.offsets), len(ys.offsets) * len(xs.offsets), float(span.count * ys.count * xs.count))
        for span in plan.panels
        for ys in plan.rows
        for xs in plan.columns
    ]
