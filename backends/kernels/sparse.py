# SPDX-License-Identifier: Apache-2.0
"""Block-sparse convolution of channels x positions, and Linear seen as one: work for nonzero blocks only.

As in `convolution`, a register tile is filters x vectors of positions. A panel of filters walks the list of its
blocks, which says where each block's operand lies; the weights are a stream of the blocks' values.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, packing
from sparsec.backends.kernels.blocks import Grid, Packed, grids, pack
from sparsec.backends.kernels.convolution import Place, Rest, emit_places, emit_step
from sparsec.backends.kernels.dot import Arithmetic, arithmetic
from sparsec.backends.kernels.epilogue import Tail
from sparsec.backends.kernels.padded import PaddedKernel
from sparsec.backends.kernels.plan import Plan, as_convolution, layouts, plan_tiles, preparation_cost, tiles
from sparsec.backends.kernels.positions import row_spans
from sparsec.backends.kernels.product_cost import sparse_cost
from sparsec.backends.kernels.traffic import traffic
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import Op
from sparsec.compiler.pattern import Block, parse_pattern

Expr = Any
_VECTORS = {8: (3, 2, 1), 4: (6, 4, 3, 2, 1), 2: (6, 4, 3), 1: (8, 4)}
"""Vectors of positions tried, by rows of a block."""
_NARROW = 4
STORED = 4
"""Filters that are finished together where codes come in words."""


@dataclass(frozen=True, slots=True)
class Streams:
    """The arrays of a packed weight as the function's parameters."""

    values: Expr
    places: Expr
    ends: Expr


class SparseKernel(PaddedKernel):
    """See the module. Parameters: operand, values, block places, panel ends, epilogue operands, out."""

    family = "sparse"

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """Specs whose tile is (rows of a block, rows, vectors, lanes, steps of a block)."""
        turned = as_convolution(op)
        if turned is None or turned.groups != 1:
            return
        depth = -(-turned.channels // 4) if turned.dtype == "uint8" else turned.channels
        taps = turned.kernel[0] * turned.kernel[1]
        source, target = layouts(op)
        for grid in _grids(pattern, turned.dtype, taps, depth, lanes):
            shapes = [(grid.rows, vectors) for vectors in _VECTORS[grid.rows]]
            for _, down, across, wide in dict.fromkeys((0, *tile[1:]) for tile in tiles(op, lanes, shapes)):
                tile = (grid.rows, down, across, wide, grid.steps)
                yield KernelSpec(self.family, op, pattern, tile, (source,), target)

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """The TIR PrimFunc; it serves any weight of the spec's shape."""
        plan, grid = Plan.of(spec), _grid(spec)
        way = arithmetic(isa, plan.op.dtype)
        panels = -(-plan.filters // grid.rows)
        most = panels * -(-plan.steps // grid.steps)
        sizes = [(way.dtype, most * grid.rows * grid.steps), ("int32", most), ("int32", panels + 1)]

        def body(x: Expr, values: Expr, places: Expr, ends: Expr, *rest: Expr) -> None:
            tail = Tail(plan.op.epilogue, rest[:-1], rest[-1], isa)
            streams = Streams(values, places, ends)
            columns = plan.columns_with_rest
            sums = partial(_panel_sums, plan, grid, isa, way, x, streams)
            emit_places(plan, lambda _, at: emit_panels(plan, grid.rows, tail, at, partial(sums, at)), columns)

        return emit.function([(way.dtype, plan.operand_elements), *sizes, *plan.tail_parameters], body)

    def pack(self, spec: KernelSpec, weight: Array) -> Sequence[Array]:
        """Values, block places and panel ends."""
        packed = _packed(spec, weight)
        return (packed.values, packed.places, packed.ends)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """From the blocks that the weight really has."""
        plan, grid = Plan.of(spec), _grid(spec)
        assert weight is not None
        count = grid.count(elements_of(plan, weight))
        tiles_run = plan_tiles(plan, plan.columns_with_rest)
        price = sparse_cost(plan.op, tiles_run, (grid.rows, grid.steps), count, traffic(plan), profile)
        return preparation_cost(plan, profile) + price


def _grids(pattern: str, dtype: str, taps: int, depth: int, lanes: int) -> list[Grid]:
    """Blocks to try; none where single float32 weights are zero, which is `row_masks`' work.

    WebAssembly is compiled to worse code where a turn of the loop takes several steps.
    """
    if dtype == "float32" and not isinstance(parse_pattern(pattern), Block):
        return []
    found = grids(pattern, dtype, taps, depth)
    return [Grid(grid.rows, 1) for grid in found] if lanes == _NARROW else found


def _grid(spec: KernelSpec) -> Grid:
    return Grid(spec.tile[0], spec.tile[4])


def elements_of(plan: Plan, weight: Array) -> Array:
    """[filter][step] in the order channel, tap."""
    rows = packing.rows_view(weight, plan.op.filters, len(plan.walk.taps))
    return packing.words(rows, plan.op.dtype).reshape(plan.op.filters, -1)


def _packed(spec: KernelSpec, weight: Array) -> Packed:
    plan = Plan.of(spec)
    return pack(elements_of(plan, weight), _grid(spec), plan.places)


PanelSums = tuple[list[list[Expr]], list[list[Expr]]]
"""Accumulators of a panel: [row][vector], and [row][position of the rest]."""


def emit_panels(plan: Plan, height: int, tail: Tail, place: Place, sums_of: Callable[[Expr], PanelSums]) -> None:
    """All filters over one tile of positions, by panels of `height` rows.

    Where codes are stored in words, panels up to four filters are finished together.
    """
    together = max(1, STORED // height)
    for span in row_spans(plan.filters, height * together):
        with emit.loop(span.count) as i:
            first, row, held = span.start // height + i * together, span.start + i * span.step, len(span.offsets)
            panels = [sums_of(first + panel) for panel in range(-(-held // height))]
            rows, rests = ([sums for panel in panels for sums in panel[part]][:held] for part in (0, 1))
            tail.store_channels(rows, row, plan.positions, place.at, place.valid)
            for j in range(place.rest):
                column = [[sums[j]] for sums in rests]
                tail.store_channels(column, row, plan.positions, [place.at[-1] + plan.tile.lanes + j])


def _panel_sums(
    plan: Plan, grid: Grid, isa: Isa, way: Arithmetic, x: Expr, streams: Streams, place: Place, panel: Expr
) -> PanelSums:
    width = len(place.at)
    sums = emit.Registers(grid.rows * width, way.dtype, plan.tile.lanes)
    rest = Rest.of(way, place, grid.rows, plan.tile.lanes)
    with emit.loop_range(streams.ends[panel], streams.ends[panel + 1]) as block:
        start = emit.bind(emit.wide(isa, streams.places[block]) + place.start)
        for step in range(grid.steps):
            first = start + step * plan.walk.plane
            weights = (emit.wide(isa, block) * grid.steps + step) * grid.rows
            emit_step(isa, way, x, first, place.offsets, streams.values, weights, sums, plan.tile.lanes)
            rest.emit_step(x, first + place.offsets[-1] + plan.tile.lanes, streams.values, weights)
    found = [sums[i] for i in range(len(sums))]
    return [found[i : i + width] for i in range(0, len(found), width)], rest.rows()
