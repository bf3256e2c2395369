# SPDX-License-Identifier: Apache-2.0
"""Measure this machine: time the samples, fit the costs, tell how far prices were and are from times."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from sparsec.backends.isa import Isa
from sparsec.backends.tuning.fit import fit, ranking_loss, typical_error
from sparsec.backends.tuning.samples import Sample, cases, samples
from sparsec.backends.tuning.timing import best_us, engine
from sparsec.compiler.errors import TargetError
from sparsec.compiler.lowering.kernel import Kernel, Profile
from sparsec.compiler.machine_profile import FROM_FILE, MachineProfile, Tuned, cpu_name
from sparsec.compiler.target import Target, host

Progress = Callable[[str, int, int], None]
_TOGETHER = 6
_ROUNDS = 4
MILLISECONDS = 100.0
"""For each kernel."""


def tune(
    kernels: Mapping[str, Kernel],
    isa: Isa,
    known: MachineProfile,
    progress: Progress,
    milliseconds: float = MILLISECONDS,
) -> Tuned:
    """Measure the machine at hand for one instruction set.

    Args:
        kernels: By family.
        isa: That this machine, or its WebAssembly engine, runs.
        known: To start from.
        progress: Told of each group of kernels.
        milliseconds: To time each kernel for.

    Raises:
        ToolchainError: If a kernel cannot be compiled, or the engine fails.
    """
    chosen = samples(kernels, isa.lanes("float32"), known.costs)
    times = _times(kernels, chosen, isa, progress, milliseconds)
    prices = [_price(kernels[sample.spec.family], sample) for sample in chosen]
    progress("fitting costs", len(chosen), len(chosen))
    costs = fit(prices, times, known.costs)
    groups: dict[str, list[int]] = {}
    for number, sample in enumerate(chosen):
        groups.setdefault(sample.name, []).append(number)
    runs = engine(isa)
    machine = f"{cpu_name().split(', ')[0]}, one core" + (f", {runs}" if runs else "")
    new = replace(known, cpu=cpu_name(), machine=machine, costs=costs, source=FROM_FILE)
    both = (known.costs, costs)
    return Tuned(
        known,
        new,
        len(chosen),
        runs,
        (typical_error(prices, times, both[0]), typical_error(prices, times, both[1])),
        (ranking_loss(groups, prices, times, both[0]), ranking_loss(groups, prices, times, both[1])),
    )


def require_runnable(target: Target) -> None:
    """Refuse to measure a machine that this one is not.

    Raises:
        TargetError: Naming both.
    """
    if target.name == "wasm":
        return
    here = host()
    if here.name != target.name or set(target.features) - set(here.features):
        msg = f"Target '{target}' can only be measured on such a machine, this one is '{here}'. Run the command there."
        raise TargetError(msg)


def _times(
    kernels: Mapping[str, Kernel], chosen: list[Sample], isa: Isa, progress: Progress, milliseconds: float
) -> list[float]:
    found: list[float] = []
    for start in range(0, len(chosen), _TOGETHER):
        group = chosen[start : start + _TOGETHER]
        progress(f"timing {isa.name} kernels", start, len(chosen))
        parts = [cases(kernels, sample, isa) for sample in group]
        times = iter(best_us([case for part in parts for case in part], isa.name, milliseconds, _ROUNDS))
        found += [sum(next(times) for _ in part) for part in parts]
    return found


def _price(kernel: Kernel, sample: Sample) -> Callable[[Profile], float]:
    return lambda costs: kernel.cost(sample.spec, sample.weight, costs)
