# SPDX-License-Identifier: Apache-2.0
"""What `sparsec bench` times: artifacts, and onnxruntime on a model; on the same inputs, with as many threads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from sparsec.compiler.artifact import Artifact
from sparsec.compiler.errors import DataError, ModelError, SparsecError, TargetError
from sparsec.compiler.importers.reading import read_proto
from sparsec.compiler.target import Target, cores, host

Arrays = Mapping[str, NDArray[Any]]
Reporter = Callable[[str, int, int], None]

WARM_UP = 3
"""Runs before the first that counts."""
_LEAST_SECONDS = 0.002
"""A shorter run is repeated and its time divided, as clocks are not that fine."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that computes the model.

    Attributes:
        name: For the table.
        run: Computes all outputs once.
    """

    name: str
    run: Callable[[], object]


def from_artifact(name: str, artifact: Artifact, inputs: Arrays) -> Contender:
    """An artifact on the given inputs.

    Raises:
        TargetError: If this machine could only emulate it, or has too few cores: such times mean nothing.
        DataError: If it takes other inputs.
    """
    _require_native(artifact.manifest.target)
    _require_cores(name, artifact.manifest.threads)
    found = {port.name: (port.dtype, port.shape) for port in artifact.manifest.inputs}
    given = {key: (array.dtype.name, array.shape) for key, array in inputs.items()}
    if found != given:
        msg = f"Artifact '{name}': its inputs differ from those it is timed against. Time artifacts of one model."
        raise DataError(msg)
    return Contender(name, lambda: artifact.run(inputs))


def from_model(name: str, path: Path, inputs: Arrays, threads: int = 1) -> Contender:
    """The model's file in onnxruntime with all its graph optimizations.

    Raises:
        ModelError: If it refuses the model or the inputs.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    data = read_proto(path).SerializeToString()
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        session.run(None, dict(inputs))
    except Exception as error:  # onnxruntime has many classes of its own, all derived from this alone
        msg = f"Model '{path}': onnxruntime refuses it: {' '.join(str(error).split())[:300]}"
        raise ModelError(msg) from error
    return Contender(name, lambda: session.run(None, dict(inputs)))


def race(contenders: Sequence[Contender], runs: int, report: Reporter) -> list[float]:
    """Median milliseconds of each; their runs take turns, so that a busy moment of the machine hits all alike."""
    repeats = [_repeats(contender) for contender in contenders]
    times: list[list[float]] = [[] for _ in contenders]
    for number in range(runs):
        report("bench", number, runs)
        for contender, repeat, found in zip(contenders, repeats, times, strict=True):
            found.append(1000 * _seconds(contender, repeat))
    return [median(found) for found in times]


def _repeats(contender: Contender) -> int:
    """How often one timed run computes; warms up on the way."""
    seconds = min(_seconds(contender, 1) for _ in range(WARM_UP))
    return max(1, round(_LEAST_SECONDS / max(seconds, 1e-9)))


def _seconds(contender: Contender, repeat: int) -> float:
    start = perf_counter()
    for _ in range(repeat):
        contender.run()
    return (perf_counter() - start) / repeat


def _require_cores(name: str, threads: int) -> None:
    if threads > cores():
        msg = (
            f"Artifact '{name}': it is compiled for {threads} threads, and this process may use {cores()} of the "
            "machine's cores. Run the benchmark where there are as many."
        )
        raise TargetError(msg)


def _require_native(target: Target) -> None:
    if target.name == "wasm":
        return
    try:
        here: Target | None = host()
    except SparsecError:
        here = None
    if here is None or here.name != target.name or not set(target.features) <= set(here.features):
        found = f"this machine is '{here}'" if here else "this machine is none"
        msg = (
            f"Target '{target}': {found}, and times under emulation mean nothing. Run the benchmark on such a machine."
        )
        raise TargetError(msg)
