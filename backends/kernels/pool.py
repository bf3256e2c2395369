# SPDX-License-Identifier: Apache-2.0
"""Max and average pooling: vectors over the output's columns whose windows lie inside, else one by one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.arithmetic import FUNCTIONS
from sparsec.backends.kernels.cost import nbytes, streaming
from sparsec.backends.kernels.rows import Row, once
from sparsec.backends.kernels.weightless import Weightless
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import Pool

Expr = Any
_UNROLLED = 4
"""Widest window whose columns are written out."""
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
        code = _Code(op, isa.lanes("float32"))
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
        """One operation for each element of each window, two where columns are strided."""
        op: Pool = spec.op  # type: ignore[assignment]
        outputs = op.channels * op.out_size[0] * op.out_size[1]
        moved = nbytes("float32", op.channels, *op.size) + nbytes("float32", outputs)
        return streaming(profile, moved, outputs * op.kernel[0] * op.kernel[1] * min(op.stride[1], 3))


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
    lanes: int

    def emit(self, x: Expr, out: Expr) -> None:
        """Channel by channel, row by row."""
        first, last = self._interior()
        with emit.loop(self.op.channels) as channel, emit.loop(self.op.out_size[0]) as oy:
            rows = self._window(0, oy)
            base = emit.bind((channel * self.op.out_size[0] + oy) * self.op.out_size[1])
            image = emit.bind(channel * self.op.size[0] * self.op.size[1])

            def column(ox: Expr, columns: _Window, lanes: int) -> None:
                value = self._pooled(x, image, rows, columns, lanes)
                emit.store(out, base + ox, value)

            self._each(0, first, column)
            if first < last:
                row = Row(last - first, self.lanes)
                row.each(lambda at: column(at + first, self._inside(at + first), row.lanes))
            self._each(last, self.op.out_size[1], column)

    def _each(self, start: int, stop: int, column: Callable[[Expr, _Window, int], None]) -> None:
        if start < stop:
            with emit.loop(stop - start) as i:
                column(i + start, self._window(1, i + start), 1)

    def _interior(self) -> tuple[int, int]:
        """The output columns, from and to, whose windows lie in the image."""
        stride, pad, count = self.op.stride[1], self.op.pads[1], self.op.out_size[1]
        reach = self.op.dilation[1] * (self.op.kernel[1] - 1)
        first = min(-(-pad // stride), count)
        return first, min(max((self.op.size[1] - 1 - reach + pad) // stride + 1, first), count)

    def _inside(self, ox: Expr) -> _Window:
        kernel = self.op.kernel[1]
        return _Window(ox * self.op.stride[1] - self.op.pads[1], 0, kernel, kernel)

    def _window(self, axis: int, out: Expr) -> _Window:
        kernel, dilation, size = self.op.kernel[axis], self.op.dilation[axis], self.op.size[axis]
        start = emit.bind(tirx.convert(out * self.op.stride[axis] - self.op.pads[axis]))

        def before(place: int) -> Expr:
            """How many of the window's elements come before a row (column); never negative."""
            count = tirx.truncdiv(place - start + (dilation - 1), dilation)
            return emit.bind(tirx.min(tirx.max(count, 0), kernel))

        low, high = before(0), before(size)
        counted = before(size + self.op.pads[2 + axis]) if self.op.count_pad else high - low
        return _Window(start, low, high, counted)

    def _pooled(self, x: Expr, image: Expr, rows: _Window, columns: _Window, lanes: int) -> Expr:
        name, start = _KINDS[self.op.kind]
        total = emit.Registers(1, "float32", lanes, [vector.const(start, "float32", lanes)])
        with emit.loop_range(rows.low, rows.high) as ky:
            line = emit.bind(image + (rows.start + ky * self.op.dilation[0]) * self.op.size[1] + columns.start)

            def take(kx: Expr) -> None:
                value = vector.load(x, line + kx * self.op.dilation[1], lanes, self.op.stride[1])
                total[0] = FUNCTIONS[name](total[0], value)

            self._columns(columns, take)
        if self.op.kind == "max":
            return total[0]
        count = tirx.Cast("float32", tirx.convert(rows.counted * columns.counted))
        return total[0] * vector.splat(once(tirx.const(1.0, "float32") / count), lanes)

    def _columns(self, columns: _Window, take: Callable[[Expr], None]) -> None:
        if isinstance(columns.high, int) and columns.high <= _UNROLLED:
            for kx in range(columns.high):
                take(kx)
            return
        with emit.loop_range(columns.low, columns.high) as kx:
            take(kx)
