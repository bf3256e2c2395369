# SPDX-License-Identifier: Apache-2.0
"""Max and average pooling: the rows of a window are folded to one padded row, then its columns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.arithmetic import extreme
from sparsec.backends.kernels.cost import nbytes, streaming
from sparsec.backends.kernels.rows import Row, once
from sparsec.backends.kernels.weightless import Weightless
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import Pool

Expr = Any
_UNROLLED = 4
"""Widest window whose columns are written out."""
_TOGETHER = 4
"""Vectors of a row that are folded at the same time."""
_KINDS = {"max": ("max", float("-inf")), "average": ("add", 0.0)}
"""Kind: operation of two elements (`max` keeps NaN), and where it starts."""


class PoolKernel(Weightless):
    """Kernel of `Pool`, ``max`` or ``average``; the function takes x [channels][h][w], out [channels][oh][ow]."""

    family = "pool"
    op_type = Pool

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """See `sparsec.compiler.lowering.kernel.Kernel`."""
        op: Pool = spec.op  # type: ignore[assignment]
        sizes = [op.channels * h * w for h, w in (op.size, op.out_size)]
        code = _Code(op, isa)
        return emit.function([("float32", size) for size in sizes], code.emit)

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """float32 [channels][oh][ow], averages computed in float64."""
        op: Pool = spec.op  # type: ignore[assignment]
        x = operands[0].reshape(op.channels, *op.size)
        out = np.zeros((op.channels, *op.out_size), np.float32)
        for oy, ox in np.ndindex(*op.out_size):
            (rows, tall), (columns, wide) = (_positions(op, axis, o) for axis, o in enumerate((oy, ox)))
            window = x[:, rows][:, :, columns].astype(np.float64)
            total = window.max(axis=(1, 2)) if op.kind == "max" else window.sum(axis=(1, 2)) / (tall * wide)
            out[:, oy, ox] = total
        return out

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """One operation for each row and each column of each window, more where columns are strided."""
        op: Pool = spec.op  # type: ignore[assignment]
        outputs = op.channels * op.out_size[0] * op.out_size[1]
        moved = nbytes("float32", op.channels, *op.size) + nbytes("float32", outputs)
        return streaming(profile, moved, outputs * (op.kernel[0] + op.kernel[1]) * min(op.stride[1], 3))


def _positions(op: Pool, axis: int, out: int) -> tuple[list[int], int]:
    """The input rows (columns) of a window that exist, and how many count for an average."""
    start = out * op.stride[axis] - op.pads[axis]
    places = [start + k * op.dilation[axis] for k in range(op.kernel[axis])]
    inside = [place for place in places if 0 <= place < op.size[axis]]
    padded = [place for place in places if place < op.size[axis] + op.pads[2 + axis]]
    return inside, len(padded) if op.count_pad else len(inside)


@dataclass(frozen=True, slots=True)
class _Window:
    """The part of a window along one axis that lies in the image.

    Attributes:
        start: Input row (column) of the window's first element, maybe outside.
        low: First of the window's elements that exist.
        high: One past the last.
        counted: How many count for an average.
    """

    start: Expr
    low: Expr
    high: Expr
    counted: Expr


@dataclass(frozen=True, slots=True)
class _Code:
    op: Pool
    isa: Isa

    def emit(self, x: Expr, out: Expr) -> None:
        """Channel by channel, row by row."""
        op, kernel = self.op, self.op.kernel[1]
        padded = max(op.pads[1] + op.size[1], (op.out_size[1] - 1) * op.stride[1] + op.dilation[1] * (kernel - 1) + 1)
        line = T.alloc_buffer((padded,), "float32")
        row = self._row(padded)
        row.each(lambda at: emit.store(line, at, vector.const(_KINDS[op.kind][1], "float32", row.lanes)))
        shares = self._shares()
        with emit.loop(op.channels) as channel, emit.loop(op.out_size[0]) as oy:
            window = self._window(0, oy)
            self._fold_rows(x, emit.bind(channel * op.size[0] * op.size[1]), window, line)
            base = emit.bind((channel * op.out_size[0] + oy) * op.out_size[1])
            self._fold_columns(line, out, base, shares, None if shares is None else _share(window))

    def _row(self, extent: int) -> Row:
        return Row(extent, self.isa.lanes("float32"))

    def _combine(self, a: Expr, b: Expr) -> Expr:
        return extreme(_KINDS[self.op.kind][0], self.isa)(a, b) if self.op.kind == "max" else a + b

    def _shares(self) -> Expr | None:
        """For an average, 1 / counted columns of each output column."""
        if self.op.kind == "max":
            return None
        shares = T.alloc_buffer((self.op.out_size[1],), "float32")
        with emit.loop(self.op.out_size[1]) as ox:
            emit.store(shares, ox, _share(self._window(1, ox)))
        return shares

    def _window(self, axis: int, out: Expr) -> _Window:
        kernel, dilation, size = self.op.kernel[axis], self.op.dilation[axis], self.op.size[axis]
        start = emit.bind(tirx.convert(out * self.op.stride[axis] - self.op.pads[axis]))

        def before(place: int) -> Expr:
            """How many of the window's elements come before a row (column)."""
            count = tirx.truncdiv(place - start + (dilation - 1), dilation)
            return emit.bind(tirx.min(tirx.max(count, 0), kernel))

        low, high = before(0), before(size)
        counted = before(size + self.op.pads[2 + axis]) if self.op.count_pad else high - low
        return _Window(start, low, high, counted)

    def _fold_rows(self, x: Expr, image: Expr, window: _Window, line: Expr) -> None:
        """The rows of a window to one, behind the padding on the left."""
        row = self._row(self.op.size[1])

        def fold(starts: list[Expr]) -> None:
            begin = [vector.const(_KINDS[self.op.kind][1], "float32", row.lanes)] * len(starts)
            totals = emit.Registers(len(starts), "float32", row.lanes, begin)
            with emit.loop_range(window.low, window.high) as ky:
                at = emit.bind(image + (window.start + ky * self.op.dilation[0]) * self.op.size[1])
                for k, start in enumerate(starts):
                    totals[k] = self._combine(totals[k], once(vector.load(x, at + start, row.lanes)))
            for k, start in enumerate(starts):
                emit.store(line, self.op.pads[1] + start, totals[k])

        row.groups(_TOGETHER, fold)

    def _fold_columns(self, line: Expr, out: Expr, base: Expr, shares: Expr | None, share: Expr | None) -> None:
        """One row of the output from the folded row."""
        row, kernel = self._row(self.op.out_size[1]), self.op.kernel[1]

        def fold(at: Expr) -> None:
            total = emit.Registers(1, "float32", row.lanes, [self._tap(line, at, 0, row.lanes)])

            def take(kx: Expr) -> None:
                total[0] = self._combine(total[0], once(self._tap(line, at, kx, row.lanes)))

            _each(kernel - 1, lambda k: take(k + 1))
            value = total[0]
            if shares is not None:
                value = value * vector.load(shares, at, row.lanes) * vector.splat(share, row.lanes)
            emit.store(out, base + at, value)

        row.each(fold)

    def _tap(self, line: Expr, at: Expr, kx: Expr, lanes: int) -> Expr:
        return vector.load(line, at * self.op.stride[1] + kx * self.op.dilation[1], lanes, self.op.stride[1])


def _share(window: _Window) -> Expr:
    return once(tirx.const(1.0, "float32") / tirx.Cast("float32", tirx.convert(window.counted)))


def _each(count: int, body: Callable[[Expr], None]) -> None:
    """Written out where there are few."""
    if count < _UNROLLED:
        for k in range(count):
            body(k)
        return
    with emit.loop(count) as k:
        body(k)
