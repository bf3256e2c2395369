# SPDX-License-Identifier: Apache-2.0
"""Our own sparse kernels against our own dense one of the same layer and precision: ``python -m benchmarks.kernels``.

For each 1x1 convolution [filters, channels, positions], pattern and density: the kernel that selection would take, the
dense one, and the ratio of their medians, all called in turn in one process. They read one operand and write one
output, which lie in the second-level cache as far as they fit, as they do within a network. The share is what is left
of the ideal: ratio x density. Wrapped up in the times is all that a layer does: float32 sums are stored as they are,
int8 sums are scaled, rounded and clamped. Natively on this machine, and as WebAssembly in Node. Beside the ratio stands
the one that the built-in profile predicts: where that is less than 1.05, selection leaves the layer dense.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.alternating import Contender, alternate
from benchmarks.timing import missing
from sparsec.backends.isa import for_target
from sparsec.backends.kernels.plan import Plan, layouts
from sparsec.backends.targets import BY_FAMILY, backend
from sparsec.compiler.lowering.expression import Builder
from sparsec.compiler.lowering.kernel import Array, Backend, KernelSpec
from sparsec.compiler.lowering.ops import Convolution, Epilogue
from sparsec.compiler.lowering.repricing import MARGIN, Priced, priced
from sparsec.compiler.lowering.select import shortest
from sparsec.compiler.pattern import parse_pattern
from sparsec.compiler.target import Target

SHAPES = {
    "256,256,784": (256, 256, (28, 28)),
    "512,512,196": (512, 512, (14, 14)),
    "128,128,3136": (128, 128, (56, 56)),
    "512,512,49": (512, 512, (7, 7)),
}
PATTERNS = {
    "float32": ("block(4x1)", "block(2x1)", "block(8x1)", "unstructured", "nm(2:4)"),
    "uint8": (
        *("block(4x4)", "block(2x4)", "block(8x4)", "block(1x4)"),
        *("block(4x1)", "block(8x1)", "block(2x1)", "unstructured", "nm(2:4)"),
    ),
}
DENSITIES = (0.7, 0.5, 0.3)
TARGETS = ("wasm+relaxed-simd", "host")
SECONDS = 4.0
_WORTH = 1.1


@dataclass(frozen=True)
class Case:
    """One kernel of the table; dense ones have no pattern."""

    pattern: str
    density: float
    spec: KernelSpec
    price: float
    contender: Contender


@dataclass(frozen=True)
class Data:
    """What all kernels of a layer read and write.

    Attributes:
        operand: Random codes, or ones.
        rest: Operands of the epilogue, and the output.
    """

    operand: NDArray[Any]
    rest: Sequence[NDArray[Any]]

    @classmethod
    def of(cls, op: Convolution) -> "Data":
        """Arrays of the sizes that kernels of a 1x1 convolution want."""
        plan = Plan.of(KernelSpec("convolution", op, "dense", (4, 1, 1, 4), layouts(op)[:1], layouts(op)[1]))
        codes = np.random.default_rng(1).integers(0, 128, 4 * plan.operand_elements, np.uint8)
        operand = codes if op.dtype == "uint8" else np.ones(plan.operand_elements, np.float32)
        return cls(operand, [np.ones(size, dtype) for dtype, size in plan.tail_parameters])


def tables() -> Iterator[str]:
    """Markdown, one table a target, and what this machine lacks for the others."""
    for target in TARGETS:
        lacking = missing() if target.startswith("wasm") else None
        yield f"Left out: {target}: {lacking}.\n" if lacking else _whole(target)


def _whole(target: str) -> str:
    return "\n".join(table(target, tuple(SHAPES), tuple(PATTERNS))) + "\n"


def table(
    target: str, shapes: Sequence[str], dtypes: Sequence[str], seconds: float = SECONDS, statistic: str = "median"
) -> Iterator[str]:
    """Lines of a Markdown table; `statistic` is ``median``, or ``least`` where other work disturbs the machine."""
    yield f"| {target}: layer | precision | pattern | density | kernel | tile | µs | ratio | predicted | share |"
    yield "| --- | --- | --- | ---: | --- | --- | ---: | ---: | ---: | ---: |"
    place, found = backend(Target.parse(target)), list[tuple[float, float]]()
    for shape, dtype in product(shapes, dtypes):
        cases = list(_cases(place, _op(shape, dtype)))
        times = alternate([case.contender for case in cases], for_target(Target.parse(target)).name, 1e3 * seconds)
        each = [getattr(time, statistic) for time in times]
        for case, time in zip(cases, each, strict=True):
            ratio, predicted = each[0] / time, cases[0].price / case.price
            found.append((ratio, predicted))
            name = "int8" if dtype == "uint8" else dtype
            tile = "x".join(map(str, case.spec.tile))
            yield (
                f"| {shape} | {name} | {case.pattern} | {case.density} | {case.spec.family} | {tile} "
                f"| {time:.1f} | {ratio:.2f}x | {predicted:.2f}x | {100 * ratio * case.density:.0f} % |"
            )
    yield _verdict(found)


def _verdict(found: Sequence[tuple[float, float]]) -> str:
    """How often prices decide wrongly, from pairs of measured and predicted ratios; those of 1 are dense kernels."""
    taken = [ratio for ratio, predicted in found if MARGIN * predicted >= 1]
    left = [ratio for ratio, predicted in found if predicted != 1 > MARGIN * predicted]
    slower, missed = sum(ratio < 1 for ratio in taken), sum(ratio > _WORTH for ratio in left)
    return (
        f"\n{len(taken)} sparse kernels would be taken, {slower} of them slower than the dense one. "
        f"{len(left)} would be left out, {missed} of them more than {_WORTH:.2f}x as fast."
    )


def _cases(place: Backend, op: Convolution) -> Iterator[Case]:
    """The dense kernel first."""
    data = Data.of(op)
    yield _case(place, op, data, "dense", 1.0)
    for pattern, density in product(PATTERNS[op.dtype], DENSITIES):
        if pattern != "nm(2:4)" or density == 0.5:
            yield _case(place, op, data, pattern, density)


def _case(place: Backend, op: Convolution, data: Data, pattern: str, density: float) -> Case:
    weight = _weight(op, pattern, density)
    price, spec = _cheapest(place, op, weight, pattern)
    kernel = BY_FAMILY[spec.family]
    function = kernel.build(spec, for_target(Target.parse(place.name)))
    arrays = [data.operand, *kernel.pack(spec, weight), *data.rest]
    return Case(pattern, density, spec, price, Contender(function, arrays))


def _cheapest(place: Backend, op: Convolution, weight: Array, pattern: str) -> Priced:
    """What selection would take for this pattern, even if the dense kernel were cheaper."""
    return shortest([pair for pair in priced(place, op, weight, pattern) if pair[1].pattern == pattern])


def _weight(op: Convolution, pattern: str, density: float) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.5, 1.0, (op.filters, op.channels))
    kept = scores * parse_pattern(pattern).project(scores, density)
    weight = np.round(127 * kept).astype(np.int8) if op.dtype == "uint8" else kept.astype(np.float32)
    return weight.reshape(op.filters, op.channels, 1, 1)


def _op(shape: str, dtype: str) -> Convolution:
    filters, channels, size = SHAPES[shape]
    epilogue = _requantize() if dtype == "uint8" else Epilogue()
    return Convolution(dtype, channels, filters, size, epilogue=epilogue)


def _requantize() -> Epilogue:
    """Scale and shift by channel, round, clamp to 0..127."""
    b = Builder()
    value = b.call("add", b.call("mul", b.arg(0), b.arg(1)), b.arg(2))
    clamped = b.call("min", b.call("max", value, b.const(0)), b.const(127))
    return Epilogue(b.build(b.call("round", clamped)), ("channel", "channel"), "uint8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print one table a target."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--shape", action="append", choices=tuple(SHAPES))
    parser.add_argument("--dtype", action="append", choices=tuple(PATTERNS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for one shape and precision")
    parser.add_argument("--statistic", default="median", choices=("median", "least"), help="of each kernel's calls")
    options = parser.parse_args(arguments)
    for target in options.target or TARGETS:
        shapes, dtypes = options.shape or tuple(SHAPES), options.dtype or tuple(PATTERNS)
        for line in table(target, shapes, dtypes, options.seconds, options.statistic):
            print(line, flush=True)
        print()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
