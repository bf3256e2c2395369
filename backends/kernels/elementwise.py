# SPDX-License-Identifier: Apache-2.0
"""Elementwise chains, broadcasts, transposes, slices and concatenation: the `Elementwise` op.

The fastest axis is covered by vectors. An operand that lies across (a transpose) is read in squares and mirrored in
registers. Where an array of codes is ``channels4`` - axes (groups, positions, 4), strides (4 N, 4, 1) - vectors run
over the positions and the four codes of a position are one 32-bit word. If the channels are no multiple of four, the
last group is an op of its own with axes (positions, rest); its missing lanes hold nothing: a computed word of three
codes has 0 there, others leave them as they are.

Reading and writing the same array with the same strides (in place) is safe: no element is written before it has been
read for the last time.
"""

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from sparsec.backends.isa import Isa
from sparsec.backends.kernels.cost import expression_operations, nbytes, streaming
from sparsec.backends.kernels.nest import Axis, across, loop_nest, moves_only, out_strides, quads
from sparsec.backends.kernels.vector import array, function, index
from sparsec.backends.kernels.walk import Walk, outer_loops
from sparsec.backends.kernels.weightless import Weightless
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import Elementwise, Op

_SQUARE = {1: 8, 2: 8, 4: 4, 8: 2}
"""Rows of a mirrored square, by bytes of an element."""
_WORDS = {1: "uint8", 2: "uint16", 4: "float32", 8: "uint64"}
"""The type that stands for any type of that size where elements are only moved."""
_ACROSS_FACTOR = 2.0
"""How much longer a byte takes that is read across."""


class ElementwiseKernel(Weightless):
    """Kernel of `Elementwise`; the function takes the operands, then the output."""

    family = "elementwise"
    op_type = Elementwise

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """The one spec; none for arithmetic on types other than float32 and uint8 codes."""
        return super().candidates(op, pattern, lanes) if isinstance(op, Elementwise) and _computable(op) else []

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """See `sparsec.compiler.lowering.kernel.Kernel`."""
        op: Elementwise = spec.op  # type: ignore[assignment]
        arrays, axes = _parameters(op), loop_nest(op)
        if not prod(op.shape):
            return function(arrays)
        bases = [index(o.offset) for o in op.operands] + [index(op.out_offset)]
        return function(arrays, _code(op, arrays, axes, bases, isa))

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """The output's elements in row-major order of `shape`."""
        op: Elementwise = spec.op  # type: ignore[assignment]
        views = [strided(a, op.shape, o.strides, o.offset) for a, o in zip(operands, op.operands, strict=True)]
        if moves_only(op):
            return np.ascontiguousarray(views[0])
        return np.broadcast_to(op.expression(*views), op.shape).astype(op.dtype)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """Bytes streamed, those read across counted more, or the arithmetic."""
        op: Elementwise = spec.op  # type: ignore[assignment]
        axes = loop_nest(op)
        moved = nbytes(op.dtype, *op.shape) + sum(_read_bytes(axes, k, o.dtype) for k, o in enumerate(op.operands))
        return streaming(profile, moved, prod(op.shape) * (1 + expression_operations(op.expression)))


def _computable(op: Elementwise) -> bool:
    return moves_only(op) or {op.dtype, *(o.dtype for o in op.operands)} <= {"float32", "uint8"}


def strided(source: Array, shape: Sequence[int], strides: Sequence[int], offset: int) -> Array:
    """A view of an array's elements by element strides."""
    flat = source.reshape(-1)[offset:]
    return as_strided(flat, tuple(shape), tuple(s * source.itemsize for s in strides))


def _code(op: Elementwise, arrays: tuple[Any, ...], axes: list[Axis], bases: list[Any], isa: Isa) -> Any:
    """Pick the inner loops, put the others around them."""
    moved = np.dtype(op.dtype).itemsize if moves_only(op) else 4
    walk = Walk(op, arrays, isa.vector_bytes // moved, _SQUARE[moved])
    words = quads(axes, _dtypes(op), _least_lanes(op))
    rows = across(axes, walk.square)
    if words is not None:
        walk = Walk(op, arrays, isa.lanes("float32"), walk.square)
        position, four = (axes[k] for k in words)
        return outer_loops(_without(axes, *words), bases, lambda b: walk.words(position, four, b))
    if rows is not None:
        down, right = axes[rows], axes[-1]
        return outer_loops(_without(axes[:-1], rows), bases, lambda b: walk.across(down, right, b))
    return outer_loops(axes[:-1], bases, lambda b: walk.along(axes[-1], b))


def _least_lanes(op: Elementwise) -> int:
    """Copies keep the missing lanes of a word, where a concatenation may have its next operand; results do not."""
    return 4 if moves_only(op) or op.out_offset % 4 else 3


def _without(axes: Sequence[Axis], *places: int) -> list[Axis]:
    return [axis for k, axis in enumerate(axes) if k not in places]


def _dtypes(op: Elementwise) -> list[str]:
    """Types of the arrays as the code sees them: where elements are only moved, any type of that size."""
    if moves_only(op):
        return [_WORDS[np.dtype(op.dtype).itemsize]] * 2
    return [*(o.dtype for o in op.operands), op.dtype]


def _parameters(op: Elementwise) -> tuple[Any, ...]:
    """Operands and output; sizes reach to the last element touched."""
    walks = [(o.strides, o.offset) for o in op.operands] + [(out_strides(op), op.out_offset)]
    reach = [start + sum(max(s, 0) * (e - 1) for s, e in zip(w, op.shape, strict=True)) + 1 for w, start in walks]
    if quads(loop_nest(op), _dtypes(op), _least_lanes(op)):
        reach[-1] = -(-reach[-1] // 4) * 4
    names = [*(f"x{i}" for i in range(len(op.operands))), "out"]
    return tuple(array(*p) for p in zip(names, _dtypes(op), reach, strict=True))


def _read_bytes(axes: Sequence[Axis], operand: int, dtype: str) -> float:
    """Bytes an operand brings in, weighted by how it lies."""
    touched = prod(a.extent for a in axes if a.strides[operand])
    return nbytes(dtype, touched) * (1.0 if axes[-1].strides[operand] in (0, 1) else _ACROSS_FACTOR)
