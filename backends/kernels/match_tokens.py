# SPDX-License-Identifier: Apache-2.0
"""Which tokens merge: cosines of tokens at even places (A) with those at odd ones (B), the best of each row, a ranking.

B is normalized and turned first, so that vectors run over neighbouring tokens of B and nothing is summed across lanes.
Of equal tokens the first wins, as in onnxruntime's ArgMax and TopK.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.cost import nbytes, streaming
from sparsec.backends.kernels.dot import multiply_add
from sparsec.backends.kernels.rows import Row, once
from sparsec.backends.kernels.weightless import Weightless
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import PLAIN, MatchTokens, Op
from sparsec.compiler.tokens import FIRST, GUARDED, PADDED, PADDING, TINY

Expr = Any
_TOGETHER = 4
"""Vectors of a row of cosines that are summed at the same time."""
_LOWEST = -1e30


class MatchTokensKernel(Weightless):
    """Kernel of `MatchTokens`; the function's parameters are those of the op, in its order."""

    family = "match-tokens"
    op_type = MatchTokens

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """See `sparsec.compiler.lowering.kernel.Kernel`."""
        op: MatchTokens = spec.op  # type: ignore[assignment]
        tokens = op.batch * op.tokens
        parameters = [("float32", tokens * op.depth), ("float32", tokens), ("int64", tokens)]
        return emit.function(parameters, _Match(op, isa).emit)

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """int64 [batch][tokens], cosines computed in float64."""
        op: MatchTokens = spec.op  # type: ignore[assignment]
        metric, size = operands[0].reshape(op.batch, op.tokens, op.depth), operands[1].reshape(op.batch, op.tokens)
        return np.stack([_reference(op, *sample) for sample in zip(metric, size, strict=True)])

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """A small matrix product, and twice a few operations for each of its elements."""
        op: MatchTokens = spec.op  # type: ignore[assignment]
        pairs = op.batch * op.rows * op.columns
        return streaming(profile, nbytes("float32", op.batch * op.tokens * op.depth), pairs * (op.depth + 20))

    def _layouts(self, op: Op) -> tuple[str, ...]:
        return (PLAIN,) * 2


