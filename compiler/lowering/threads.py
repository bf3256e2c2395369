# SPDX-License-Identifier: Apache-2.0
"""Cutting an op into parts that several threads compute at the same time.

A part is an op of the same kind over a range of one axis, whose results nobody else computes: filters, groups, tokens,
rows, batches, images. Its kernel is the one that was chosen for the whole op, with the same tile, so every element is
summed in the same order and the result has the same bits, whatever the number of threads.

Parts of an op with a constant weight are cut where prices are equal, so a sparse layer by the weights it has kept.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import numpy as np

from sparsec.compiler.lowering.kernel import Array, Backend, KernelSpec
from sparsec.compiler.lowering.ops import (
    PLAIN,
    BatchMatMul,
    Convolution,
    Elementwise,
    Epilogue,
    GroupedLinear,
    Interpolate,
    LayerNorm,
    Linear,
    Op,
    Operand,
    Pad,
    Pool,
    Reduce,
    Softmax,
)

SMALLEST_US = 2.0
"""Predicted microseconds of a part at least: to wait for each other costs some hundred nanoseconds."""
_GAIN = 0.95
"""Parts are kept if the dearest costs at most this share of the whole."""
_WASTE = 1.1
"""An axis further in is taken only if the largest part is more than this times the mean."""
_CLOSE = 1.01
"""Cuts whose dearest parts differ by less are equal; then parts of one size, which share their code, win."""
_LINE = 64
"""Neighbouring elements that one thread should write."""
_FEW = 8
"""Tokens up to which the weights' bytes cost most, so that outputs are cut although they are apart in memory."""
_COARSEST = 128
"""Rows of a weight between places where it may be cut, at most."""

Range = tuple[int, int]
"""Start and stop along an axis."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis along which an op may be cut.

    Attributes:
        extent: Elements along it.
        resized: The op with fewer of them.
        steps: Bytes from one element to the next, for each parameter (activations, epilogue operands, outputs, but no
            packed constants); 0 where every part reads all of it.
        unit: Cuts stand at multiples of this.
        rows: Rows of the constant weight for each element; 0 where every part needs the whole weight.
        private: Whether each part reads a piece of the activation, which it may then prepare by itself.
        reach: Bytes first to stop that a part of so many elements touches of each parameter, from the pointer it is
            given; None: as many as `steps` says.
        copy: Where a part's results are apart in memory: the op that puts them there from where they are together.
    """

    extent: int
    resized: Callable[[int], Op]
    steps: tuple[int, ...]
    unit: int = 1
    rows: int = 0
    private: bool = False
    reach: Callable[[int], Sequence[Range]] | None = None
    copy: Callable[[int], Elementwise] | None = None

    def touched(self, count: int) -> tuple[Range | None, ...]:
        """Bytes of each parameter that `count` elements touch, from a part's pointer; None: all there are."""
        spans = self.reach(count) if self.reach is not None else [(0, count * step) for step in self.steps]
        return tuple(span if step else None for span, step in zip(spans, self.steps, strict=True))


def part(spec: KernelSpec, axis: Axis, piece: Range) -> KernelSpec:
    """The kernel of one part."""
    return replace(spec, op=axis.resized(piece[1] - piece[0]))


def cut(spec: KernelSpec, backend: Backend, threads: int) -> tuple[Axis, list[Range]] | None:
    """How to compute an op without a weight by several threads; None if it is not worth it, or not possible."""
    rule = _AXES.get(type(spec.op)) if threads > 1 else None
    if rule is None:
        return None
    count = parts_worth(backend.kernels[spec.family].cost(spec, None, backend.profile), threads)
    axes = [axis for axis in rule(spec) if axis.extent > axis.unit]
    if count < 2 or not axes:
        return None
    fair = next((axis for axis in axes if _waste(axis, count) <= _WASTE), None)
    axis = fair or min(axes, key=lambda axis: _waste(axis, count))
    return axis, _even(axis.extent, axis.unit, count)


