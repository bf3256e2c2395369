# SPDX-License-Identifier: Apache-2.0
"""Softmax and its logarithm over rows: largest element, sum of exponentials, then the quotient."""

from typing import Any

import numpy as np
from tvm import tirx

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.cost import nbytes, streaming
from sparsec.backends.kernels.rows import Row, horizontal, once
from sparsec.backends.kernels.weightless import Weightless
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import Softmax

Expr = Any
_OPERATIONS = 20
"""Vector instructions for one element: the exponential, and five around it."""


class SoftmaxKernel(Weightless):
    """Kernel of `Softmax`; the function takes x, out, float32 [rows][columns]."""

    family = "softmax"
    op_type = Softmax

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """See `sparsec.compiler.lowering.kernel.Kernel`."""
        op: Softmax = spec.op  # type: ignore[assignment]
        row = Row(op.columns, isa.lanes("float32"))
        finish = _logarithms if op.log else _quotients

        def body(x: Expr, out: Expr) -> None:
            with emit.loop(op.rows) as r:
                finish(row, x, out, emit.bind(r * op.columns))

        return emit.function([("float32", op.rows * op.columns)] * 2, body)

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """float32 [rows][columns], computed in float64."""
        op: Softmax = spec.op  # type: ignore[assignment]
        x = operands[0].reshape(op.rows, op.columns).astype(np.float64)
        shifted = x - x.max(axis=1, keepdims=True)
        total = np.exp(shifted).sum(axis=1, keepdims=True)
        result = shifted - np.log(total) if op.log else np.exp(shifted) / total
        return np.asarray(result, np.float32)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """One exponential an element; read three times, written twice."""
        op: Softmax = spec.op  # type: ignore[assignment]
        elements = op.rows * op.columns
        return streaming(profile, 5 * nbytes("float32", elements), _OPERATIONS * elements)


def _quotients(row: Row, x: Expr, out: Expr, base: Expr) -> None:
    """Each exponential is stored as it is summed, then scaled where it lies; the overlapping vector stays aside."""
    exponential = _exponential(row, x, base)
    last = None if row.last is None else once(exponential(row.last))
    total = emit.Registers(1, "float32", row.lanes, None if last is None else [row.fresh(last, 0.0)])
    with emit.loop(row.whole) as i:
        at = emit.bind(i * row.lanes)
        value = once(exponential(at))
        emit.store(out, base + at, value)
        total[0] = total[0] + value
    scale = _splat(row, 1.0 / horizontal(total[0], _add))
    with emit.loop(row.whole) as i:
        at = emit.bind(base + i * row.lanes)
        emit.store(out, at, vector.load(out, at, row.lanes) * scale)
    if last is not None:
        emit.store(out, base + row.last, last * scale)


def _logarithms(row: Row, x: Expr, out: Expr, base: Expr) -> None:
    largest = _largest(row, x, base)
    shift = _splat(row, largest)
    total = row.fold(lambda at: tirx.exp(vector.load(x, base + at, row.lanes) - shift), _add, 0.0, ways=1)
    logarithm = _splat(row, tirx.log(total))
    row.each(lambda at: emit.store(out, base + at, vector.load(x, base + at, row.lanes) - shift - logarithm))


def _exponential(row: Row, x: Expr, base: Expr) -> Any:
    shift = _splat(row, _largest(row, x, base))
    return lambda at: tirx.exp(vector.load(x, base + at, row.lanes) - shift)


def _largest(row: Row, x: Expr, base: Expr) -> Expr:
    """NaN may be lost here; it comes back with the sum."""
    return row.fold(lambda at: vector.load(x, base + at, row.lanes), _larger, float("-inf"))


def _splat(row: Row, value: Expr) -> Expr:
    return once(vector.splat(once(value), row.lanes))


def _larger(a: Expr, b: Expr) -> Expr:
    return tirx.Select(tirx.GT(a, b), a, b)


def _add(a: Expr, b: Expr) -> Expr:
    return a + b
