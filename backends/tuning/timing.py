# SPDX-License-Identifier: Apache-2.0
"""Times single kernels on this machine: natively through ctypes, WebAssembly in Node."""

import ctypes
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.isa import ISAS
from sparsec.backends.link import shared_library, wasm_module
from sparsec.backends.tir import Object, build_object

Array = NDArray[Any]
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Case:
    """A TIR function and the arrays for its parameters, outputs included, in order."""

    function: Any
    arrays: Sequence[Array]


def best_us(cases: Sequence[Case], isa_name: str, milliseconds: float = 150.0) -> list[float]:
    """Microseconds of the fastest call of each function, tried for so many milliseconds each.

    Raises:
        subprocess.CalledProcessError: If Node fails.
    """
    isa = ISAS[isa_name]
    names = [f"kernel_{i}" for i in range(len(cases))]
    code = build_object({name: case.function for name, case in zip(names, cases, strict=True)}, isa)
    calls = [[*case.arrays, *_workspace(code, name)] for name, case in zip(names, cases, strict=True)]
    with tempfile.TemporaryDirectory(prefix="sparsec-") as folder:
        if isa.wasm:
            (Path(folder) / "kernels.wasm").write_bytes(wasm_module([code.object], isa, names))
            return _in_node(names, calls, Path(folder), milliseconds)
        shared_library([code.object], isa, names, Path(folder) / "kernels.so")
        library = ctypes.CDLL(str(Path(folder) / "kernels.so"))
        return [_native(library[n], arrays, milliseconds) for n, arrays in zip(names, calls, strict=True)]


def _workspace(code: Object, name: str) -> list[Array]:
    size = code.workspace_bytes[name]
    return [np.zeros(size, np.uint8)] if size else []


def _native(function: Any, arrays: Sequence[Array], milliseconds: float) -> float:
    copies = [_aligned(array) for array in arrays]
    pointers = [ctypes.c_void_p(copy.ctypes.data) for copy in copies]
    best, end = float("inf"), time.perf_counter() + milliseconds / 1e3
    while time.perf_counter() < end:
        start = time.perf_counter()
        function(*pointers)
        best = min(best, time.perf_counter() - start)
    return 1e6 * best


def _aligned(array: Array) -> Array:
    space = np.zeros(array.nbytes + 64, np.uint8)
    copy = space[-space.ctypes.data % 64 :][: array.nbytes]
    copy[:] = np.frombuffer(array.tobytes(), np.uint8)
    return copy


def _in_node(names: Sequence[str], calls: Sequence[Sequence[Array]], folder: Path, milliseconds: float) -> list[float]:
    block = bytearray()
    places: list[list[int]] = []
    for arrays in calls:
        places.append([])
        for array in arrays:
            block += bytes(-len(block) % 64)
            places[-1].append(len(block))
            block += array.tobytes()
    (folder / "data.bin").write_bytes(block)
    entries = [{"name": name, "places": starts} for name, starts in zip(names, places, strict=True)]
    config = {"folder": str(folder), "milliseconds": milliseconds, "calls": entries}
    command = ["node", *relaxed_flag(), str(HERE / "timing.mjs"), json.dumps(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(value) for value in json.loads(done.stdout)]


def relaxed_flag() -> list[str]:
    """Node 20 knows relaxed SIMD only behind a flag; later versions do not know the flag."""
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return ["--experimental-wasm-relaxed-simd"] if version.startswith("v20.") else []