def cut_weighted(spec: KernelSpec, weight: Array, backend: Backend, threads: int) -> tuple[Axis, list[Range]] | None:
    """The same for an op with a constant weight, cut where the kernel's prices are equal."""
    rule = _WEIGHTED.get(type(spec.op)) if threads > 1 else None
    if rule is None:
        return None
    kernel, axis = backend.kernels[spec.family], rule(spec)
    whole = kernel.cost(spec, weight, backend.profile)
    count = parts_worth(whole, threads)

    def price(piece: Range) -> float:
        return kernel.cost(part(spec, axis, piece), slice_of(weight, axis, piece), backend.profile)

    choices = _choices(axis, weight, spec.pattern != "dense", count) if count > 1 else []
    known = [pieces for pieces in choices if _known(spec, axis, pieces, backend)]
    priced = [(max(map(price, pieces)), pieces) for pieces in known]
    best = min((dearest for dearest, _ in priced), default=None)
    if best is None or best > _GAIN * whole:
        return None
    close = [entry for entry in priced if entry[0] <= _CLOSE * best]
    return axis, min(close, key=lambda entry: (len(_sizes(entry[1])), entry))[1]


def outputs_of(op: Op) -> int | None:
    """How many parameters, from the last on, a kernel of this op writes; None if that is not known here."""
    return 1 if type(op) in _AXES or type(op) in _WEIGHTED else None


def slice_of(weight: Array, axis: Axis, piece: Range) -> Array:
    """The rows of a weight that a part needs."""
    return weight[piece[0] * axis.rows : piece[1] * axis.rows] if axis.rows else weight


def parts_worth(price: float, threads: int) -> int:
    """How many parts an op of this price makes."""
    return max(1, min(threads, int(price / SMALLEST_US)))


def _choices(axis: Axis, weight: Array, uneven: bool, count: int) -> list[list[Range]]:
    """Cuts to price: even ones, and those that give each part as many kept weights, at finer and coarser places."""
    units = [axis.unit << i for i in range(8) if axis.unit << i <= max(axis.unit, _COARSEST)]
    found = [_even(axis.extent, unit, count) for unit in units]
    if uneven and axis.rows:
        kept = np.count_nonzero(_held(weight).reshape(axis.extent, -1), axis=1).tolist()
        found += [_balanced(kept, unit, count) for unit in units]
    unique = {tuple(pieces): pieces for pieces in found if len(pieces) > 1}
    return list(unique.values())


def _held(weight: Array) -> Array:
    """What is not zero; of a weight in groups, which of them are kept."""
    held: Array = weight["kept"] if weight.dtype.names else weight
    return held


