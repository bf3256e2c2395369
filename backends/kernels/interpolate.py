# SPDX-License-Identifier: Apache-2.0
"""Linear and nearest resize of images by tables: each output row is blended from two rows, then gathered from."""

from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.cost import nbytes, streaming
from sparsec.backends.kernels.rows import Row, once
from sparsec.backends.kernels.weightless import Weightless
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import PLAIN, Interpolate, Op

Expr = Any
_GATHERED = 4
"""Vector operations that gathering one element is worth."""


class InterpolateKernel(Weightless):
    """Kernel of `Interpolate`.

    The function takes x [channels][h][w], row starts int32 [oh], row fractions [oh], column starts int32 [ow], column
    fractions [ow], out [channels][oh][ow]. Starts lie in 0..h-1 (0..w-1); where a start is the last row (column),
    the one after it is taken to be the same, so that its fraction does not matter.
    """

    family = "interpolate"
    op_type = Interpolate

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """See `sparsec.compiler.lowering.kernel.Kernel`."""
        op: Interpolate = spec.op  # type: ignore[assignment]
        emitter = _linear if op.linear else _nearest

        def body(x: Expr, row: Expr, row_part: Expr, column: Expr, column_part: Expr, out: Expr) -> None:
            emitter(op, isa.lanes("float32"), (x, row, row_part, column, column_part, out))

        tables = [(dtype, extent) for extent in op.out_size for dtype in ("int32", "float32")]
        images = [("float32", op.channels * h * w) for h, w in (op.size, op.out_size)]
        return emit.function([images[0], *tables, images[1]], body)

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """float32 [channels][oh][ow], computed in float64."""
        op: Interpolate = spec.op  # type: ignore[assignment]
        x, row, row_part, column, column_part = operands
        image = x.reshape(op.channels, *op.size).astype(np.float64)
        if not op.linear:
            return np.asarray(image[:, row][:, :, column], np.float32)
        image = _blend(image, row, row_part.astype(np.float64), 1)
        return np.asarray(_blend(image, column, column_part.astype(np.float64), 2), np.float32)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """A gather or two for each output element, and the blend of its row."""
        op: Interpolate = spec.op  # type: ignore[assignment]
        outputs = op.channels * op.out_size[0] * op.out_size[1]
        blended = op.channels * op.out_size[0] * op.size[1] * 3
        operations = 2 * outputs * _GATHERED + blended if op.linear else outputs * _GATHERED
        return streaming(profile, nbytes("float32", outputs, 2), operations)

    def _layouts(self, op: Op) -> tuple[str, ...]:
        return (PLAIN,) * 5


def _blend(image: Array, start: Array, part: Array, axis: int) -> Array:
    after = np.minimum(start + 1, image.shape[axis] - 1)
    low, high = np.take(image, start, axis), np.take(image, after, axis)
    part = part.reshape([-1 if i == axis else 1 for i in range(3)])
    return np.asarray(low * (1 - part) + high * part)


def _linear(op: Interpolate, lanes: int, arrays: tuple[Expr, ...]) -> None:
    x, row, row_part, column, column_part, out = arrays
    height, width = op.size
    blended = T.alloc_buffer((width,), "float32")
    across, along = Row(width, lanes), Row(op.out_size[1], lanes)
    with emit.loop(op.channels) as c, emit.loop(op.out_size[0]) as y:
        start, share = emit.bind(row[y]), once(vector.splat(row_part[y], across.lanes))
        top = emit.bind((c * height + start) * width)
        below = emit.bind((c * height + tirx.min(start + 1, height - 1)) * width)

        def mix(at: Expr) -> None:
            low, high = (vector.load(x, line + at, across.lanes) for line in (top, below))
            emit.store(blended, at, _mixed(low, high, share))

        def gather(at: Expr) -> None:
            first = emit.bind(vector.load(column, at, along.lanes))
            after = once(tirx.min(first + vector.const(1, "int32", along.lanes), _all(width - 1, along.lanes)))
            part = vector.load(column_part, at, along.lanes)
            value = _mixed(_gathered(blended, first), _gathered(blended, after), part)
            emit.store(out, (c * op.out_size[0] + y) * op.out_size[1] + at, value)

        across.each(mix)
        along.each(gather)


def _nearest(op: Interpolate, lanes: int, arrays: tuple[Expr, ...]) -> None:
    x, row, _, column, _, out = arrays
    along = Row(op.out_size[1], lanes)
    with emit.loop(op.channels) as c, emit.loop(op.out_size[0]) as y:
        line = emit.bind((c * op.size[0] + row[y]) * op.size[1])

        def gather(at: Expr) -> None:
            places = once(vector.load(column, at, along.lanes) + vector.splat(line, along.lanes))
            emit.store(out, (c * op.out_size[0] + y) * op.out_size[1] + at, _gathered(x, places))

        along.each(gather)


def _gathered(source: Expr, places: Expr) -> Expr:
    """The elements at these places."""
    each = [vector.pick(places, [lane]) for lane in range(vector.lanes_of(places))]
    return vector.concat([vector.load(source, emit.bind(place), 1) for place in each])


def _mixed(low: Expr, high: Expr, part: Expr) -> Expr:
    first, second, share = once(low), once(high), once(part)
    one = vector.const(1.0, "float32", vector.lanes_of(share))
    return first * (one - share) + second * share


def _all(value: int, lanes: int) -> Expr:
    return vector.const(value, "int32", lanes)
