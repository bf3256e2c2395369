# SPDX-License-Identifier: Apache-2.0
"""Linear on row-major float32 tokens: out[t][m], vectors run over m, weights in panels [m / width][k][width].

With one token it is a matrix-vector product: the weights are streamed once, several vectors of outputs in flight.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit
from sparsec.backends.kernels.epilogue import Tail, parameters
from sparsec.backends.kernels.positions import Span, spans
from sparsec.backends.kernels.product_cost import rowwise_cost
from sparsec.backends.kernels.reference import finish_plain
from sparsec.backends.kernels.rowwise import SHAPES, Product, panel_spans, valid_lanes
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import Linear, Op

Expr = Any


class LinearKernel:
    """See the module. Parameters: x, packed weights, epilogue operands, out."""

    family = "linear"

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """Dense float32 specs; the tile is (tokens, vectors, lanes)."""
        if not isinstance(op, Linear) or op.dtype != "float32":
            return []
        wide = min(lanes, 1 << (op.outputs - 1).bit_length())
        most = -(-op.outputs // wide)
        tiles = sorted({(min(rows, op.positions), min(vectors, most), wide) for rows, vectors in SHAPES})
        return [KernelSpec(self.family, op, "dense", tile) for tile in tiles]

    def prepare(self, spec: KernelSpec) -> KernelSpec | None:
        """The input is read as it is."""
        return None

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """The TIR PrimFunc."""
        op = _op(spec)
        size = op.positions * op.outputs
        panels = [("float32", op.positions * op.inputs), ("float32", _packed_outputs(spec) * op.inputs)]

        def body(x: Expr, w: Expr, *rest: Expr) -> None:
            _emit(spec, isa, x, w, Tail(op.epilogue, rest[:-1], rest[-1], isa))

        return emit.function([*panels, *parameters(op.epilogue, op.outputs, size)], body)

    def pack(self, spec: KernelSpec, weight: Array) -> Sequence[Array]:
        """Panels [input][output], the last filled up by zeros to whole vectors."""
        padded = np.zeros((_packed_outputs(spec), _op(spec).inputs), np.float32)
        padded[: len(weight)] = weight
        parts = [
            padded[start : start + len(span.offsets) * spec.tile[2]].T.ravel()
            for span in _panels(spec)
            for start in range(span.start, span.start + max(span.count * span.step, 1), max(span.step, 1))
        ]
        return (np.concatenate(parts),)

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """By numpy, in float64."""
        op = _op(spec)
        assert weight is not None
        x = operands[0].reshape(op.positions, op.inputs).astype(np.float64)
        sums = (x @ weight.T.astype(np.float64)).astype(np.float32)
        return finish_plain(op.epilogue, sums, operands[1:])

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """From the vectors computed, tails included, or the bytes of the weights."""
        op = _op(spec)
        tiles = [
            (len(rows.offsets), len(panel.offsets), float(rows.count * panel.count))
            for rows in spans(op.positions, spec.tile[0])
            for panel in _panels(spec)
        ]
        return rowwise_cost(tiles, op.inputs, op.epilogue, 4 * op.inputs * op.outputs, profile)


def _op(spec: KernelSpec) -> Linear:
    assert isinstance(spec.op, Linear)
    return spec.op


def _panels(spec: KernelSpec) -> list[Span]:
    return panel_spans(_op(spec).outputs, spec.tile[1], spec.tile[2])


def _packed_outputs(spec: KernelSpec) -> int:
    return -(-_op(spec).outputs // spec.tile[2]) * spec.tile[2]


def _emit(spec: KernelSpec, isa: Isa, x: Expr, w: Expr, tail: Tail) -> None:
    op, lanes = _op(spec), spec.tile[2]
    for panel in _panels(spec):
        width = len(panel.offsets) * lanes
        with emit.loop(panel.count) as i:
            channel = panel.start + i * panel.step
            for rows in spans(op.positions, spec.tile[0]):
                with emit.loop(rows.count) as t:
                    token = rows.start + emit.clamped(t, rows.step, rows.last - rows.start)
                    x_at = [(token + row) * op.inputs for row in rows.offsets]
                    w_at = [channel * op.inputs + offset for offset in panel.offsets]
                    sums = Product(op.inputs, lanes, x_at, w_at, width).sums(isa, x, w)
                    channels = [channel + offset for offset in panel.offsets]
                    for row, vectors in zip(rows.offsets, sums, strict=True):
                        tail.store_plain(vectors, (token + row) * op.outputs, channels, valid_lanes(panel))
