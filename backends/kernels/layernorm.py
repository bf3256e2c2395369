# SPDX-License-Identifier: Apache-2.0
"""Layer normalization over rows, in two passes: the mean, then the variance around it."""

from typing import Any

import numpy as np
from tvm import tirx

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.cost import nbytes, streaming
from sparsec.backends.kernels.rows import Row, once
from sparsec.backends.kernels.weightless import Weightless
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import PLAIN, LayerNorm, Op

Expr = Any
_OPERATIONS = 7
"""Vector instructions for one element."""


class LayerNormKernel(Weightless):
    """Kernel of `LayerNorm`; the function takes x, scale, bias, out, all float32."""

    family = "layernorm"
    op_type = LayerNorm

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """See `sparsec.compiler.lowering.kernel.Kernel`."""
        op: LayerNorm = spec.op  # type: ignore[assignment]
        row = Row(op.columns, isa.lanes("float32"))

        def body(x: Expr, scale: Expr, bias: Expr, out: Expr) -> None:
            with emit.loop(op.rows) as r:
                _normalize(row, op.epsilon, (x, scale, bias, out), emit.bind(r * op.columns))

        elements = ("float32", op.rows * op.columns)
        return emit.function([elements, ("float32", op.columns), ("float32", op.columns), elements], body)

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """float32 [rows][columns], computed in float64."""
        op: LayerNorm = spec.op  # type: ignore[assignment]
        x, scale, bias = (operand.astype(np.float64) for operand in operands)
        x = x.reshape(op.rows, op.columns)
        centred = x - x.mean(axis=1, keepdims=True)
        variance = (centred**2).mean(axis=1, keepdims=True)
        return np.asarray(centred / np.sqrt(variance + op.epsilon) * scale + bias, np.float32)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """Read three times, written once."""
        op: LayerNorm = spec.op  # type: ignore[assignment]
        elements = op.rows * op.columns
        return streaming(profile, 4 * nbytes("float32", elements), _OPERATIONS * elements)

    def _layouts(self, op: Op) -> tuple[str, ...]:
        return (PLAIN,) * 3


def _normalize(row: Row, epsilon: float, arrays: tuple[Expr, ...], base: Expr) -> None:
    x, scale, bias, out = arrays
    share = tirx.const(1.0 / row.extent, "float32")
    mean = once(vector.splat(once(row.fold(lambda at: _part(row, x, base + at), _add, 0.0) * share), row.lanes))
    squares = row.fold(lambda at: _square(_part(row, x, base + at) - mean), _add, 0.0)
    spread = once(tirx.sqrt(once(squares * share) + tirx.const(epsilon, "float32")))
    factor = once(vector.splat(once(tirx.const(1.0, "float32") / spread), row.lanes))

    def finish(at: Expr) -> None:
        centred = (_part(row, x, base + at) - mean) * factor
        emit.store(out, base + at, centred * _part(row, scale, at) + _part(row, bias, at))

    row.each(finish)


def _part(row: Row, source: Expr, at: Expr) -> Expr:
    return vector.load(source, at, row.lanes)


def _square(value: Expr) -> Expr:
    name = once(value)
    return name * name


def _add(a: Expr, b: Expr) -> Expr:
    return a + b
