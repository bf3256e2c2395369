# SPDX-License-Identifier: Apache-2.0
"""Compile cases and compare: each passes, is refused with a reason, is wrong, or crashes or hangs.

Many programs share one library, because linking one each would take an hour. A batch runs in a process of its own;
behind a case that kills it or hangs it, a new one goes on. A library that cannot be built is halved until one case is
guilty.
"""

import ctypes
import multiprocessing
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.conformance.cases import Case

Arrays = list[NDArray[Any]]
Run = Callable[[Arrays], Arrays]
BATCH = 200
SILENCE = 300
"""Seconds without a word after which a process counts as hanging."""
PASSED, REFUSED, WRONG, CRASHED = "passed", "refused", "wrong", "crashed"
_BUILDING = ""


@dataclass(frozen=True)
class Verdict:
    """What came of a case; `detail` is the refusal's message, or what differs, or how it crashed."""

    name: str
    operators: tuple[str, ...]
    outcome: str
    detail: str = ""


def judge(cases: Sequence[Case], target: str, silence: float = SILENCE) -> Iterator[Verdict]:
    """Verdicts on cases, each batch in a process of its own.

    Args:
        cases: What to judge.
        target: What to compile for; it must run on this machine.
        silence: Seconds that a process may take for one step.
    """
    waiting = [list(cases[start : start + BATCH]) for start in range(0, len(cases), BATCH)]
    while waiting:
        batch = waiting.pop(0)
        judged, last = set(), _BUILDING
        for message in _messages(batch, target, silence):
            if isinstance(message, Verdict):
                judged.add(message.name)
                yield message
            else:
                last = message
        left = [case for case in batch if case.name not in judged]
        guilty = [case for case in left if case.name == last] or (left if len(left) == 1 else [])
        for case in guilty:
            yield Verdict(case.name, case.operators, CRASHED, "the process died or hung")
        rest = [case for case in left if case not in guilty]
        half = len(rest) if guilty else len(rest) // 2
        waiting[:0] = [part for part in (rest[:half], rest[half:]) if part]


def _messages(batch: Sequence[Case], target: str, silence: float) -> Iterator[Verdict | str]:
    """What a process says about a batch: verdicts, and between them the name of the case it turns to."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(batch, target, writer))
    process.start()
    writer.close()
    try:
        while reader.poll(silence):
            yield reader.recv()
    except EOFError:
        pass
    finally:
        process.kill()
        process.join()


def _work(batch: Sequence[Case], target: str, writer: Connection) -> None:
    for message in verdicts(batch, target):
        writer.send(message)


def verdicts(batch: Sequence[Case], target_text: str) -> Iterator[Verdict | str]:
    """Lower all, link those that lower into one library, run each; before each step, the name of its case."""
    from sparsec.backends.targets import backend
    from sparsec.compiler.errors import SparsecError
    from sparsec.compiler.target import Target

    target = Target.parse(target_text)
    programs = {}
    for number, case in enumerate(batch):
        yield case.name
        try:
            programs[case] = _lower(case, backend(target), f"case{number}")
        except SparsecError as error:
            yield Verdict(case.name, case.operators, REFUSED, str(error))
        except Exception as error:  # a bug of ours, to be listed, not to stop the run
            yield _crashed(case, error)
    yield _BUILDING
    with tempfile.TemporaryDirectory() as folder:
        runs = _runs(list(programs.values()), target, Path(folder))
        for (case, program), run in zip(programs.items(), runs, strict=True):
            yield case.name
            yield _judged(case, program, run)


def _judged(case: Case, program: Any, run: Run) -> Verdict:
    try:
        difference = compare(case, [port.name for port in program.inputs], run)
    except Exception as error:
        return _crashed(case, error)
    return Verdict(case.name, case.operators, WRONG if difference else PASSED, difference)


def _crashed(case: Case, error: Exception) -> Verdict:
    return Verdict(case.name, case.operators, CRASHED, f"{type(error).__name__}: {error}"[:300])


def _lower(case: Case, backend: Any, name: str) -> Any:
    from sparsec.compiler.driver import compress, job
    from sparsec.compiler.lowering.lower import lower

    asked = job(case.model, backend.name, shapes=case.shapes, name=name)
    return lower(compress(asked).model, backend, name)


def _runs(programs: list[Any], target: Any, folder: Path) -> Iterator[Run]:
    """A function that runs each program, from lists of arrays to lists of arrays: all in one library."""
    from sparsec.backends import entry, link, tir
    from sparsec.backends.isa import for_target
    from sparsec.backends.targets import functions

    if not programs:
        return
    isa = for_target(target)
    made: dict[str, Any] = {}
    for program in programs:
        made |= functions(program, isa)
    built = tir.build_object(made, isa) if made else None
    sizes = built.workspace_bytes if built else {}
    placed = [entry.with_workspaces(program, sizes) for program in programs]
    start = link.compile_c("\n".join(entry.source(program) for program in placed), isa)
    library = folder / "cases.so"
    objects = [start, *([built.object] if built else [])]
    link.shared_library(objects, isa, [f"{program.name}_run" for program in placed], library)
    for program in placed:
        yield _native(library, program)


def _native(library: Path, program: Any) -> Run:
    function = getattr(ctypes.CDLL(str(library)), f"{program.name}_run")
    weights, arena = _aligned(len(program.weights)), _aligned(program.arena_bytes)
    weights[: len(program.weights)] = np.frombuffer(program.weights, np.uint8)

    def run(inputs: Arrays) -> Arrays:
        outputs = [np.empty(port.shape, port.dtype) for port in program.outputs]
        pointers = [
            (ctypes.c_void_p * max(1, len(group)))(*(a.ctypes.data for a in group)) for group in (inputs, outputs)
        ]
        status = function(ctypes.c_void_p(weights.ctypes.data), ctypes.c_void_p(arena.ctypes.data), *pointers)
        assert status == 0, status
        return outputs

    return run


def _aligned(size: int) -> NDArray[np.uint8]:
    block = np.zeros(size + 128, np.uint8)
    return block[-block.ctypes.data % 64 :]


def compare(case: Case, names: Sequence[str], run: Run) -> str:
    """Empty if every set of data gives what is expected, else what differs.

    Args:
        case: The case.
        names: Inputs that `run` takes, in order.
        run: The compiled model.
    """
    ports = [port.name for port in case.model.graph.input]
    for inputs, expected in case.sets:
        given = dict(zip(ports, inputs, strict=False))
        outputs = run([np.ascontiguousarray(given[name]) for name in names])
        for number, (found, array) in enumerate(zip(outputs, expected, strict=True)):
            different = difference(found, array, case)
            if different:
                return f"output {number}: {different}"
    return ""


def difference(found: Any, expected: Any, case: Case) -> str:
    """Empty if an output is what is expected, within the case's tolerances."""
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return f"{found.dtype}{list(found.shape)} instead of {expected.dtype}{list(expected.shape)}"
    pair = [array.astype(np.float64) if _small_float(array) else array for array in (found, expected)]
    try:
        np.testing.assert_allclose(*pair, rtol=case.rtol, atol=case.atol)
    except AssertionError as error:
        return re.sub(r"\s+", " ", str(error))[:200]
    return ""


def _small_float(array: Any) -> bool:
    return array.dtype.name in ("float16", "bfloat16")


def shortened(verdict: Verdict) -> Verdict:
    """A verdict whose detail is one line."""
    return replace(verdict, detail=" ".join(verdict.detail.split()))
