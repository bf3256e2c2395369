# SPDX-License-Identifier: Apache-2.0
"""Merging tokens to means weighted by size, and giving each original token the merged one that it went into."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.cost import nbytes, streaming
from sparsec.backends.kernels.dot import multiply_add
from sparsec.backends.kernels.rows import Row, once
from sparsec.backends.kernels.weightless import Weightless
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import PLAIN, MergeTokens, Op, UnmergeTokens
from sparsec.compiler.tokens import LEAST_SIZE

Expr = Any


class MergeTokensKernel(Weightless):
    """Kernel of `MergeTokens`; the function's parameters are those of the op, in its order."""

    family = "merge-tokens"
    op_type = MergeTokens

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """See `sparsec.compiler.lowering.kernel.Kernel`."""
        op: MergeTokens = spec.op  # type: ignore[assignment]
        before, after = op.batch * op.tokens, op.batch * op.left
        x, out = ("float32", before * op.width), ("float32", after * op.width)
        return emit.function([x, ("float32", before), ("int64", before), out, ("float32", after)], _Merge(op, isa).emit)

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """From x, size and slot: float32 [batch][left][width + 1], a token's size behind it; computed in float64."""
        op: MergeTokens = spec.op  # type: ignore[assignment]
        x = operands[0].reshape(op.batch, op.tokens, op.width).astype(np.float64)
        size, slot = (operand.reshape(op.batch, op.tokens) for operand in operands[1:])
        out, sizes = np.zeros((op.batch, op.left, op.width)), np.zeros((op.batch, op.left, 1))
        for sample in range(op.batch):
            np.add.at(out[sample], slot[sample], x[sample] * size[sample, :, None])
            np.add.at(sizes[sample], slot[sample], size[sample, :, None].astype(np.float64))
        return np.asarray(np.concatenate([out / np.maximum(sizes, LEAST_SIZE), sizes], 2), np.float32)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """Each token is read once; sums are read and written for it, and again to be divided."""
        op: MergeTokens = spec.op  # type: ignore[assignment]
        elements = op.batch * op.width * op.tokens
        return streaming(profile, 6 * nbytes("float32", elements), 6 * elements)

    def _layouts(self, op: Op) -> tuple[str, ...]:
        return (PLAIN,) * 3


@dataclass(frozen=True, slots=True)
class _Merge:
    op: MergeTokens
    isa: Isa

    def emit(self, x: Expr, size: Expr, slot: Expr, out: Expr, sizes: Expr) -> None:
        """Clear, add in the order of tokens, divide."""
        op = self.op
        row, zero = self._row, tirx.const(0.0, "float32")
        with emit.loop(op.batch * op.left) as token:
            emit.store(sizes, token, zero)
            base = emit.bind(token * op.width)
            row.each(lambda at: emit.store(out, base + at, vector.const(0.0, "float32", row.lanes)))
        with emit.loop(op.batch) as sample, emit.loop(op.tokens) as token:
            source = emit.bind(tirx.convert(sample * op.tokens + token))
            target = emit.bind(sample * op.left + tirx.Cast("int32", slot[source]))
            self._gather(x, source, once(size[source]), out, target, sizes)
        with emit.loop(op.batch * op.left) as token:
            self._divide(out, token, sizes)

    @property
    def _row(self) -> Row:
        """Parts that do not overlap, for what is added twice counts twice."""
        lanes = self.isa.lanes("float32")
        while self.op.width % lanes:
            lanes //= 2
        return Row(self.op.width, lanes)

    def _gather(self, x: Expr, source: Expr, weight: Expr, out: Expr, target: Expr, sizes: Expr) -> None:
        row, width = self._row, self.op.width
        emit.store(sizes, target, sizes[target] + weight)
        factor = once(vector.splat(weight, row.lanes))
        begin, end = emit.bind(source * width), emit.bind(target * width)

        def add(at: Expr) -> None:
            total = vector.load(out, end + at, row.lanes)
            emit.store(out, end + at, multiply_add(self.isa, vector.load(x, begin + at, row.lanes), factor, total))

        row.each(add)

    def _divide(self, out: Expr, token: Expr, sizes: Expr) -> None:
        row, least = self._row, tirx.const(LEAST_SIZE, "float32")
        size = once(sizes[token])
        divisor = once(vector.splat(once(tirx.Select(tirx.GT(size, least), size, least)), row.lanes))
        base = emit.bind(token * self.op.width)
        row.each(lambda at: emit.store(out, base + at, vector.load(out, base + at, row.lanes) / divisor))


class UnmergeTokensKernel(Weightless):
    """Kernel of `UnmergeTokens`; the function takes x, slot, out."""

    family = "unmerge-tokens"
    op_type = UnmergeTokens

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """See `sparsec.compiler.lowering.kernel.Kernel`."""
        op: UnmergeTokens = spec.op  # type: ignore[assignment]
        row, tokens = Row(op.words, isa.lanes("int32")), op.batch * op.tokens

        def body(x: Expr, slot: Expr, out: Expr) -> None:
            with emit.loop(op.batch) as sample, emit.loop(op.tokens) as token:
                target = emit.bind(tirx.convert(sample * op.tokens + token))
                source = emit.bind((sample * op.left + tirx.Cast("int32", slot[target])) * op.words)
                base = emit.bind(target * op.words)
                row.each(lambda at: emit.store(out, base + at, vector.load(x, source + at, row.lanes)))

        sizes = op.batch * op.left * op.words, tokens * op.words
        return emit.function([("int32", sizes[0]), ("int64", tokens), ("int32", sizes[1])], body)

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """[batch][tokens][words] of x's type."""
        op: UnmergeTokens = spec.op  # type: ignore[assignment]
        x, slot = operands[0].reshape(op.batch, op.left, -1), operands[1].reshape(op.batch, op.tokens, 1)
        return np.take_along_axis(x, slot, 1)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """Each word of the result is read and written once."""
        op: UnmergeTokens = spec.op  # type: ignore[assignment]
        return streaming(profile, 2 * nbytes("float32", op.batch * op.tokens * op.words), 0)

    def _layouts(self, op: Op) -> tuple[str, ...]:
        return (PLAIN,) * 2
