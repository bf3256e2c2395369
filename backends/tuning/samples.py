# SPDX-License-Identifier: Apache-2.0
"""The kernels that are timed to learn a machine's costs: every family that has a choice to make, on a few layers.

The kernels are asked what they offer, so that a new family is measured as soon as it has candidates.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from sparsec.backends.isa import Isa
from sparsec.backends.tuning.timing import Case
from sparsec.compiler.breakeven import Shape, full_weight, operation
from sparsec.compiler.lowering.expression import Builder
from sparsec.compiler.lowering.kernel import Array, Kernel, KernelSpec, Profile
from sparsec.compiler.lowering.ops import Convolution, Elementwise, GroupedLinear, Linear, Op, Operand, Pad
from sparsec.compiler.lowering.repricing import Thinning
from sparsec.compiler.pattern import parse_pattern

Kernels = Mapping[str, Kernel]
_SHAPES = tuple(
    Shape.parse(text)
    for text in (
        *("512x512x196", "128x128x784", "256x64x49", "32x24x3136", "32x32x196x3x3"),
        *("384x256x1", "512x1024x1"),
    )
)
_PATTERNS = (
    ("block(4x4)", 0.5),
    ("block(4x4)", 0.2),
    ("block(1x4)", 0.5),
    ("block(8x1)", 0.5),
    ("block(2x1)", 0.4),
    ("unstructured", 0.5),
    ("unstructured", 0.3),
)
_DENSE = ("dense", 1.0)
_MOST = 5
"""Specs of one op and pattern: the cheapest by the known prices, and two others."""
_SLACK = 4096
_STEPS = 16


@dataclass(frozen=True)
class Sample:
    """One kernel to time.

    Attributes:
        spec: The kernel.
        weight: Its constant; None without one.
        name: For people.
    """

    spec: KernelSpec
    weight: Array | None
    name: str


def samples(kernels: Kernels, lanes: int, profile: Profile) -> list[Sample]:
    """All kernels to time.

    Args:
        kernels: By family.
        lanes: float32 in a vector.
        profile: Known costs, by which the candidates worth measuring are found.
    """
    found = [_alone(kernels, op, lanes) for op in (_padded(), _chain())]
    for name, op, weight, patterns in _layers():
        for pattern, density in patterns:
            thinned = weight if density == 1 else Thinning(weight, parse_pattern(pattern)).at(density)
            specs = [spec for kernel in kernels.values() for spec in kernel.candidates(op, pattern, lanes)]
            chosen = _spread([spec for spec in specs if spec.pattern == pattern], kernels, thinned, profile)
            found += [Sample(spec, thinned, f"{name} {pattern} {density:g}") for spec in chosen]
    return found


def _layers() -> Iterator[tuple[str, Op, Array, Sequence[tuple[str, float]]]]:
    for precision in ("float32", "int8"):
        for shape in _SHAPES:
            patterns = [p for p in _PATTERNS if shape.kernel == (1, 1) or p[0] == "unstructured"]
            op, weight = operation(shape, precision), full_weight(shape, precision)
            yield f"{precision} {shape}", op, weight, [_DENSE, *patterns]
    for group in (16, 64):
        shape = Shape(1024, 512, 1)
        patterns = [_DENSE, (f"block(1x{group})", 0.5)]
        yield f"int4 {shape}", operation(shape, "int4", group), full_weight(shape, "int4"), patterns
    tokens = Shape(128, 128, 64)
    yield "tokens", Linear("float32", 64, 128, 128), full_weight(tokens, "float32").reshape(128, 128), [_DENSE]
    for dtype in ("float32", "uint8"):
        op = Convolution(dtype, 96, 96, (14, 14), (3, 3), pads=(1, 1, 1, 1), groups=96)
        weight = full_weight(Shape(96, 1, 196, (3, 3)), "int8" if dtype == "uint8" else "float32")
        yield f"depthwise {dtype}", op, weight, [_DENSE]


def _spread(specs: Sequence[KernelSpec], kernels: Kernels, weight: Array, profile: Profile) -> list[KernelSpec]:
    """The best, and some of the rest, evenly spread, by what is known."""
    ranked = sorted(specs, key=lambda spec: (kernels[spec.family].cost(spec, weight, profile), repr(spec)))
    best, rest = ranked[: _MOST - 2], ranked[_MOST - 2 :]
    return best + ([rest[len(rest) // 2], rest[-1]] if len(rest) > 1 else rest)


def _padded() -> Pad:
    return Pad("float32", 128, (56, 56), (1, 1), (0, 0), (1, 1), (56, 56))


def _chain() -> Elementwise:
    """Products and sums on data in the first-level cache."""
    b = Builder()
    value = b.arg(0)
    for step in range(_STEPS):
        value = b.call("mul" if step % 2 else "add", value, b.const(1.0 + step))
    return Elementwise((2048,), (Operand("float32", (1,)),), b.build(value))


def _alone(kernels: Kernels, op: Pad | Elementwise, lanes: int) -> Sample:
    spec = next(spec for kernel in kernels.values() for spec in kernel.candidates(op, "dense", lanes))
    return Sample(spec, None, type(op).__name__.lower())


def cases(kernels: Kernels, sample: Sample, isa: Isa) -> list[Case]:
    """The kernel, and the one before it that prepares its operand, as functions with data.

    Operands hold ones: the time of none of these kernels depends on what they read.
    """
    kernel = kernels[sample.spec.family]
    before = kernel.prepare(sample.spec)
    steps = ([(kernels[before.family], before, None)] if before else []) + [(kernel, sample.spec, sample.weight)]
    size = max(_elements(spec.op) for spec in (sample.spec, before or sample.spec))
    return [_case(part, spec, weight, size + _SLACK, isa) for part, spec, weight in steps]


def _case(kernel: Kernel, spec: KernelSpec, weight: Array | None, elements: int, isa: Isa) -> Case:
    function = kernel.build(spec, isa)
    packed = [] if weight is None else list(kernel.pack(spec, weight))
    inputs = len(spec.inputs)
    others = len(function.params) - inputs - len(packed)
    data: Any = np.ones(elements, np.float32)
    return Case(function, [data] * inputs + packed + [data] * others)


def _elements(op: Op) -> int:
    """At least as many 32-bit elements as any operand or the output has."""
    if isinstance(op, Convolution):
        return max(op.channels * prod(op.size), op.filters * prod(op.out_size))
    if isinstance(op, Linear | GroupedLinear):
        return op.positions * max(op.inputs, op.outputs)
    return op.out_elements if isinstance(op, Pad) else prod(op.shape) if isinstance(op, Elementwise) else 0
