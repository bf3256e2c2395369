# SPDX-License-Identifier: Apache-2.0
"""Predicted against measured time of each layer of EfficientNet-Lite0: ``python -m benchmarks.prices [TARGET]...``.

The kernels of the compiled model are timed alone, each with its own packed weights, so a layer's measured time is the
sum of its calls: preparation of the operand and kernel. ``--profile FILE`` prices by another profile (of the one target
that is named then), ``--layers`` prints every layer. Let nothing else run beside it.
"""

import argparse
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from math import exp, log
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sparsec.backends.isa import Isa, for_target
from sparsec.backends.targets import BY_FAMILY
from sparsec.backends.tuning.timing import Case, best_us
from sparsec.compiler import driver
from sparsec.compiler.errors import TargetError
from sparsec.compiler.lowering.program import Call, LayerChoice, Program, Ref
from sparsec.compiler.target import Target
from sparsec.models.catalog import find

VARIANTS: dict[str, tuple[str, ...]] = {
    "float32": (),
    "int8": ("quantize",),
    "sparse int8, 4x4 at 0.5": ("prune-blocks{rows=4 cols=4 density=0.5 ignore=[classifier]}", "quantize"),
}
TARGETS = ("host", "wasm+relaxed-simd")
_TOGETHER = 8
_MILLISECONDS, _ROUNDS = 60.0, 3


def measured(program: Program, isa: Isa) -> dict[str, float]:
    """Microseconds by layer, those of changes of layout under the name their calls have."""
    calls = [call for call in program.calls if call.symbol in program.specs]
    found: dict[str, float] = defaultdict(float)
    for start in range(0, len(calls), _TOGETHER):
        group = calls[start : start + _TOGETHER]
        times = best_us([_case(program, call, isa) for call in group], isa.name, _MILLISECONDS, _ROUNDS)
        for call, time in zip(group, times, strict=True):
            found[call.layer] += time
    return found


def _case(program: Program, call: Call, isa: Isa) -> Case:
    spec = program.specs[call.symbol]
    function = BY_FAMILY[spec.family].build(spec, isa)
    ends = sorted({ref.offset for other in program.calls for ref in other.args if ref.space == "weights"})
    return Case(function, [_array(program, ref, ends) for ref in call.args[: len(function.params)]])


def _array(program: Program, ref: Ref, starts: Sequence[int]) -> Any:
    """A constant's bytes; for data, ones as far as the arena or the port goes."""
    if ref.space == "weights":
        following = bisect_right(starts, ref.offset)
        end = starts[following] if following < len(starts) else len(program.weights)
        return np.frombuffer(program.weights[ref.offset : end], np.uint8)
    ports = {"input": program.inputs, "output": program.outputs}
    nbytes = program.arena_bytes if ref.space == "arena" else ports[ref.space][ref.index].nbytes
    return np.ones(-(-(nbytes - ref.offset) // 4) + 16, np.float32)


def table(target: Target, profile: Path | None, variant: str, *, whole: bool) -> str:
    """Predicted and measured microseconds of the layers, and how far apart they are."""
    entry = find("efficientnet-lite0")
    calibration = entry.inputs("calibration", 8) if VARIANTS[variant] else None
    job = driver.job(entry.build(), target, None, calibration, passes=VARIANTS[variant], profile=profile)
    program = driver.lower(driver.compress(job), job)
    times = measured(program, for_target(target))
    layers = [layer for layer in program.layers if layer.name in times and layer.price > 0]
    lines = [f"{target}, {variant}"]
    if whole:
        lines += ["  predicted  measured   ratio  layer"]
        lines += [_line(layer, times[layer.name]) for layer in layers]
    weighted = [layer for layer in layers if layer.rival_price is not None]
    for title, some in (("layers with weights", weighted), ("all layers", layers)):
        lines.append(_summary(title, some, times))
    moved = sum(time for name, time in times.items() if name not in {layer.name for layer in program.layers})
    return "\n".join([*lines, f"  changes of layout measured: {moved:.0f} us"])


def _line(layer: LayerChoice, time: float) -> str:
    return f"  {layer.price:9.1f} {time:9.1f} {layer.price / time:7.2f}  {layer.name} {layer.op} {layer.kernel}"


def _summary(title: str, layers: Sequence[LayerChoice], times: dict[str, float]) -> str:
    """The ratio of a whole profile may be off without harm; what is left beside it decides selection wrongly."""
    logs = [log(layer.price / times[layer.name]) for layer in layers]
    middle = median(logs)
    apart = exp(median(abs(value - middle) for value in logs)) - 1
    predicted, found = sum(layer.price for layer in layers), sum(times[layer.name] for layer in layers)
    return (
        f"  {title}: {predicted:.0f} us predicted, {found:.0f} us measured; "
        f"median ratio {exp(middle):.2f}, half of them within {apart:.0%} of it"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prices", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", type=_target, help="such as host or wasm")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="of the one target that is named")
    parser.add_argument("--layers", action="store_true", help="print every layer")
    options = parser.parse_args(arguments)
    for target, variant in product(options.targets or map(Target.parse, TARGETS), VARIANTS):
        print(table(target, options.profile, variant, whole=options.layers), flush=True)


def _target(text: str) -> Target:
    try:
        return Target.parse(text)
    except TargetError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    main()
