# SPDX-License-Identifier: Apache-2.0
"""Products of two row-major float32 matrices, both computed at run time: out[b][m][n], vectors run over n."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit
from sparsec.backends.kernels.epilogue import Tail, parameters
from sparsec.backends.kernels.positions import Span, spans
from sparsec.backends.kernels.product_cost import rowwise_cost
from sparsec.backends.kernels.reference import finish_plain
from sparsec.backends.kernels.rowwise import SHAPES, Product
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import PLAIN, BatchMatMul, Op

Expr = Any


class BatchMatMulKernel:
    """See the module. Parameters: a, b, epilogue operands, out."""

    family = "batch-matmul"

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """Specs whose tile is (rows, vectors, lanes); vectors no longer than a row of b."""
        if not isinstance(op, BatchMatMul):
            return []
        wide = min(lanes, 1 << (op.n.bit_length() - 1))
        most = -(-op.n // wide)
        tiles = sorted({(min(rows, op.m), min(vectors, most), wide) for rows, vectors in SHAPES})
        return [KernelSpec(self.family, op, "dense", tile, (PLAIN, PLAIN)) for tile in tiles]

    def prepare(self, spec: KernelSpec) -> KernelSpec | None:
        """The operands are read as they are."""
        return None

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """The TIR PrimFunc."""
        op = _op(spec)
        operands = [("float32", op.a_batches * op.m * op.k), ("float32", op.b_batches * op.k * op.n)]

        def body(a: Expr, b: Expr, *rest: Expr) -> None:
            _emit(spec, isa, a, b, Tail(op.epilogue, rest[:-1], rest[-1], isa))

        return emit.function([*operands, *parameters(op.epilogue, op.n, op.batches * op.m * op.n)], body)

    def pack(self, spec: KernelSpec, weight: Array) -> Sequence[Array]:
        """No constants."""
        return ()

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """By numpy, in float64."""
        op = _op(spec)
        a = operands[0].reshape(op.a_batches, op.m, op.k).astype(np.float64)
        b = operands[1].reshape(op.b_batches, op.k, op.n).astype(np.float64)
        sums = np.broadcast_to(a @ b, (op.batches, op.m, op.n)).astype(np.float32)
        return finish_plain(op.epilogue, sums, operands[2:])

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """From the vectors computed, tails included, or the bytes of the operands."""
        op = _op(spec)
        tiles = [
            (len(rows.offsets), len(panel.offsets), float(op.batches * rows.count * panel.count))
            for rows in spans(op.m, spec.tile[0])
            for panel in _panels(spec)
        ]
        nbytes = 4 * op.batches * (op.m * op.k + op.k * op.n)
        return rowwise_cost(tiles, op.k, op.epilogue, nbytes, profile)


def _op(spec: KernelSpec) -> BatchMatMul:
    assert isinstance(spec.op, BatchMatMul)
    return spec.op


def _panels(spec: KernelSpec) -> list[Span]:
    return spans(_op(spec).n, spec.tile[1], spec.tile[2])


def _emit(spec: KernelSpec, isa: Isa, a: Expr, b: Expr, tail: Tail) -> None:
    op = _op(spec)
    with emit.loop(op.batches) as batch:
        left = batch * (op.m * op.k) if op.a_batches > 1 else 0
        right = batch * (op.k * op.n) if op.b_batches > 1 else 0
        for panel in _panels(spec):
            with emit.loop(panel.count) as i:
                column = panel.start + emit.clamped(i, panel.step, panel.last - panel.start)
                columns = [column + offset for offset in panel.offsets]
                for rows in spans(op.m, spec.tile[0]):
                    with emit.loop(rows.count) as j:
                        first = rows.start + emit.clamped(j, rows.step, rows.last - rows.start)
                        a_at = [left + (first + row) * op.k for row in rows.offsets]
                        b_at = [right + place for place in columns]
                        sums = Product(op.k, spec.tile[2], a_at, b_at, op.n).sums(isa, a, b)
                        for row, vectors in zip(rows.offsets, sums, strict=True):
                            tail.store_plain(vectors, (batch * op.m + first + row) * op.n, columns)
