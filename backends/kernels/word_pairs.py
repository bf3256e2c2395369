# SPDX-License-Identifier: Apache-2.0
"""Sparse int8 convolution by pairs of words: two words of four channels become one where few channels are needed.

The four-element dot product takes a word of neighbouring channels, so a zero inside a word saves nothing by itself.
But a panel of filters that needs some channels of one word and others of another can have both in one vector: a
bitwise select by a mask puts them there, each in its place. Half of the channels then cost half of the dot products,
and a select for each vector of positions, which all rows of the panel share: zeros in blocks of 8x1 or 4x1 gain most,
a single row (unstructured zeros, 2:4) only where a dot product takes several instructions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

from tvm.tirx.script import builder as T

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.convolution import Place, emit_places
from sparsec.backends.kernels.dot import Arithmetic, activations, arithmetic, weights
from sparsec.backends.kernels.epilogue import Tail
from sparsec.backends.kernels.padded import PaddedKernel
from sparsec.backends.kernels.pairs import Packed, count, pack
from sparsec.backends.kernels.plan import Plan, as_convolution, layouts, plan_tiles, preparation_cost, tiles
from sparsec.backends.kernels.product_cost import pairs_cost
from sparsec.backends.kernels.sparse import STORED, PanelSums, elements_of, emit_panels
from sparsec.backends.kernels.traffic import traffic
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import Op
from sparsec.compiler.pattern import NM, Block, Unstructured, parse_pattern

Expr = Any
_VECTORS = {8: (3, 2, 1), 4: (6, 4, 3, 2, 1), 2: (6, 4, 2), 1: (4, 3, 2)}
"""Vectors of positions tried, by rows of a panel."""


@dataclass(frozen=True, slots=True)
class Streams:
    """The arrays of a packed weight as the function's parameters."""

    values: Expr
    masks: Expr
    places: Expr
    ends: Expr


class WordPairKernel(PaddedKernel):
    """See the module. Parameters: operand, values, masks, places of the pairs, panel ends, epilogue operands, out."""

    family = "word-pairs"

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """Specs whose tile is (rows of a panel, rows, vectors, lanes)."""
        turned = as_convolution(op)
        if turned is None or turned.groups != 1 or turned.dtype != "uint8":
            return
        source, target = layouts(op)
        for rows in _rows(pattern, prod(turned.kernel)):
            for vectors in _VECTORS[rows]:
                for _, down, across, wide in tiles(op, lanes, [(STORED, vectors)]):
                    yield KernelSpec(self.family, op, pattern, (rows, down, across, wide), (source,), target)

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """The TIR PrimFunc; it serves any weight of the spec's shape."""
        plan = Plan.of(spec)
        way = arithmetic(isa, plan.op.dtype)
        panels = -(-plan.filters // plan.tile.filters)
        most = panels * plan.steps
        sizes = [("int32", most * plan.tile.filters), ("int32", most), ("int32", 2 * most), ("int32", panels + 1)]

        def body(x: Expr, values: Expr, masks: Expr, places: Expr, ends: Expr, *rest: Expr) -> None:
            tail = Tail(plan.op.epilogue, rest[:-1], rest[-1], isa)
            streams = Streams(values, masks, places, ends)
            sums = partial(_panel_sums, plan, isa, way, x, streams)
            emit_places(plan, lambda _, at: emit_panels(plan, plan.tile.filters, tail, at, partial(sums, at)))

        return emit.function([("int32", plan.operand_elements), *sizes, *plan.tail_parameters], body)

    def pack(self, spec: KernelSpec, weight: Array) -> Sequence[Array]:
        """Values, masks, places of both words of each pair, and the number of pairs before each panel."""
        packed = _packed(spec, weight)
        return (packed.values, packed.masks, packed.places, packed.ends)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """From the pairs that the weight really needs."""
        plan = Plan.of(spec)
        assert weight is not None
        pairs = count(elements_of(plan, weight), plan.tile.filters)
        return preparation_cost(plan, profile) + pairs_cost(plan.op, plan_tiles(plan), pairs, traffic(plan), profile)


def _rows(pattern: str, taps: int) -> list[int]:
    """Rows of the panels to try; none where whole words are zero, which the family `sparse` skips."""
    parsed = parse_pattern(pattern)
    if isinstance(parsed, Block):
        fitting = [rows for rows in _VECTORS if parsed.rows % rows == 0]
        return [] if parsed.cols % (4 * taps) == 0 else fitting[:2]
    return [1] if isinstance(parsed, Unstructured | NM) else []


def _packed(spec: KernelSpec, weight: Array) -> Packed:
    plan = Plan.of(spec)
    return pack(elements_of(plan, weight), plan.tile.filters, plan.places)


def _panel_sums(
    plan: Plan, isa: Isa, way: Arithmetic, x: Expr, streams: Streams, place: Place, panel: Expr
) -> PanelSums:
    width, rows, lanes = len(place.at), plan.tile.filters, plan.tile.lanes
    sums = emit.Registers(rows * width, way.dtype, lanes)
    with emit.loop_range(streams.ends[panel], streams.ends[panel + 1]) as pair:
        at = emit.wide(isa, pair)
        starts = [emit.bind(emit.wide(isa, streams.places[2 * at + word]) + place.start) for word in (0, 1)]

        def load(offset: int, count: int) -> Expr:
            mask = emit.bind(vector.splat(streams.masks[at], count))
            return _selected(isa, mask, *(emit.bind(vector.load(x, start + offset, count)) for start in starts))

        xs = activations(way, load, place.offsets, lanes)
        for r, weight in enumerate(weights(isa, way, streams.values, at * rows, rows, lanes)):
            for v, activation in enumerate(xs):
                sums[r * width + v] = way.accumulate(sums[r * width + v], activation, weight)
    found = [sums[i] for i in range(len(sums))]
    return [found[i : i + width] for i in range(0, len(found), width)], []


def _selected(isa: Isa, mask: Expr, first: Expr, second: Expr) -> Expr:
    """Bits of the first where the mask has ones, of the second elsewhere; whole bytes are all that is asked for."""
    if isa.dot == "relaxed" and vector.lanes_of(mask) == 4:
        parts = [T.reinterpret("int8x16", value) for value in (first, second, mask)]
        chosen = T.call_llvm_pure_intrin("int8x16", "llvm.wasm.relaxed.laneselect", *parts)
        return T.reinterpret(str(mask.ty), chosen)
    return (first & mask) | (second & ~mask)
