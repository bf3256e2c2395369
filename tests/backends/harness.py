# SPDX-License-Identifier: Apache-2.0
"""Runs compiled functions on arrays for any instruction set: in this process, under wasmtime, or under qemu-aarch64.

Arrays lie in one block of memory, each aligned to its element and no better, with marked bytes around it that must
be there afterwards. Build many specs at once: one object, one link, one process.
"""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsec.backends.isa import ISAS, Isa
from sparsec.backends.link import executable, shared_library, wasm_module
from sparsec.backends.tir import Object, build_object
from sparsec.compiler.target import host

Array = NDArray[Any]
Script = Mapping[str, Sequence[int]]
GUARD, MARK, MOST = 192, 0xA5, 12

_DRIVER = """
#include <stdio.h>
#include <stdlib.h>
%(externs)s
typedef void (*function)(%(types)s);
static function functions[] = {%(names)s};
int main(int count, char **args) {
  long size = atol(args[3]), calls = atol(args[4]);
  char *block = aligned_alloc(64, size);
  long *list = malloc(calls * 8 * %(width)d);
  FILE *data = fopen(args[1], "rb"), *script = fopen(args[2], "rb");
  if (fread(block, 1, size, data) != size || fread(list, 8 * %(width)d, calls, script) != calls) return 1;
  for (long *call = list; call < list + calls * %(width)d; call += %(width)d) functions[call[0]](%(values)s);
  fclose(data);
  data = fopen(args[1], "wb");
  if (fwrite(block, 1, size, data) != size) return 1;
  return fclose(data);
}
"""


@dataclass(frozen=True, slots=True)
class Block:
    """Arrays in one block: its bytes, and each array's place by identity."""

    data: Array
    places: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Case:
    """A TIR function and the arrays for its parameters, outputs included, in order."""

    function: Any
    arrays: Sequence[Array]


def run(cases: Sequence[Case], isa_name: str) -> list[list[Array]]:
    """Build and call the functions in order, and give back each case's arrays as they are in the end.

    The same array object passed twice is one piece of memory. Skips the test if the machine cannot run the code.
    """
    isa = ISAS[isa_name]
    runner = _runner(isa)
    names = [f"kernel_{i}" for i in range(len(cases))]
    code = build_object({name: case.function for name, case in zip(names, cases, strict=True)}, isa)
    calls = [[*case.arrays, *_workspace(code, name)] for name, case in zip(names, cases, strict=True)]
    block = _place([array for arrays in calls for array in arrays])
    script = [[block.places[id(array)] for array in arrays] for arrays in calls]
    with tempfile.TemporaryDirectory(prefix="sparsec-") as folder:
        after = runner(code, isa, block.data, dict(zip(names, script, strict=True)), Path(folder))
    _check_marks(block, after, calls)
    return [[_read(after, block.places[id(a)], a) for a in case.arrays] for case in cases]


def relative_error(found: Array, expected: Array) -> float:
    """Norm of the difference over norm; infinity where one is NaN and the other not."""
    found, expected = (np.asarray(a, np.float64).ravel() for a in (found, expected))
    if not np.array_equal(np.isnan(found), np.isnan(expected)):
        return float("inf")
    same = np.isnan(expected) | (found == expected)
    difference = np.where(same, 0, found - np.where(same, found, expected))
    return float(np.linalg.norm(difference) / max(np.linalg.norm(np.where(np.isfinite(expected), expected, 0)), 1e-30))


def _workspace(code: Object, name: str) -> list[Array]:
    size = code.workspace_bytes[name]
    return [np.zeros(size, "V64" if size % 64 == 0 else np.uint8)[: max(size // 64, 1)]] if size else []


def _place(arrays: Sequence[Array]) -> Block:
    """Alignment is the element's: each array starts one element after a multiple of 64."""
    places: dict[int, int] = {}
    end = GUARD
    for array in arrays:
        if id(array) not in places:
            places[id(array)] = -(-end // 64) * 64 + array.itemsize
            end = places[id(array)] + array.nbytes + GUARD
    data = np.full(-(-end // 64) * 64, MARK, np.uint8)
    for array in arrays:
        data[places[id(array)] :][: array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
    return Block(data, places)


def _read(data: Array, place: int, like: Array) -> Array:
    return data[place : place + like.nbytes].copy().view(like.dtype).reshape(like.shape)


def _check_marks(block: Block, after: Array, calls: Sequence[Sequence[Array]]) -> None:
    free = np.ones(len(after), bool)
    for arrays in calls:
        for array in arrays:
            free[block.places[id(array)] :][: array.nbytes] = False
    broken = np.flatnonzero(free & (after != MARK))
    assert not broken.size, f"bytes written outside of all arrays, at {broken[:8]} of {block.places}"


def _runner(isa: Isa) -> Any:
    if isa.wasm:
        return _run_wasm
    if isa.triple.startswith("aarch64"):
        if shutil.which("qemu-aarch64") is None:
            pytest.skip("qemu-aarch64 is not installed (Debian: qemu-user)")
        return _run_qemu
    if isa.name == "avx512vnni" and "avx512vnni" not in host().features:
        pytest.skip("this processor has no AVX-512 VNNI")
    return _run_native


def _run_native(code: Object, isa: Isa, data: Array, script: Script, folder: Path) -> Array:
    path = folder / "kernels.so"
    shared_library([code.object], isa, list(script), path)
    library = ctypes.CDLL(str(path))
    space = np.zeros(len(data) + 64, np.uint8)
    block = space[-space.ctypes.data % 64 :][: len(data)]
    block[:] = data
    for name, places in script.items():
        getattr(library, name)(*(ctypes.c_void_p(block.ctypes.data + place) for place in places))
    return block.copy()


def _run_wasm(code: Object, isa: Isa, data: Array, script: Script, _folder: Path) -> Array:
    import wasmtime

    module = wasm_module([code.object], isa, list(script))
    store = wasmtime.Store()
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, module), []).exports(store)
    memory, base = exports["memory"], -(-exports["__heap_base"].value(store) // 64) * 64
    memory.grow(store, -(-(base + len(data)) // 65536))
    memory.write(store, data.tobytes(), base)
    for name, places in script.items():
        exports[name](store, *(base + place for place in places))
    return np.frombuffer(memory.read(store, base, base + len(data)), np.uint8).copy()


def _run_qemu(code: Object, isa: Isa, data: Array, script: Script, folder: Path) -> Array:
    (folder / "kernels.o").write_bytes(code.object)
    (folder / "driver.c").write_text(_driver(list(script)))
    executable([folder / "driver.c"], [folder / "kernels.o"], isa, folder / "program")
    rows = [[i, *places, *[0] * (MOST - len(places))] for i, places in enumerate(script.values())]
    (folder / "block").write_bytes(data.tobytes())
    (folder / "script").write_bytes(np.array(rows, np.int64).tobytes())
    arguments = [_qemu(), "./program", "block", "script", str(len(data)), str(len(rows))]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr.decode())
    return np.fromfile(folder / "block", np.uint8)


@cache
def _qemu() -> str:
    return str(shutil.which("qemu-aarch64"))


def _driver(names: Sequence[str]) -> str:
    parts = {
        "externs": "\n".join(f"extern void {name}();" for name in names),
        "types": ", ".join(["void *"] * MOST),
        "names": ", ".join(f"(function){name}" for name in names),
        "values": ", ".join(f"block + call[{i + 1}]" for i in range(MOST)),
        "width": MOST + 1,
    }
    return _DRIVER % parts
