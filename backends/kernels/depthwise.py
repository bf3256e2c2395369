# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolution: each filter reads one channel. Vectors run over the columns of several output rows at once.

An operand vector that several output rows or taps of a tile need is loaded once. In float32 each tap is a
multiply-add with a broadcast weight. Codes come in words of four channels: the words under four neighbouring taps are
transposed, so that each becomes four taps of one channel, and the four-element dot product applies.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from tvm import tirx

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.convolution import Place, place_of
from sparsec.backends.kernels.dot import Arithmetic, arithmetic, splats
from sparsec.backends.kernels.epilogue import Tail
from sparsec.backends.kernels.padded import PaddedKernel
from sparsec.backends.kernels.plan import Plan, as_convolution, is_depthwise, layouts, preparation_cost
from sparsec.backends.kernels.positions import Span, computed, covering, row_spans
from sparsec.backends.kernels.product_cost import DepthwiseTile, depthwise_cost
from sparsec.backends.kernels.transpose import transpose_bytes, transpose_words
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import Convolution, Op

Expr = Any
_SHAPES = ((4, 1), (3, 1), (2, 1), (1, 1), (2, 2), (1, 4))
"""Rows x vectors of the register tiles tried."""
_WORD = 4


class DepthwiseKernel(PaddedKernel):
    """See the module. Parameters: operand, packed weights, epilogue operands, out."""

    family = "depthwise"

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """Dense specs whose tile is (1, rows, vectors, lanes)."""
        if not is_depthwise(op):
            return
        source, target = layouts(op)
        for tile in sorted(_tiles(op, lanes)):
            yield KernelSpec(self.family, op, "dense", tile, (source,), target)

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """The TIR PrimFunc."""
        plan = Plan.of(spec)
        way = arithmetic(isa, plan.op.dtype)
        emit_tile = _emit_codes if plan.op.dtype == "uint8" else _emit_floats
        weights = sum(array.size for array in self.pack(spec, _blank(plan)))

        def body(x: Expr, w: Expr, *rest: Expr) -> None:
            tail = Tail(plan.op.epilogue, rest[:-1], rest[-1], isa)
            _emit_places(plan, lambda *tile: emit_tile(plan, isa, way, x, w, tail, *tile))

        return emit.function([(way.dtype, plan.operand_elements), (way.dtype, weights), *plan.tail_parameters], body)

    def pack(self, spec: KernelSpec, weight: Array) -> Sequence[Array]:
        """float32: [filter][tap]. Codes: [four channels][group of four taps][channel][tap] as int8."""
        plan = Plan.of(spec)
        rows = np.asarray(weight).reshape(plan.op.filters, -1)
        if plan.op.dtype == "float32":
            return (np.ascontiguousarray(rows, np.float32).ravel(),)
        groups = _tap_groups(plan.op)
        padded = np.zeros((-(-plan.op.filters // _WORD) * _WORD, len(groups), _WORD), np.int8)
        for g, taps in enumerate(groups):
            padded[: len(rows), g, : len(taps)] = rows[:, taps]
        ordered = padded.reshape(-1, _WORD, len(groups), _WORD).swapaxes(1, 2)
        return (np.ascontiguousarray(ordered).view(np.int32).ravel(),)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """From the vectors computed, tails included."""
        plan = Plan.of(spec)
        vectors = computed([_rows(plan)]) * computed(plan.columns)
        return preparation_cost(plan, profile) + depthwise_cost(plan.op, vectors, _work(plan), profile)


def _work(plan: Plan) -> DepthwiseTile:
    """What a whole register tile does."""
    offsets = [
        dy * plan.walk.pitch + dx * plan.tile.lanes for dy in range(plan.tile.rows) for dx in range(plan.tile.vectors)
    ]
    loads = len({start + tap for start in offsets for tap in plan.walk.taps})
    if plan.op.dtype == "float32":
        return DepthwiseTile(len(offsets), len(plan.walk.taps), loads, 0)
    groups = _tap_groups(plan.op)
    shuffled = {tuple(start + plan.walk.taps[t] for t in group) for start in offsets for group in groups}
    return DepthwiseTile(len(offsets), len(groups), loads, len(shuffled))


def _rows(plan: Plan) -> Span:
    return covering(plan.walk.rows, plan.tile.rows)


def _grouped(op: Convolution) -> bool:
    return op.epilogue.dtype == "uint8" or "codes" in op.epilogue.operands


def _tiles(op: Op, lanes: int) -> set[tuple[int, int, int, int]]:
    turned = as_convolution(op)
    assert turned is not None
    height, width = turned.out_size
    wide = max(4, min(lanes, 1 << (width - 1).bit_length()))
    across = -(-width // wide)
    return {(1, min(rows, height), min(vectors, across), wide) for rows, vectors in _SHAPES}


def _blank(plan: Plan) -> Array:
    return np.zeros((plan.op.filters, len(plan.walk.taps)), np.int8)


def _tap_groups(op: Convolution) -> list[list[int]]:
    """Up to four neighbouring taps of one kernel row each."""
    width = op.kernel[1]
    return [
        list(range(row * width + first, row * width + min(first + _WORD, width)))
        for row in range(op.kernel[0])
        for first in range(0, width, _WORD)
    ]


def _emit_places(plan: Plan, body: Callable[[Expr, Place, int], None]) -> None:
    """Loops over channels, then over tiles of positions."""
    step = _WORD if plan.op.dtype == "uint8" or _grouped(plan.op) else 1
    for span in row_spans(plan.op.filters, step):
        with emit.loop(span.count) as i:
            channel = span.start + i * span.step
            ys = _rows(plan)
            with emit.loop(ys.count) as iy:
                y = emit.clamped(iy, ys.step, ys.last)
                for xs in plan.columns:
                    with emit.loop(xs.count) as ix:
                        x = xs.start + emit.clamped(ix, xs.step, xs.last - xs.start)
                        body(channel, place_of(plan, 0, ys, y, xs, x), len(span.offsets))


def _emit_floats(
    plan: Plan, isa: Isa, way: Arithmetic, x: Expr, w: Expr, tail: Tail, channel: Expr, place: Place, count: int
) -> None:
    rows = [_float_sums(plan, isa, way, x, w, channel + r, place) for r in range(count)]
    tail.store_channels(rows, channel, plan.positions, place.at, place.valid)


def _float_sums(plan: Plan, isa: Isa, way: Arithmetic, x: Expr, w: Expr, row: Expr, place: Place) -> list[Expr]:
    """One filter over one tile of positions."""
    taps = plan.walk.taps
    source = row if plan.filters == 1 else tirx.truncdiv(row, plan.filters)
    start = source * plan.walk.plane + place.start
    weights = list(splats(isa, w, row * len(taps), len(taps), plan.tile.lanes))
    sums: dict[int, Expr] = {}
    uses = sorted((off + tap, v, t) for v, off in enumerate(place.offsets) for t, tap in enumerate(taps))
    for at, group in groupby(uses, key=lambda use: use[0]):
        loaded = emit.bind(vector.load(x, start + at, plan.tile.lanes))
        for _, v, t in group:
            first = v not in sums
            sums[v] = emit.bind(loaded * weights[t] if first else way.accumulate(sums[v], (loaded,), (weights[t],)))
    return [sums[v] for v in range(len(place.offsets))]


def _emit_codes(
    plan: Plan, isa: Isa, way: Arithmetic, x: Expr, w: Expr, tail: Tail, channel: Expr, place: Place, count: int
) -> None:
    """Four channels over one tile of positions."""
    groups, lanes = _tap_groups(plan.op), plan.tile.lanes
    word = channel // _WORD if isinstance(channel, int) else tirx.truncdiv(channel, _WORD)
    weights = [_weight(way, w, (word * len(groups) + g) * _WORD, lanes) for g in range(len(groups))]
    sums = emit.Registers(_WORD * len(place.at), "int32", lanes)
    start = word * plan.walk.plane + place.start
    for offsets, group in groupby(_uses(plan, place, groups), key=lambda use: use[0]):
        loaded = [emit.bind(vector.load(x, start + at, lanes)) for at in offsets]
        loaded += [loaded[-1]] * (_WORD - len(loaded))
        parts = [way.activation(part) for part in transpose_bytes(loaded)]
        for _, v, g in group:
            for k, part in enumerate(parts):
                sums[v * _WORD + k] = way.accumulate(sums[v * _WORD + k], part, weights[g])
    finished = [transpose_words([sums[v * _WORD + k] for k in range(_WORD)]) for v in range(len(place.at))]
    rows = [[words[c] for words in finished] for c in range(count)]
    tail.store_channels(rows, channel, plan.positions, place.at, place.valid)


def _uses(plan: Plan, place: Place, groups: Sequence[Sequence[int]]) -> list[tuple[tuple[int, ...], int, int]]:
    """(operand offsets of a group's taps, vector, group), equal offsets next to each other."""
    taps = plan.walk.taps
    return sorted(
        (tuple(off + taps[t] for t in group), v, g)
        for v, off in enumerate(place.offsets)
        for g, group in enumerate(groups)
    )


def _weight(way: Arithmetic, w: Expr, at: Expr, lanes: int) -> tuple[Expr, ...]:
    """Words of four channels, repeated for every four positions."""
    quad = emit.bind(vector.load(w, at, _WORD))
    return way.weight(emit.bind(vector.concat([quad] * (lanes // _WORD))))
