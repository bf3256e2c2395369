# SPDX-License-Identifier: Apache-2.0
"""Run a WebAssembly artifact under wasmtime."""

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import wasmtime
from numpy.typing import NDArray

from sparsec.compiler.errors import ArtifactError, ToolchainError
from sparsec.compiler.lowering.program import Port
from sparsec.compiler.manifest import WEIGHTS, Manifest

Array = NDArray[Any]
Kind = TypeVar("Kind")


class Runner:
    """An instance of `model.wasm`, or of another module of the artifact, with its weights in place."""

    def __init__(self, folder: Path, manifest: Manifest, module: str = "model.wasm") -> None:
        self._store = wasmtime.Store(wasmtime.Engine())
        self._outputs = manifest.outputs
        try:
            code = wasmtime.Module.from_file(self._store.engine, str(folder / module))
            exports = wasmtime.Instance(self._store, code, []).exports(self._store)
        except (wasmtime.WasmtimeError, wasmtime.Trap) as error:
            msg = f"Artifact '{folder}': wasmtime refuses '{module}': {error}. Verify the artifact; update wasmtime."
            raise ToolchainError(msg) from error
        self._globals = {name: item for name, item in exports.items() if isinstance(item, wasmtime.Global)}
        self._memory = _export(exports, "memory", wasmtime.Memory)
        self._run = _export(exports, "run", wasmtime.Func)
        self._write("weights", np.fromfile(folder / WEIGHTS, np.uint8))

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs in order, as new arrays."""
        for i, array in enumerate(inputs):
            self._write(f"input{i}", array)
        try:
            status = self._run(self._store)
        except (wasmtime.WasmtimeError, wasmtime.Trap) as error:
            msg = f"The module stopped: {error}. Verify the artifact."
            raise ArtifactError(msg) from error
        assert status == 0, status
        return [self._read(f"output{i}", port) for i, port in enumerate(self._outputs)]

    def close(self) -> None:
        """Give the memory back."""
        self._store.close()

    def _write(self, name: str, array: Array) -> None:
        ctypes.memmove(self._address(name, array.nbytes), array.ctypes.data, array.nbytes)

    def _read(self, name: str, port: Port) -> Array:
        array = np.empty(port.shape, port.dtype)
        ctypes.memmove(array.ctypes.data, self._address(name, port.nbytes), port.nbytes)
        return array

    def _address(self, name: str, size: int) -> int:
        """Where a block of the module's memory is, in this process; checked, as the module may be anyone's."""
        start = int(_export(self._globals, name, wasmtime.Global).value(self._store)) & 0xFFFFFFFF
        if start + size > self._memory.data_len(self._store):
            msg = f"The module's block '{name}' of {size} bytes lies outside its memory. Compile the artifact again."
            raise ArtifactError(msg)
        base = ctypes.cast(self._memory.data_ptr(self._store), ctypes.c_void_p).value
        return (base or 0) + start


def _export(exports: Mapping[str, object], name: str, kind: type[Kind]) -> Kind:
    item = exports.get(name)
    if not isinstance(item, kind):
        msg = f"The module exports no {kind.__name__.lower()} '{name}'. Compile the artifact again."
        raise ArtifactError(msg)
    return item


def open_runner(folder: Path, manifest: Manifest) -> Runner:
    """Load the relaxed SIMD module."""
    return Runner(folder, manifest)