def _even(extent: int, unit: int, count: int) -> list[Range]:
    """Ranges of one length, the last shorter."""
    length = -(-extent // (unit * count)) * unit
    return [(start, min(start + length, extent)) for start in range(0, extent, length)]


def _balanced(work: Sequence[int], unit: int, count: int) -> list[Range]:
    """Ranges of about equal work, cut at multiples of `unit`; the last may be cut anywhere else."""
    before = [0, *accumulate(work)]
    places = [*range(0, len(work), unit), len(work)]
    goals = [before[-1] * i / count for i in range(1, count)]
    cuts = sorted({min(places, key=lambda place: (abs(before[place] - goal), place)) for goal in goals})
    return list(pairwise(dict.fromkeys([0, *cuts, len(work)])))


def _waste(axis: Axis, count: int) -> float:
    """The largest part over the mean."""
    start, stop = _even(axis.extent, axis.unit, count)[0]
    return (stop - start) * count / axis.extent


def _sizes(pieces: Iterable[Range]) -> set[int]:
    return {stop - start for start, stop in pieces}


def _known(spec: KernelSpec, axis: Axis, pieces: Iterable[Range], backend: Backend) -> bool:
    """Whether the kernel's family also computes the parts."""
    kernel = backend.kernels[spec.family]
    return all(
        any(True for _ in kernel.candidates(axis.resized(n), spec.pattern, backend.lanes)) for n in _sizes(pieces)
    )


def _size(dtype: str) -> int:
    return np.dtype(dtype).itemsize


def _convolution(spec: KernelSpec) -> Axis:
    """Filters; or groups with their channels."""
    op = spec.op
    assert isinstance(op, Convolution)
    positions, rows = prod(op.out_size), op.filters // op.groups
    if op.groups == 1:
        return _filters(op.epilogue, op.filters, positions, lambda n: replace(op, filters=n))
    channels = op.channels // op.groups
    source = channels * prod(op.size) * _size(op.dtype)
    steps = (source, *_operand_steps(op.epilogue, rows * positions, rows))

    def resized(count: int) -> Convolution:
        return replace(op, channels=count * channels, filters=count * rows, groups=count)

    return Axis(op.groups, resized, steps, 4, rows, private=True, reach=_words(op.dtype, op.epilogue, steps))


def _linear(spec: KernelSpec) -> Axis:
    """Outputs, where neighbouring ones are together in memory; else tokens."""
    op = spec.op
    assert isinstance(op, (Linear, GroupedLinear))
    if spec.output != PLAIN or op.positions == 1:
        return _filters(op.epilogue, op.outputs, op.positions, lambda n: replace(op, outputs=n))
    if op.positions <= _FEW and set(op.epilogue.operands) <= {"channel", "scalar"}:
        return _apart(op)
    dtype = op.dtype if isinstance(op, Linear) else "float32"
    steps = (op.inputs * _size(dtype), *_operand_steps(op.epilogue, op.outputs, 0))
    unit = spec.tile[2] if isinstance(op, GroupedLinear) and spec.tile else 1  # tokens that are summed alike
    return Axis(op.positions, lambda n: replace(op, positions=n), steps, unit, private=True)


def _apart(op: Linear | GroupedLinear) -> Axis:
    """Outputs of a few row-major tokens."""
    tokens, outputs = op.positions, op.outputs
    steps = (0, *_operand_steps(op.epilogue, 1, 1))

    def reach(count: int) -> Sequence[Range]:
        return [*((0, count * step) for step in steps[:-1]), (0, ((tokens - 1) * outputs + count) * steps[-1])]

    def copy(count: int) -> Elementwise:
        operand = Operand(op.epilogue.dtype, (count, 1))
        return Elementwise((tokens, count), (operand,), dtype=op.epilogue.dtype, out_strides=(outputs, 1))

    return Axis(outputs, lambda n: replace(op, outputs=n), steps, 4, rows=1, reach=reach, copy=copy)


def _filters(epilogue: Epilogue, filters: int, positions: int, resized: Callable[[int], Op]) -> Axis:
    steps = (0, *_operand_steps(epilogue, positions, 1))
    return Axis(filters, resized, steps, 4, rows=1, reach=_words("float32", epilogue, steps))


def _operand_steps(epilogue: Epilogue, elements: int, channels: int) -> list[int]:
    """Bytes that belong to so many elements of the output, and channels: of the epilogue's operands, and the output."""
    steps = {"channel": 4 * channels, "scalar": 0, "full": 4 * elements, "codes": elements}
    return [*(steps[kind] for kind in epilogue.operands), elements * _size(epilogue.dtype)]


def _words(dtype: str, epilogue: Epilogue, steps: Sequence[int]) -> Callable[[int], Sequence[Range]]:
    """Codes of channels come in words of four; the last word may have fewer."""
    whole = (dtype == "uint8", *(kind == "codes" for kind in epilogue.operands), epilogue.dtype == "uint8")
    return lambda n: [(0, (-(-n // 4) * 4 if w else n) * step) for w, step in zip(whole, steps, strict=True)]


def _pad(spec: KernelSpec) -> Iterator[Axis]:
    op = spec.op
    assert isinstance(op, Pad)
    yield Axis(op.channels, lambda n: replace(op, channels=n), (4 * prod(op.size), op.out_bytes // op.channels))


def _pool(spec: KernelSpec) -> Iterator[Axis]:
    op = spec.op
    assert isinstance(op, Pool)
    yield Axis(op.channels, lambda n: replace(op, channels=n), (4 * prod(op.size), 4 * prod(op.out_size)))


def _interpolate(spec: KernelSpec) -> Iterator[Axis]:
    op = spec.op
    assert isinstance(op, Interpolate)
    steps = (4 * prod(op.size), 0, 0, 0, 0, 4 * prod(op.out_size))
    yield Axis(op.channels, lambda n: replace(op, channels=n), steps)


def _softmax(spec: KernelSpec) -> Iterator[Axis]:
    op = spec.op
    assert isinstance(op, Softmax)
    yield Axis(op.rows, lambda n: replace(op, rows=n), (4 * op.columns, 4 * op.columns))


def _layer_norm(spec: KernelSpec) -> Iterator[Axis]:
    op = spec.op
    assert isinstance(op, LayerNorm)
    yield Axis(op.rows, lambda n: replace(op, rows=n), (4 * op.columns, 0, 0, 4 * op.columns))


def _reduce(spec: KernelSpec) -> Iterator[Axis]:
    op = spec.op
    assert isinstance(op, Reduce)
    yield Axis(op.outer, lambda n: replace(op, outer=n), (4 * op.axis * op.inner, 4 * op.inner))


def _batch_matmul(spec: KernelSpec) -> Iterator[Axis]:
    """Batches; rows of the first operand, where there is one batch."""
    op = spec.op
    assert isinstance(op, BatchMatMul)
    a, b = 4 * op.m * op.k, 4 * op.k * op.n
    steps = (a * (op.a_batches > 1), b * (op.b_batches > 1), *_operand_steps(op.epilogue, op.m * op.n, 0))

    def fewer(count: int) -> BatchMatMul:
        return replace(op, batches=count, a_batches=min(op.a_batches, count), b_batches=min(op.b_batches, count))

    if op.batches > 1:
        yield Axis(op.batches, fewer, steps)
        return
    steps = (4 * op.k, 0, *_operand_steps(op.epilogue, op.n, 0))
    yield Axis(op.m, lambda n: replace(op, m=n), steps, spec.tile[0] if spec.tile else 1)


def _elementwise(spec: KernelSpec) -> Iterator[Axis]:
    """Every axis, the outermost first."""
    op = spec.op
    assert isinstance(op, Elementwise)
    contiguous = tuple(prod(op.shape[i + 1 :]) for i in range(len(op.shape)))
    out = op.out_strides or contiguous
    arrays = [(o.dtype, o.strides, o.offset) for o in op.operands] + [(op.dtype, out, op.out_offset)]
    for axis, extent in enumerate(op.shape):
        steps = tuple(strides[axis] * _size(dtype) for dtype, strides, _ in arrays)
        resized = _shortened(op, axis, out)
        unit = _LINE if out[axis] == 1 else 1
        yield Axis(extent, resized, steps, unit, reach=partial(_spans, resized, arrays))


def _shortened(op: Elementwise, axis: int, out: tuple[int, ...]) -> Callable[[int], Elementwise]:
    def resized(count: int) -> Elementwise:
        shape = (*op.shape[:axis], count, *op.shape[axis + 1 :])
        return replace(op, shape=shape, out_strides=op.out_strides if axis == 0 else out)

    return resized


def _spans(
    resized: Callable[[int], Elementwise], arrays: Iterable[tuple[str, Sequence[int], int]], count: int
) -> list[Range]:
    """Bytes of each strided array from the first element touched to the last."""
    shape = resized(count).shape
    found = []
    for dtype, strides, offset in arrays:
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        found.append((offset * _size(dtype), (last + 1) * _size(dtype)))
    return found


_AXES: Mapping[type[Any], Callable[[KernelSpec], Iterator[Axis]]] = {
    Pad: _pad,
    Pool: _pool,
    Interpolate: _interpolate,
    Softmax: _softmax,
    LayerNorm: _layer_norm,
    Reduce: _reduce,
    BatchMatMul: _batch_matmul,
    Elementwise: _elementwise,
}
_WEIGHTED: Mapping[type[Any], Callable[[KernelSpec], Axis]] = {
    Convolution: _convolution,
    Linear: _linear,
    GroupedLinear: _linear,
}
