# SPDX-License-Identifier: Apache-2.0
"""Times kernels in turn within one process, so that whatever disturbs the machine disturbs all of them alike.

V8 would run a kernel that it has not yet optimized for a while; here its optimizing compiler comes first.
"""

import ctypes
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.isa import ISAS
from sparsec.backends.link import shared_library, wasm_module
from sparsec.backends.tir import build_object
from sparsec.backends.tuning.timing import relaxed_flag

Array = NDArray[Any]
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Contender:
    """A TIR function and the arrays for its parameters, outputs included, in order."""

    function: Any
    arrays: Sequence[Array]


@dataclass(frozen=True)
class Timing:
    """Microseconds of one contender: the median of its calls, and the fastest."""

    median: float
    least: float


def alternate(contenders: Sequence[Contender], isa_name: str, milliseconds: float = 300.0) -> list[Timing]:
    """Call each contender once a round, round after round, for so many milliseconds altogether.

    Raises:
        subprocess.CalledProcessError: If Node fails.
    """
    isa = ISAS[isa_name]
    names = [f"kernel_{i}" for i in range(len(contenders))]
    code = build_object({name: c.function for name, c in zip(names, contenders, strict=True)}, isa)
    calls = [[*c.arrays, *_workspace(code.workspace_bytes[n])] for n, c in zip(names, contenders, strict=True)]
    with tempfile.TemporaryDirectory(prefix="sparsec-") as folder:
        if isa.wasm:
            (Path(folder) / "kernels.wasm").write_bytes(wasm_module([code.object], isa, names))
            times = _in_node(names, calls, Path(folder), milliseconds)
        else:
            shared_library([code.object], isa, names, Path(folder) / "kernels.so")
            library = ctypes.CDLL(str(Path(folder) / "kernels.so"))
            times = _native([library[name] for name in names], calls, milliseconds)
    return [Timing(median(each), min(each)) for each in times]


def _workspace(size: int) -> list[Array]:
    return [np.zeros(size, np.uint8)] if size else []


def _native(functions: Sequence[Any], calls: Sequence[Sequence[Array]], milliseconds: float) -> list[list[float]]:
    copies = {id(array): _aligned(array) for arrays in calls for array in arrays}
    pointers = [[ctypes.c_void_p(copies[id(array)].ctypes.data) for array in arrays] for arrays in calls]
    pairs = list(zip(functions, pointers, strict=True))
    for function, arguments in pairs * 3:
        function(*arguments)
    times: list[list[float]] = [[] for _ in pairs]
    end = time.perf_counter() + milliseconds / 1e3
    while time.perf_counter() < end:
        for i, (function, arguments) in enumerate(pairs):
            start = time.perf_counter()
            function(*arguments)
            times[i].append(1e6 * (time.perf_counter() - start))
    return times


def _aligned(array: Array) -> Array:
    space = np.zeros(array.nbytes + 64, np.uint8)
    copy = space[-space.ctypes.data % 64 :][: array.nbytes]
    copy[:] = np.frombuffer(array.tobytes(), np.uint8)
    return copy


def _in_node(
    names: Sequence[str], calls: Sequence[Sequence[Array]], folder: Path, milliseconds: float
) -> list[list[float]]:
    block, places = bytearray(), dict[int, int]()
    for array in (array for arrays in calls for array in arrays):
        if id(array) not in places:
            block += bytes(-len(block) % 64)
            places[id(array)] = len(block)
            block += array.tobytes()
    (folder / "data.bin").write_bytes(block)
    entries = [{"name": n, "places": [places[id(a)] for a in arrays]} for n, arrays in zip(names, calls, strict=True)]
    config = {"folder": str(folder), "milliseconds": milliseconds, "calls": entries}
    command = ["node", *relaxed_flag(), "--no-liftoff", str(HERE / "alternating.mjs"), json.dumps(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [[float(value) for value in each] for each in json.loads(done.stdout)]
