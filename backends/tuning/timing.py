# SPDX-License-Identifier: Apache-2.0
"""Times single kernels on this machine: natively through ctypes, WebAssembly in Node, or in wasmtime without it."""

import ctypes
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.isa import ISAS, Isa
from sparsec.backends.link import shared_library, wasm_module
from sparsec.backends.tir import Object, build_object
from sparsec.compiler.errors import ToolchainError

Array = NDArray[Any]
HERE = Path(__file__).resolve().parent
_ALIGNMENT = 64
_IDLE = '(module (func (export "idle")))'
"""A WebAssembly module whose function does nothing: what a call costs."""


@dataclass(frozen=True)
class Case:
    """A TIR function and the arrays for its parameters, outputs included, in order."""

    function: Any
    arrays: Sequence[Array]


def best_us(cases: Sequence[Case], isa_name: str, milliseconds: float = 150.0, rounds: int = 1) -> list[float]:
    """Microseconds of the fastest call of each function, tried for so many milliseconds each.

    Args:
        cases: The functions.
        isa_name: Key of `ISAS`; one that this machine, or its WebAssembly engine, can run.
        milliseconds: For each function, over all rounds.
        rounds: How often all functions take turns.

    Raises:
        ToolchainError: If Node fails, or wasmtime.
    """
    isa = ISAS[isa_name]
    names = [f"kernel_{i}" for i in range(len(cases))]
    code = build_object({name: case.function for name, case in zip(names, cases, strict=True)}, isa)
    calls = [[*case.arrays, *_workspace(code, name)] for name, case in zip(names, cases, strict=True)]
    with tempfile.TemporaryDirectory(prefix="sparsec-") as folder:
        time_all = _in_node if isa.wasm and has_node() else _in_wasmtime if isa.wasm else _native
        return time_all(code, isa, names, calls, Path(folder), (milliseconds / rounds, rounds))


def engine(isa: Isa) -> str:
    """What runs the kernels: ``V8 in Node v20.20.2``, ``wasmtime 44.0.0``; empty for native code."""
    if not isa.wasm:
        return ""
    if has_node():
        return f"V8 in Node {_node_version()}"
    return f"wasmtime {version('wasmtime')}"


def has_node() -> bool:
    """Whether Node is installed."""
    return shutil.which("node") is not None


def relaxed_flag() -> list[str]:
    """Flags of Node for modules with relaxed SIMD.

    Version 20 knows it only behind a flag, and its baseline compiler gets the dot product wrong (see wasm/probe.wat),
    so that is left out. Later versions do not know the flag, and do not need it.
    """
    return ["--experimental-wasm-relaxed-simd", "--no-liftoff"] if _node_version().startswith("v20.") else []


def _node_version() -> str:
    return subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def _workspace(code: Object, name: str) -> list[Array]:
    size = code.workspace_bytes[name]
    return [np.zeros(size, np.uint8)] if size else []


Turns = tuple[float, int]
"""Milliseconds of a function's turn, and how many turns it has."""


def _native(
    code: Object, isa: Isa, names: Sequence[str], calls: Sequence[Sequence[Array]], folder: Path, turns: Turns
) -> list[float]:
    shared_library([code.object], isa, names, folder / "kernels.so")
    library = ctypes.CDLL(str(folder / "kernels.so"))
    copies = [[_aligned(array) for array in arrays] for arrays in calls]
    pointers = [[ctypes.c_void_p(copy.ctypes.data) for copy in arrays] for arrays in copies]
    functions = [_bound(library[name], arguments) for name, arguments in zip(names, pointers, strict=True)]
    return _take_turns(functions, turns)


def _bound(function: Any, arguments: Sequence[Any]) -> Callable[[], Any]:
    return lambda: function(*arguments)


def _take_turns(functions: Sequence[Callable[[], Any]], turns: Turns) -> list[float]:
    best = [float("inf")] * len(functions)
    for _ in range(turns[1]):
        for number, function in enumerate(functions):
            end = time.perf_counter() + turns[0] / 1e3
            while time.perf_counter() < end:
                start = time.perf_counter()
                function()
                best[number] = min(best[number], time.perf_counter() - start)
    return [1e6 * seconds for seconds in best]


def _aligned(array: Array) -> Array:
    space = np.zeros(array.nbytes + _ALIGNMENT, np.uint8)
    copy = space[-space.ctypes.data % _ALIGNMENT :][: array.nbytes]
    copy[:] = np.frombuffer(array.tobytes(), np.uint8)
    return copy


def _block(calls: Sequence[Sequence[Array]]) -> tuple[bytes, list[list[int]]]:
    """All arrays in one block of memory, and where each starts."""
    block = bytearray()
    places: list[list[int]] = []
    for arrays in calls:
        places.append([])
        for array in arrays:
            block += bytes(-len(block) % _ALIGNMENT)
            places[-1].append(len(block))
            block += array.tobytes()
    return bytes(block), places


def _in_node(
    code: Object, isa: Isa, names: Sequence[str], calls: Sequence[Sequence[Array]], folder: Path, turns: Turns
) -> list[float]:
    block, places = _block(calls)
    (folder / "kernels.wasm").write_bytes(wasm_module([code.object], isa, names))
    (folder / "data.bin").write_bytes(block)
    entries = [{"name": name, "places": starts} for name, starts in zip(names, places, strict=True)]
    config = {"folder": str(folder), "milliseconds": turns[0], "rounds": turns[1], "calls": entries}
    command = ["node", *relaxed_flag(), str(HERE / "timing.mjs"), json.dumps(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        msg = f"Node failed to time kernels: {done.stderr.strip()[-400:]}. Update Node to version 20 or later."
        raise ToolchainError(msg)
    return [float(value) for value in json.loads(done.stdout)]


def _in_wasmtime(
    code: Object, isa: Isa, names: Sequence[str], calls: Sequence[Sequence[Array]], folder: Path, turns: Turns
) -> list[float]:
    """The time of a call that does nothing is taken off: entering the engine from Python takes microseconds."""
    import wasmtime

    block, places = _block(calls)
    store = wasmtime.Store()
    module = wasmtime.Module(store.engine, wasm_module([code.object], isa, names))
    exports = wasmtime.Instance(store, module, []).exports(store)
    memory: Any = exports["memory"]
    heap: Any = exports["__heap_base"]
    base = -(-heap.value(store) // _ALIGNMENT) * _ALIGNMENT
    memory.grow(store, -(-(base + len(block)) // 65536))
    memory.write(store, block, base)
    empty = wasmtime.Instance(store, wasmtime.Module(store.engine, _IDLE), []).exports(store)["idle"]
    functions = [
        _bound(exports[name], (store, *(base + place for place in starts)))
        for name, starts in zip(names, places, strict=True)
    ]
    *times, idle = _take_turns([*functions, _bound(empty, (store,))], turns)
    return [max(value - idle, 0.01) for value in times]
