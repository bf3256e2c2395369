# SPDX-License-Identifier: Apache-2.0
"""Sum, mean, max and min over one axis: along the vectors where it is the last, otherwise vector by vector."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from tvm import tirx

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.arithmetic import extreme
from sparsec.backends.kernels.cost import nbytes, streaming
from sparsec.backends.kernels.rows import Combine, Row, once
from sparsec.backends.kernels.weightless import Weightless
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import Reduce

Expr = Any
KINDS: dict[str, tuple[float, Callable[..., Any]]] = {
    "sum": (0.0, np.sum),
    "mean": (0.0, np.mean),
    "max": (float("-inf"), partial(np.max, initial=-np.inf)),
    "min": (float("inf"), partial(np.min, initial=np.inf)),
}
"""Kind: neutral element, numpy meaning. `max` and `min` keep NaN."""
_TOGETHER = 4
"""Vectors that are reduced at the same time."""


class ReduceKernel(Weightless):
    """Kernel of `Reduce`; the function takes x [outer][axis][inner], out [outer][inner], float32."""

    family = "reduce"
    op_type = Reduce

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """See `sparsec.compiler.lowering.kernel.Kernel`."""
        op: Reduce = spec.op  # type: ignore[assignment]
        emitter = _along if op.inner == 1 else _across
        combine = extreme(op.kind, isa) if op.kind in ("max", "min") else _add
        row = Row(op.axis if op.inner == 1 else op.inner, isa.lanes("float32"))

        def body(x: Expr, out: Expr) -> None:
            with emit.loop(op.outer) as outer:
                emitter(op, row, combine, x, out, outer)

        sizes = (op.outer * op.axis * op.inner, op.outer * op.inner)
        return emit.function([("float32", size) for size in sizes], body)

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """float32 [outer][inner], computed in float64."""
        op: Reduce = spec.op  # type: ignore[assignment]
        x = operands[0].reshape(op.outer, op.axis, op.inner).astype(np.float64)
        return np.asarray(KINDS[op.kind][1](x, axis=1), np.float32)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """Every element is read once."""
        op: Reduce = spec.op  # type: ignore[assignment]
        elements = op.outer * op.axis * op.inner
        return streaming(profile, nbytes("float32", elements + op.outer * op.inner), 2 * elements)


def _along(op: Reduce, row: Row, combine: Combine, x: Expr, out: Expr, outer: Expr) -> None:
    base = emit.bind(outer * op.axis)
    total = row.fold(lambda at: once(vector.load(x, base + at, row.lanes)), combine, KINDS[op.kind][0])
    emit.store(out, outer, _scaled(op, total))


def _across(op: Reduce, row: Row, combine: Combine, x: Expr, out: Expr, outer: Expr) -> None:
    """Neighbouring results together, so that whole cache lines are used."""
    row.groups(_TOGETHER, lambda starts: _column(op, row, combine, x, out, outer, starts))


def _column(op: Reduce, row: Row, combine: Combine, x: Expr, out: Expr, outer: Expr, starts: list[Expr]) -> None:
    start = [vector.const(KINDS[op.kind][0], "float32", row.lanes)] * len(starts)
    totals = emit.Registers(len(starts), "float32", row.lanes, start)
    with emit.loop(op.axis) as i:
        line = emit.bind((outer * op.axis + i) * op.inner)
        for k, at in enumerate(starts):
            totals[k] = combine(totals[k], once(vector.load(x, line + at, row.lanes)))
    for k, at in enumerate(starts):
        emit.store(out, outer * op.inner + at, _scaled(op, totals[k]))


def _scaled(op: Reduce, total: Expr) -> Expr:
    if op.kind != "mean":
        return total
    share = 1.0 / op.axis if op.axis else float("nan")
    return total * vector.splat(tirx.const(share, "float32"), vector.lanes_of(total))


def _add(a: Expr, b: Expr) -> Expr:
    return a + b
