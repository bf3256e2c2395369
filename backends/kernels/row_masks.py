# SPDX-License-Identifier: Apache-2.0
"""Unstructured and N:M sparse float32 convolution of channels x positions: work for nonzero weights only.

As in `sparse`, a register tile is filters x vectors of positions, and its sums stay in registers while a panel of
filters walks its steps (channels, or channels and taps). Here the steps of a panel are sorted by their mask: which of
its rows hold something. Each mask has a loop of its own, whose body loads the operand once and multiplies it by the
weights of those rows, so that no zero is multiplied and no weight needs an index of its own.

Source: the row-mask idea is Sparse Register Tiling's (Wilkinson et al., PLDI 2023).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.convolution import Place, emit_places
from sparsec.backends.kernels.dot import Arithmetic, arithmetic, splats
from sparsec.backends.kernels.epilogue import Tail
from sparsec.backends.kernels.masks import MASKS, Packed, count, pack
from sparsec.backends.kernels.padded import PaddedKernel
from sparsec.backends.kernels.plan import Plan, as_convolution, layouts, plan_tiles, preparation_cost, tiles
from sparsec.backends.kernels.product_cost import masks_cost
from sparsec.backends.kernels.sparse import STORED, PanelSums, elements_of, emit_panels
from sparsec.backends.kernels.traffic import traffic
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import Op
from sparsec.compiler.pattern import NM, Block, Unstructured, parse_pattern

Expr = Any
_SHAPES = {4: ((2, 4), (3, 3), (4, 2), (4, 4)), 8: ((2, 4), (4, 2)), 16: ((4, 6), (4, 4), (4, 2))}
"""Rows x vectors of the tiles tried, by lanes."""
_NARROW = 4
_CHAINS = 8
"""Sums that a turn must have for multiply-adds to follow each other without waiting."""


@dataclass(frozen=True, slots=True)
class Streams:
    """The arrays of a packed weight as the function's parameters."""

    values: Expr
    places: Expr
    runs: Expr
    firsts: Expr


class RowMaskKernel(PaddedKernel):
    """See the module. Parameters: operand, values, places, ends of the runs, first values, epilogue operands, out."""

    family = "row-masks"

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """Specs whose tile is (rows of a panel, rows, vectors, lanes)."""
        turned = as_convolution(op)
        if turned is None or turned.groups != 1 or turned.dtype != "float32" or not _suits(pattern, lanes):
            return
        source, target = layouts(op)
        joined = turned.epilogue.dtype == "uint8" or "codes" in turned.epilogue.operands
        shapes = [(rows, vectors) for rows, vectors in _SHAPES[lanes] if not joined or STORED % rows == 0]
        for tile in tiles(op, lanes, shapes):
            yield KernelSpec(self.family, op, pattern, tile, (source,), target)

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """The TIR PrimFunc; it serves any weight of the spec's shape."""
        plan = Plan.of(spec)
        way = arithmetic(isa, plan.op.dtype)
        panels = -(-plan.filters // plan.tile.filters)
        runs = panels * len(MASKS[plan.tile.filters]) + 1
        most = panels * plan.tile.filters * plan.steps
        sizes = [("float32", most), ("int32", most), ("int32", runs), ("int32", panels)]

        def body(x: Expr, values: Expr, places: Expr, runs: Expr, firsts: Expr, *rest: Expr) -> None:
            tail = Tail(plan.op.epilogue, rest[:-1], rest[-1], isa)
            streams = Streams(values, places, runs, firsts)
            sums = partial(_panel_sums, plan, isa, way, x, streams)
            emit_places(plan, lambda _, at: emit_panels(plan, plan.tile.filters, tail, at, partial(sums, at)))

        return emit.function([("float32", plan.operand_elements), *sizes, *plan.tail_parameters], body)

    def pack(self, spec: KernelSpec, weight: Array) -> Sequence[Array]:
        """Values, places of the steps, ends of the runs, and where each panel's values start."""
        packed = _packed(spec, weight)
        return (packed.values, packed.places, packed.runs, packed.firsts)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """From the masks that the weight really has."""
        plan = Plan.of(spec)
        assert weight is not None
        steps = count(elements_of(plan, weight), plan.tile.filters)
        runs = [(len(rows), int(n)) for rows, n in zip(MASKS[plan.tile.filters], steps, strict=True)]
        return preparation_cost(plan, profile) + masks_cost(plan.op, plan_tiles(plan), runs, traffic(plan), profile)


def _suits(pattern: str, lanes: int) -> bool:
    """Whether rows have zeros of their own; pairs of rows too where long vectors want more rows for each load."""
    parsed = parse_pattern(pattern)
    if isinstance(parsed, Block):
        return parsed.rows in (2, 3) and lanes > _NARROW
    return isinstance(parsed, Unstructured | NM)


def _packed(spec: KernelSpec, weight: Array) -> Packed:
    plan = Plan.of(spec)
    return pack(elements_of(plan, weight), plan.tile.filters, plan.places)


def _panel_sums(
    plan: Plan, isa: Isa, way: Arithmetic, x: Expr, streams: Streams, place: Place, panel: Expr
) -> PanelSums:
    width = len(place.at)
    masks = MASKS[plan.tile.filters]
    sums = emit.Registers(plan.tile.filters * width, way.dtype, plan.tile.lanes)
    value = streams.firsts[panel]
    for number, rows in enumerate(masks):
        start, end = (emit.keep(streams.runs[panel * len(masks) + number + i]) for i in (0, 1))
        value = emit.keep(value)
        with emit.loop_range(start, end) as step:
            at = [emit.bind(emit.wide(isa, streams.places[step]) + place.start) + offset for offset in place.offsets]
            weights = value + (step - start) * len(rows)
            _emit_step(isa, way, x, at, streams.values, weights, rows, sums, plan.tile.lanes)
        value = value + (end - start) * len(rows)
    found = [sums[i] for i in range(len(sums))]
    return [found[i : i + width] for i in range(0, len(found), width)], []


def _emit_step(
    isa: Isa,
    way: Arithmetic,
    x: Expr,
    at: Sequence[Expr],
    w: Expr,
    weights: Expr,
    rows: Sequence[int],
    sums: emit.Registers,
    lanes: int,
) -> None:
    """One step for the rows of a mask."""
    xs = [way.activation(emit.bind(vector.load(x, position, lanes))) for position in at]
    accumulate = _separate if isa.wasm and len(rows) * len(at) < _CHAINS else way.accumulate
    for row, splat in zip(rows, splats(isa, w, weights, len(rows), lanes), strict=True):
        for v, activation in enumerate(xs):
            place = row * len(at) + v
            sums[place] = accumulate(sums[place], activation, way.weight(splat))


def _separate(total: Expr, x: tuple[Expr, ...], w: tuple[Expr, ...]) -> Expr:
    """Multiply, then add: only the addition waits for the step before. Registers allow WebAssembly few sums at once."""
    return x[0] * w[0] + total
