# SPDX-License-Identifier: Apache-2.0
"""Compile cases and compare: each passes, is refused with a reason, or is wrong. A crash is caught from outside.

Many programs share one library, because linking one each would take an hour. A process handles a range of cases and
prints one line of JSON a case; the parent starts it again behind a case that killed it.
"""

import argparse
import ctypes
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.conformance.cases import Case, cases

Run = Callable[[list[Any]], list[Any]]
BATCH = 200
PASSED, REFUSED, WRONG, CRASHED = "passed", "refused", "wrong", "crashed"


@dataclass(frozen=True)
class Verdict:
    """What came of a case; `detail` is the refusal's message or what differs."""

    name: str
    operators: tuple[str, ...]
    outcome: str
    detail: str = ""


def judge(names: Sequence[str], target: str) -> list[Verdict]:
    """Verdicts on cases, each batch in a process of its own."""
    waiting, verdicts = list(names), []
    while waiting:
        batch = waiting[:BATCH]
        done, running = _process(batch, target)
        verdicts += done
        judged = {verdict.name for verdict in done}
        left = [name for name in batch if name not in judged]
        if left:
            guilty = running if running in left else left[0]
            verdicts.append(Verdict(guilty, _find(guilty).operators, CRASHED, "the process died"))
            left.remove(guilty)
        waiting = left + waiting[BATCH:]
    return verdicts


def _process(batch: Sequence[str], target: str) -> tuple[list[Verdict], str]:
    command = [sys.executable, "-m", "tests.conformance.judge", "--target", target, *batch]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=1800).stdout.splitlines()
    messages = [json.loads(line) for line in lines if line.startswith("{")]
    running = next((m["running"] for m in reversed(messages) if "running" in m), "")
    return [
        Verdict(m["name"], tuple(m["operators"]), m["outcome"], m["detail"]) for m in messages if "outcome" in m
    ], running


def _find(name: str) -> Case:
    return next(case for case in cases() if case.name == name)


def verdicts(batch: Sequence[Case], target_text: str) -> Iterator[Verdict]:
    """Lower all, link those that lower into one library, run each."""
    from sparsec.backends.targets import backend
    from sparsec.compiler.errors import SparsecError
    from sparsec.compiler.target import Target

    target = Target.parse(target_text)
    programs = {}
    for number, case in enumerate(batch):
        _say(running=case.name)
        try:
            programs[case] = _lower(case, backend(target), f"case{number}")
        except SparsecError as error:
            yield Verdict(case.name, case.operators, REFUSED, str(error))
        except Exception as error:  # a bug of ours, to be listed, not to stop the run
            yield Verdict(case.name, case.operators, CRASHED, f"{type(error).__name__}: {error}"[:300])
    with tempfile.TemporaryDirectory() as folder:
        for case, verdict in _run_all(programs, target, Path(folder)):
            yield Verdict(case.name, case.operators, WRONG if verdict else PASSED, verdict)


def _lower(case: Case, backend: Any, name: str) -> Any:
    from sparsec.compiler.driver import compress, job
    from sparsec.compiler.lowering.lower import lower

    inputs = case.sets[0][0] if case.sets else []
    ports = [port.name for port in case.model.graph.input]
    shapes = {port: array.shape for port, array in zip(ports, inputs, strict=False) if array is not None}
    asked = job(case.model, backend.name, shapes=shapes, name=name)
    return lower(compress(asked).model, backend, name)


def _run_all(programs: dict[Case, Any], target: Any, folder: Path) -> Iterator[tuple[Case, str]]:
    for (case, program), run in zip(programs.items(), _runs(list(programs.values()), target, folder), strict=True):
        _say(running=case.name)
        yield case, _compare(case, program, run)


def _runs(programs: list[Any], target: Any, folder: Path) -> Iterator[Run]:
    """A function that runs each program, from lists of arrays to lists of arrays: all in one library."""
    from sparsec.backends import entry, link, tir
    from sparsec.backends.isa import for_target
    from sparsec.backends.targets import functions

    isa = for_target(target)
    made: dict[str, Any] = {}
    for program in programs:
        made |= functions(program, isa)
    built = tir.build_object(made, isa) if made else None
    sizes = built.workspace_bytes if built else {}
    placed = [entry.with_workspaces(program, sizes) for program in programs]
    starts = [link.compile_c("\n".join(entry.source(program) for program in placed), isa)] if placed else []
    exports = [f"{p.name}_run" for p in placed]
    objects = [*starts, *([built.object] if built else [])]
    library = folder / "cases.so"
    if placed:
        link.shared_library(objects, isa, exports, library)
    for program in placed:
        yield _native(library, program)


def _native(library: Path, program: Any) -> Run:
    function = getattr(ctypes.CDLL(str(library)), f"{program.name}_run")
    weights, arena = _aligned(len(program.weights)), _aligned(program.arena_bytes)
    weights[: len(program.weights)] = np.frombuffer(program.weights, np.uint8)

    def run(inputs: list[Any]) -> list[Any]:
        outputs = [np.empty(port.shape, port.dtype) for port in program.outputs]
        pointers = [
            (ctypes.c_void_p * max(1, len(group)))(*(a.ctypes.data for a in group)) for group in (inputs, outputs)
        ]
        status = function(ctypes.c_void_p(weights.ctypes.data), ctypes.c_void_p(arena.ctypes.data), *pointers)
        assert status == 0, status
        return outputs

    return run


def _aligned(size: int) -> Any:
    block = np.zeros(size + 64, np.uint8)
    return block[-block.ctypes.data % 64 :]


def _compare(case: Case, program: Any, run: Any) -> str:
    """Empty if every set of data gives what is expected."""
    ports = [port.name for port in case.model.graph.input]
    for inputs, expected in case.sets:
        given = dict(zip(ports, inputs, strict=False))
        arrays = [np.ascontiguousarray(given[port.name]) for port in program.inputs]
        outputs = run(arrays)
        for port, found, array in zip(program.outputs, outputs, expected, strict=True):
            difference = _difference(found, array, case)
            if difference:
                return f"output '{port.name}': {difference}"
    return ""


def _difference(found: Any, expected: Any, case: Case) -> str:
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return f"{found.dtype}{list(found.shape)} instead of {expected.dtype}{list(expected.shape)}"
    try:
        np.testing.assert_allclose(found, expected, rtol=case.rtol, atol=case.atol)
    except AssertionError as error:
        return re.sub(r"\s+", " ", str(error))[:200]
    return ""


def _say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    """Judge the named cases and print verdicts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", required=True)
    parser.add_argument("names", nargs="+")
    arguments = parser.parse_args()
    for verdict in verdicts([_find(name) for name in arguments.names], arguments.target):
        _say(**asdict(verdict))


if __name__ == "__main__":
    main()