@dataclass(frozen=True, slots=True)
class _Match:
    op: MatchTokens
    isa: Isa

    def emit(self, metric: Expr, size: Expr, slot: Expr) -> None:
        """All samples of the batch, with scratch memory that they share."""
        op = self.op
        turned = T.alloc_buffer((op.depth * op.columns,), "float32")
        cosines = T.alloc_buffer((op.columns,), "float32")
        best, partner = T.alloc_buffer((op.rows,), "float32"), T.alloc_buffer((op.rows,), "int32")
        with emit.loop(op.batch) as sample:
            base = emit.bind(tirx.convert(sample * op.tokens))
            self._turn(metric, base, turned)
            with emit.loop(op.rows) as i:
                at = emit.bind((base + 2 * i) * op.depth)
                self._compare(metric, at, turned, cosines)
                self._pick(size, base, i, cosines, best, partner)
            self._rank(base, best, partner, slot)

    def _turn(self, metric: Expr, base: Expr, turned: Expr) -> None:
        """B as unit vectors [depth][columns]."""
        with emit.loop(self.op.columns) as j:
            at = emit.bind((base + 2 * j + 1) * self.op.depth)
            factor = self._reciprocal_length(metric, at)
            with emit.loop(self.op.depth) as c:
                emit.store(turned, c * self.op.columns + j, metric[at + c] * factor)

    def _reciprocal_length(self, metric: Expr, at: Expr) -> Expr:
        row = Row(self.op.depth, self.isa.lanes("float32"))
        squares = row.fold(lambda start: _square(vector.load(metric, at + start, row.lanes)), _add, 0.0)
        length, tiny = once(tirx.sqrt(squares)), tirx.const(TINY, "float32")
        return once(tirx.const(1.0, "float32") / once(tirx.Select(tirx.GT(length, tiny), length, tiny)))

    def _compare(self, metric: Expr, at: Expr, turned: Expr, cosines: Expr) -> None:
        """One token of A with all of B."""
        row = Row(self.op.columns, self.isa.lanes("float32"))
        factor = self._reciprocal_length(metric, at)

        def group(starts: list[Expr]) -> None:
            sums = emit.Registers(len(starts), "float32", row.lanes)
            with emit.loop(self.op.depth) as c:
                source = once(vector.splat(once(metric[at + c] * factor), row.lanes))
                line = emit.bind(tirx.convert(c * self.op.columns))
                for k, start in enumerate(starts):
                    sums[k] = multiply_add(self.isa, source, vector.load(turned, line + start, row.lanes), sums[k])
            for k, start in enumerate(starts):
                emit.store(cosines, start, sums[k])

        row.groups(_TOGETHER, group)

    def _pick(self, size: Expr, base: Expr, i: Expr, cosines: Expr, best: Expr, partner: Expr) -> None:
        """The best of B for one token of A: the first of equals, protected ones last, padding next to last."""
        found = emit.Registers(1, "float32", 1, [tirx.const(_LOWEST, "float32")])
        place = emit.Registers(1, "int32", 1)
        with emit.loop(self.op.columns) as j:
            value = _or_padding(size[base + 2 * j + 1], PADDED, cosines[j])
            value = once(_where(j < self.op.guarded // 2, GUARDED, value) if self.op.guarded > 1 else value)
            better = tirx.GT(value, found[0])
            place[0] = tirx.Select(better, emit.bind(tirx.convert(j)), place[0])
            found[0] = tirx.Select(better, value, found[0])
        value = _or_padding(size[base + 2 * i], FIRST, found[0])
        emit.store(best, i, _where(i < (self.op.guarded + 1) // 2, GUARDED, value) if self.op.guarded else value)
        emit.store(partner, i, place[0])

    def _rank(self, base: Expr, best: Expr, partner: Expr, slot: Expr) -> None:
        """The `merged` best of A go to their partners; protected tokens, the rest of A, and B follow each other."""
        op = self.op
        left, ahead = op.rows - op.merged, op.guarded // 2
        kept = emit.Registers(1, "int32", 1)
        with emit.loop(op.rows) as i:
            own = once(best[i])
            before = emit.Registers(1, "int32", 1)
            with emit.loop(op.rows) as k:
                other = once(best[k])
                earlier = tirx.And(tirx.EQ(other, own), tirx.LT(tirx.convert(k), tirx.convert(i)))
                counts = tirx.Or(tirx.GT(other, own), earlier)
                before[0] = before[0] + tirx.Select(counts, _integer(1), _integer(0))
            merges = tirx.LT(before[0], _integer(op.merged))
            place = once(tirx.Select(merges, partner[i] + left, kept[0] + ahead))
            kept[0] = kept[0] + tirx.Select(merges, _integer(0), _integer(1))
            place = _guard(i < (op.guarded + 1) // 2, 2 * i, place) if op.guarded > 1 else place
            emit.store(slot, base + 2 * i, tirx.Cast("int64", place))
        with emit.loop(op.columns) as j:
            place = emit.bind(tirx.convert(j + left))
            place = _guard(j < op.guarded // 2, 2 * j + 1, place) if op.guarded > 1 else place
            emit.store(slot, base + 2 * j + 1, tirx.Cast("int64", place))


def _reference(op: MatchTokens, metric: Array, size: Array) -> Array:
    unit = metric / np.maximum(np.linalg.norm(metric.astype(np.float64), axis=1, keepdims=True), TINY)
    similar = unit[::2] @ unit[1::2].T
    similar[:, size[1::2] < PADDING] = PADDED
    similar[:, : op.guarded // 2] = GUARDED
    partner, best = similar.argmax(1), similar.max(1)
    best[size[::2] < PADDING] = FIRST
    best[: (op.guarded + 1) // 2] = GUARDED
    merges = np.zeros(op.rows, bool)
    merges[np.argsort(-best, kind="stable")[: op.merged]] = True
    left, slot = op.rows - op.merged, np.zeros(op.tokens, np.int64)
    slot[::2] = np.where(merges, partner + left, np.cumsum(~merges) - 1 + op.guarded // 2)
    slot[1::2] = np.arange(op.columns) + left
    slot[: op.guarded] = np.arange(op.guarded)
    return slot


def _or_padding(size: Expr, value: float, other: Expr) -> Expr:
    padding = tirx.LT(size, tirx.const(PADDING, "float32"))
    return once(tirx.Select(padding, tirx.const(value, "float32"), other))


def _where(condition: Expr, value: float, other: Expr) -> Expr:
    return tirx.Select(tirx.convert(condition), tirx.const(value, "float32"), other)


def _guard(condition: Expr, place: Expr, other: Expr) -> Expr:
    return tirx.Select(tirx.convert(condition), tirx.convert(place), other)


def _integer(value: int) -> Expr:
    return tirx.const(value, "int32")


def _square(value: Expr) -> Expr:
    name = once(value)
    return name * name


def _add(a: Expr, b: Expr) -> Expr:
    return a + b
