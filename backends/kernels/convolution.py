# SPDX-License-Identifier: Apache-2.0
"""Dense convolution of channels x positions, and Linear seen as a 1x1 convolution of one row of tokens.

Vectors run over output positions; a register tile is filters x vectors, so that an activation is loaded once for
several filters and a weight broadcast once for several vectors. Position tiles are the outer loop: the operand of one
stays in the first-level cache while all filters pass over it. A padded or strided convolution reads a copy made by
the `Pad` op (see `prepare`), in which every tap is a constant offset.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, packing, vector
from sparsec.backends.kernels.dot import Arithmetic, activations, arithmetic, weights
from sparsec.backends.kernels.epilogue import Tail
from sparsec.backends.kernels.padded import PaddedKernel
from sparsec.backends.kernels.plan import (
    Plan,
    is_depthwise,
    layouts,
    plan_tiles,
    preparation_cost,
    tiles,
    weight_rows,
)
from sparsec.backends.kernels.positions import Span
from sparsec.backends.kernels.product_cost import tile_cost
from sparsec.backends.kernels.traffic import traffic
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import Op

Expr = Any
_NARROW = 4
_UNROLLED_TAPS = 9


@dataclass(frozen=True, slots=True)
class Place:
    """A tile of positions while code for it is emitted.

    Attributes:
        start: Element of the operand under the tile's first lane, of the group's first channel and tap 0.
        offsets: Of each vector's operand from there.
        at: Output position of each vector.
        valid: Lanes of each vector that exist; 0 means all.
        rest: Positions behind the last vector that belong to the tile.
    """

    start: Expr
    offsets: tuple[int, ...]
    at: tuple[Expr, ...]
    valid: tuple[int, ...]
    rest: int = 0


class ConvolutionKernel(PaddedKernel):
    """See the module. Parameters: operand, packed weights, epilogue operands, out."""

    family = "convolution"

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """Dense specs with register tiles that fit the op's shape."""
        if is_depthwise(op):
            return
        source, target = layouts(op)
        for tile in tiles(op, lanes):
            yield KernelSpec(self.family, op, "dense", tile, (source,), target)

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """The TIR PrimFunc."""
        plan = Plan.of(spec)
        way = arithmetic(isa, plan.op.dtype)
        constants = [(way.dtype, plan.op.filters * plan.steps)] + [("int32", plan.steps)] * _is_indexed(plan)

        def body(x: Expr, w: Expr, *rest: Expr) -> None:
            operands = rest[len(constants) - 1 : -1]
            streams = Streams(x, w, rest[0] if len(constants) > 1 else None)
            tail = Tail(plan.op.epilogue, operands, rest[-1], isa)
            columns = plan.columns_with_rest
            emit_places(plan, lambda *place: _emit_filters(plan, isa, way, streams, tail, *place), columns)

        return emit.function([(way.dtype, plan.operand_elements), *constants, *plan.tail_parameters], body)

    def pack(self, spec: KernelSpec, weight: Array) -> Sequence[Array]:
        """Weights as [group][panel of filters][channel][tap][filter]; where each step's operand lies, if indexed."""
        plan = Plan.of(spec)
        elements = packing.words(weight_rows(plan, weight), plan.op.dtype)
        groups = elements.reshape(plan.op.groups, plan.filters, -1)
        weights = np.concatenate([packing.panels(group, plan.tile.filters) for group in groups])
        return (weights, plan.places) if _is_indexed(plan) else (weights,)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """From the vectors computed, tails included."""
        plan = Plan.of(spec)
        share = float(plan.steps * plan.op.groups)
        tiles_run = plan_tiles(plan, plan.columns_with_rest)
        return preparation_cost(plan, profile) + tile_cost(plan.op, plan.tile, tiles_run, share, traffic(plan), profile)


def emit_places(plan: Plan, body: Callable[[Expr, Place], None], columns: Sequence[Span] | None = None) -> None:
    """Loops over groups and tiles of positions; `columns` are the tiles along a row where not the plan's."""
    with emit.loop(plan.op.groups) as group:
        for ys in plan.rows:
            with emit.loop(ys.count) as iy:
                y = ys.start + emit.clamped(iy, ys.step, ys.last - ys.start)
                for xs in columns or plan.columns:
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
    return Place(start, offsets, at, valid, xs.rest)


