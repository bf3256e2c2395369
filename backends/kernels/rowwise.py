# SPDX-License-Identifier: Apache-2.0
"""The inner product of row-major matrices: rows of x times panels of w, vectors run along the rows of the result."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.dot import arithmetic
from sparsec.backends.kernels.positions import Span

Expr = Any
SHAPES = (
    (12, 2),
    (8, 3),
    (8, 2),
    (6, 2),
    (6, 4),
    (4, 6),
    (4, 4),
    (4, 3),
    (4, 2),
    (3, 3),
    (3, 4),
    (2, 4),
    (1, 8),
    (1, 4),
)
"""Rows x vectors of the register tiles tried."""
_QUAD = 4


@dataclass(frozen=True, slots=True)
class Product:
    """A register tile's sum over `depth`: rows of x from `x_at`, vectors of w from `w_at`, `w_pitch` apart."""

    depth: int
    lanes: int
    x_at: Sequence[Expr]
    w_at: Sequence[Expr]
    w_pitch: int

    def sums(self, isa: Isa, x: Expr, w: Expr) -> list[list[Expr]]:
        """Accumulators [row][vector]."""
        width = len(self.w_at)
        found = emit.Registers(len(self.x_at) * width, "float32", self.lanes)
        step = _QUAD if isa.triple.startswith("aarch64") and self.depth % _QUAD == 0 and self.lanes == _QUAD else 1
        with emit.loop(self.depth // step) as k:
            splats = [self._splats(x, start + k * step, step) for start in self.x_at]
            for i in range(step):
                self._step(isa, w, (k * step + i) * self.w_pitch, [quad[i] for quad in splats], found)
        values = [found[i] for i in range(len(found))]
        return [values[i : i + width] for i in range(0, len(values), width)]

    def _splats(self, x: Expr, at: Expr, count: int) -> list[Expr]:
        """Neighbouring elements of a row, each in all lanes; ARM takes four from one register."""
        if count == 1:
            return [emit.bind(vector.splat(x[at], self.lanes))]
        quad = emit.bind(vector.load(x, at, count))
        return [emit.bind(vector.pick(quad, [i] * count)) for i in range(count)]

    def _step(self, isa: Isa, w: Expr, at: Expr, splats: Sequence[Expr], sums: emit.Registers) -> None:
        way = arithmetic(isa, "float32")
        loaded = [emit.bind(vector.load(w, at + start, self.lanes)) for start in self.w_at]
        for r, splat in enumerate(splats):
            for v, weight in enumerate(loaded):
                index = r * len(loaded) + v
                sums[index] = way.accumulate(sums[index], (splat,), (weight,))


def panel_spans(extent: int, vectors: int, lanes: int) -> list[Span]:
    """Cover columns by panels whose weights are stored with zeros up to whole vectors: nothing twice."""
    size = vectors * lanes
    full, rest = divmod(extent, size)
    main = [Span(0, full, size, (full - 1) * size, tuple(range(0, size, lanes)))] if full else []
    if not rest:
        return main
    tail = tuple(range(0, rest, lanes))
    return [*main, Span(full * size, 1, 0, full * size, tail, rest % lanes)]


def valid_lanes(span: Span) -> list[int]:
    """Lanes of each vector of a tile that exist; 0 means all."""
    return [0] * (len(span.offsets) - 1) + [span.valid]
