# SPDX-License-Identifier: Apache-2.0
"""Sum, mean, max and min over one axis: along the vectors where it is the last, otherwise vector by vector."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from tvm import tirx

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.arithmetic import FUNCTIONS
from sparsec.backends.kernels.cost import nbytes, streaming
from sparsec.backends.kernels.rows import Row
from sparsec.backends.kernels.weightless import Weightless
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import Reduce

Expr = Any
KINDS: dict[str, tuple[str, float, Callable[..., Any]]] = {
    "sum": ("add", 0.0, np.sum),
    "mean": ("add", 0.0, np.mean),
    "max": ("max", float("-inf"), partial(np.max, initial=-np.inf)),
    "min": ("min", float("inf"), partial(np.min, initial=np.inf)),
}
"""Kind: operation of two elements (`max` and `min` keep NaN), neutral element, numpy meaning."""
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
        row = Row(op.axis if op.inner == 1 else op.inner, isa.lanes("float32"))

        def body(x: Expr, out: Expr) -> None:
            with emit.loop(op.outer) as outer:
                emitter(op, row, x, out, outer)

        sizes = (op.outer * op.axis * op.inner, op.outer * op.inner)
        return emit.function([("float32", size) for size in sizes], body)

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """float32 [outer][inner], computed in float64."""
        op: Reduce = spec.op  # type: ignore[assignment]
        x = operands[0].reshape(op.outer, op.axis, op.inner).astype(np.float64)
        return np.asarray(KINDS[op.kind][2](x, axis=1), np.float32)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """Every element is read once."""
        op: Reduce = spec.op  # type: ignore[assignment]
        elements = op.outer * op.axis * op.inner
        return streaming(profile, nbytes("float32", elements + op.outer * op.inner), 2 * elements)


def _along(op: Reduce, row: Row, x: Expr, out: Expr, outer: Expr) -> None:
    base = emit.bind(outer * op.axis)
    name, neutral, _ = KINDS[op.kind]
    total = row.fold(lambda at: vector.load(x, base + at, row.lanes), FUNCTIONS[name], neutral)
    emit.store(out, outer, _scaled(op, total))


def _across(op: Reduce, row: Row, x: Expr, out: Expr, outer: Expr) -> None:
    """Neighbouring results together, so that whole cache lines are used."""
    groups, single = divmod(row.whole, _TOGETHER)
    with emit.loop(groups) as g:
        _column(op, row, x, out, outer, [(g * _TOGETHER + k) * row.lanes for k in range(_TOGETHER)])
    rest = [(groups * _TOGETHER + k) * row.lanes for k in range(single)]
    rest += [] if row.last is None else [row.last]
    if rest:
        _column(op, row, x, out, outer, rest)


def _column(op: Reduce, row: Row, x: Expr, out: Expr, outer: Expr, starts: list[Expr]) -> None:
    name, neutral, _ = KINDS[op.kind]
    start = [vector.const(neutral, "float32", row.lanes)] * len(starts)
    totals = emit.Registers(len(starts), "float32", row.lanes, start)
    with emit.loop(op.axis) as i:
        line = emit.bind((outer * op.axis + i) * op.inner)
        for k, at in enumerate(starts):
            totals[k] = FUNCTIONS[name](totals[k], vector.load(x, line + at, row.lanes))
    for k, at in enumerate(starts):
        emit.store(out, outer * op.inner + at, _scaled(op, totals[k]))


def _scaled(op: Reduce, total: Expr) -> Expr:
    if op.kind != "mean":
        return total
    share = 1.0 / op.axis if op.axis else float("nan")
    return total * vector.splat(tirx.const(share, "float32"), vector.lanes_of(total))