@dataclass(frozen=True, slots=True)
class Streams:
    """What the inner loop reads: the operand, the weights, and where each step's operand lies, if that is indexed."""

    x: Expr
    weights: Expr
    places: Expr | None


@dataclass(frozen=True, slots=True)
class Rest:
    """The positions of a tile behind its vectors: for each, sums in vectors over the tile's filters.

    Attributes:
        way: Multiply-accumulate.
        positions: How many.
        filters: Of the tile.
        width: Filters of a vector.
        sums: [position][vector].
    """

    way: Arithmetic
    positions: int
    filters: int
    width: int
    sums: emit.Registers

    @classmethod
    def of(cls, way: Arithmetic, place: Place, filters: int, lanes: int) -> "Rest":
        """With sums of 0."""
        width = gcd(filters, lanes)
        return cls(way, place.rest, filters, width, emit.Registers(place.rest * filters // width, way.dtype, width))

    def emit_step(self, x: Expr, at: Expr, w: Expr, weights: Expr) -> None:
        """One element of the sums: the weights as vectors, the activation in every lane."""
        way, vectors = self.way, self.filters // self.width
        loads = range(vectors if self.positions else 0)
        rows = [way.weight(emit.bind(vector.load(w, weights + i * self.width, self.width))) for i in loads]
        for j in range(self.positions):
            activation = way.activation(emit.bind(vector.splat(x[at + j], self.width)))
            for i, row in enumerate(rows):
                place = j * vectors + i
                self.sums[place] = way.accumulate(self.sums[place], activation, row)

    def store(self, tail: Tail, row: Expr, positions: int, at: Expr) -> None:
        """Finish each position, its filters one by one."""
        rows = self.rows()
        for j in range(self.positions):
            tail.store_channels([[sums[j]] for sums in rows], row, positions, [at + j])

    def rows(self) -> list[list[Expr]]:
        """The sums one by one: [filter][position]."""
        vectors = self.filters // self.width
        found = [[self.sums[j * vectors + i] for j in range(self.positions)] for i in range(vectors)]
        return [
            [emit.bind(vector.pick(sums, [lane])) for sums in column] for column in found for lane in range(self.width)
        ]


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
            rest = Rest.of(way, place, count, plan.tile.lanes)
            for start, step in _steps(plan, isa, streams, place, row * plan.steps, count):
                emit_step(isa, way, streams.x, start, place.offsets, streams.weights, step, sums, plan.tile.lanes)
                rest.emit_step(streams.x, start + place.offsets[-1] + plan.tile.lanes, streams.weights, step)
            accumulators = [sums[i] for i in range(len(sums))]
            width = len(place.at)
            rows = [accumulators[i : i + width] for i in range(0, len(sums), width)]
            tail.store_channels(rows, row, plan.positions, place.at, place.valid)
            rest.store(tail, row, plan.positions, place.at[-1] + plan.tile.lanes)


def _steps(
    plan: Plan, isa: Isa, streams: Streams, place: Place, first: Expr, count: int
) -> Iterator[tuple[Expr, Expr]]:
    """Inside the inner loop, for each step of a turn: where its operand and its weights start."""
    taps = plan.walk.taps
    if streams.places is not None:
        with emit.loop(plan.steps) as step:
            yield emit.bind(emit.wide(isa, streams.places[step]) + place.start), first + step * count
        return
    with emit.loop(plan.depth) as channel:
        start = place.start + channel * plan.walk.plane
        for t, tap in enumerate(taps):
            yield start + tap, first + (channel * len(taps) + t) * count


def emit_step(
    isa: Isa,
    way: Arithmetic,
    x: Expr,
    start: Expr,
    offsets: Sequence[int],
    w: Expr,
    at: Expr,
    sums: emit.Registers,
    lanes: int,
) -> None:
    """One element of the sum for a whole register tile: rows of weights times vectors of activations."""
    xs = activations(way, lambda offset, count: vector.load(x, start + offset, count), offsets, lanes)
    for r, weight in enumerate(weights(isa, way, w, at, len(sums) // len(xs), lanes)):
        for v, activation in enumerate(xs):
            sums[r * len(xs) + v] = way.accumulate(sums[r * len(xs) + v], activation, weight)
