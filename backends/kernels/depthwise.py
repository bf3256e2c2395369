# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolution: each filter reads one channel. Vectors run over the columns of several output rows at once.

An operand vector that several output rows or taps of a tile need is loaded once. In float32 each tap is a
multiply-add with a broadcast weight, from an operand that the `Pad` op prepares; codes, see `depthwise_codes`, are
padded by the kernel itself.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from tvm import tirx

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import depthwise_codes, emit, stencil, vector
from sparsec.backends.kernels.convolution import Place, place_of
from sparsec.backends.kernels.dot import Arithmetic, arithmetic, splats
from sparsec.backends.kernels.epilogue import Tail
from sparsec.backends.kernels.pad import PadKernel
from sparsec.backends.kernels.padded import PaddedKernel
from sparsec.backends.kernels.plan import Plan, as_convolution, is_depthwise, layouts, preparation_cost
from sparsec.backends.kernels.positions import Span, computed, covering, row_spans
from sparsec.backends.kernels.product_cost import DepthwiseTile, depthwise_cost
from sparsec.backends.kernels.stencil import Stencil
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import Convolution, Op

Expr = Any
_SHAPES = ((4, 1), (3, 1), (2, 1), (1, 1), (2, 2), (1, 4))
"""Rows x vectors of the register tiles tried."""
_WORD = 4


class DepthwiseKernel(PaddedKernel):
    """See the module. Parameters: operand, packed weights, epilogue operands, out."""

    family = "depthwise"

    def prepare(self, spec: KernelSpec) -> KernelSpec | None:
        """The `Pad` kernel before float32."""
        return None if _of_codes(spec) else super().prepare(spec)

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """Dense specs whose tile is (1, rows, vectors, lanes), of codes (rows of a vector, vectors, vectors, lanes)."""
        if not is_depthwise(op):
            return
        assert isinstance(op, Convolution)
        source, target = layouts(op)
        tiles = stencil.tiles if op.dtype == "uint8" else _tiles
        for tile in sorted(tiles(op, lanes)):
            yield KernelSpec(self.family, op, "dense", tile, (source,), target)

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """The TIR PrimFunc."""
        if _of_codes(spec):
            numbers = Stencil.of(spec)
            body = partial(depthwise_codes.emit_code, numbers, isa)
            return emit.function(depthwise_codes.signature(numbers), lambda x, w, *rest: body(x, w, rest))
        plan = Plan.of(spec)
        way = arithmetic(isa, "float32")

        def emit_floats(x: Expr, w: Expr, *rest: Expr) -> None:
            tail = Tail(plan.op.epilogue, rest[:-1], rest[-1], isa)
            _emit_places(plan, lambda *tile: _emit_floats(plan, isa, way, x, w, tail, *tile))

        weights = plan.op.filters * len(plan.walk.taps)
        parameters = [(way.dtype, plan.operand_elements), (way.dtype, weights), *plan.tail_parameters]
        return emit.function(parameters, emit_floats)

    def pack(self, spec: KernelSpec, weight: Array) -> Sequence[Array]:
        """float32: [filter][tap]. Codes: [four channels][group of four taps][channel][tap] as int8."""
        if _of_codes(spec):
            return (stencil.pack(Stencil.of(spec), weight),)
        rows = np.asarray(weight, np.float32).reshape(Plan.of(spec).op.filters, -1)
        return (np.ascontiguousarray(rows).ravel(),)

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """The same by numpy; the operand is prepared already if it is float32."""
        pad = super().prepare(spec)
        if _of_codes(spec) and pad is not None:
            operands = (PadKernel().reference(pad, None, operands[0]), *operands[1:])
        return super().reference(spec, weight, *operands)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """From the vectors computed, tails included, and from what is padded."""
        plan = Plan.of(spec)
        if _of_codes(spec):
            tile, vectors = stencil.work(Stencil.of(spec))
        else:
            tile, vectors = _work(plan), float(computed([_rows(plan)]) * computed(plan.columns))
        return preparation_cost(plan, profile) + depthwise_cost(plan.op, vectors, tile, profile)


def _of_codes(spec: KernelSpec) -> bool:
    return isinstance(spec.op, Convolution) and spec.op.dtype == "uint8"


def _work(plan: Plan) -> DepthwiseTile:
    """What a whole register tile does."""
    offsets = [
        dy * plan.walk.pitch + dx * plan.tile.lanes for dy in range(plan.tile.rows) for dx in range(plan.tile.vectors)
    ]
    loads = len({start + tap for start in offsets for tap in plan.walk.taps})
    return DepthwiseTile(len(offsets), len(plan.walk.taps), loads, 0)


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


def _emit_places(plan: Plan, body: Callable[[Expr, Place, int], None]) -> None:
    """Loops over channels, then over tiles of positions."""
    step = _WORD if _grouped(plan.op) else 1
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
