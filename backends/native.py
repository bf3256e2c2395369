# SPDX-License-Identifier: Apache-2.0
"""What the targets with a C interface share: their files, and running them in this process."""

import ctypes
import platform
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.backends import entry, isa, link, thread_entry
from sparsec.backends.build import Compile
from sparsec.backends.crew import Crew
from sparsec.compiler.artifact import Code
from sparsec.compiler.errors import ArtifactError, TargetError
from sparsec.compiler.lowering.program import ALIGNMENT, Program
from sparsec.compiler.manifest import WEIGHTS, Manifest
from sparsec.compiler.target import Target, cores, host

Array = NDArray[Any]
HEADER, ARCHIVE, LIBRARY = "model.h", "libmodel.a", "libmodel.so"

_SECTION = struct.Struct("<IIQQQQ")
_ALLOCATED = 2
_REMEDY = "Verify the artifact."


def emit(program: Program, target: Target, compile_kernels: Compile, folder: Path) -> Code:
    """Write `model.h`, `libmodel.a` and `libmodel.so` into `folder`.

    The archive holds one object in which all symbols but those of the interface are local, so that models can be
    linked together, and with anything else.

    Args:
        program: The lowered model.
        target: One whose objects are ELF.
        compile_kernels: Makes the objects of all kernels for one instruction set.
        folder: Exists.

    Raises:
        ToolchainError: If compiling or linking fails.
    """
    chosen = isa.for_target(target)
    kernels = compile_kernels(chosen)
    program = entry.with_workspaces(program, kernels.workspace_bytes)
    text = entry.source(program) + thread_entry.source(program)
    start = link.compile_c(text, chosen, options=thread_entry.options(chosen))
    public = (f"{program.name}_run", f"{program.name}_arena_bytes", *thread_entry.functions(program))
    whole = link.combine([start, *kernels.objects], chosen, public)
    (folder / HEADER).write_text(entry.header(program, thread_entry.declarations(program)), "ascii")
    link.archive({"model.o": whole}, folder / ARCHIVE)
    link.shared_library([whole], chosen, public, folder / LIBRARY)
    return Code(loaded_bytes(whole), program.arena_bytes)


def loaded_bytes(data: bytes) -> int:
    """Bytes that an ELF64 object adds to a program's memory: code and constants, no symbols, no relocations."""
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    headers = (_SECTION.unpack_from(data, start + i * size) for i in range(count))
    return sum(length for _, _, flags, _, _, length in headers if flags & _ALLOCATED)


class Runner:
    """`libmodel.so` in this process, its weights mapped from the file, and one arena.

    An artifact for several threads is run by as many, unless this process may use fewer cores: then by one, with the
    same result.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        require_host(manifest.target)
        self._outputs = manifest.outputs
        self._weights = _mapped(folder / WEIGHTS)
        library = _library(folder / LIBRARY)
        self._run = _function(library, f"{manifest.name}_run", ctypes.c_int, 4)
        arena_bytes = _function(library, f"{manifest.name}_arena_bytes", ctypes.c_size_t, 0)
        self._arena = aligned(arena_bytes())
        self._crew = _crew(library, manifest)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs in order, as new arrays."""
        outputs: list[Array] = [np.empty(port.shape, port.dtype) for port in self._outputs]
        blocks = (self._weights.ctypes.data, self._arena.ctypes.data, _pointers(inputs), _pointers(outputs))
        status = self._crew.run(*blocks) if self._crew else self._run(*blocks)
        assert status == 0, status
        return outputs

    def close(self) -> None:
        """Give the memory and threads back; the code stays mapped until the process ends."""
        if self._crew:
            self._crew.dismiss()
        self._weights = self._arena = np.empty(0, np.uint8)


def require_host(target: Target) -> None:
    """Refuse to run code that this machine's processor does not understand.

    Raises:
        TargetError: Naming what is missing.
    """
    if platform.system() != "Linux":
        msg = f"Target '{target}': its library is for Linux, this machine runs '{platform.system()}'."
        raise TargetError(msg)
    here = host()
    missing = sorted(set(target.features) - set(here.features))
    if here.name != target.name or missing:
        found = f"this machine is '{here}'"
        lacks = f", which lacks {', '.join(missing)}" if here.name == target.name else ""
        msg = f"Target '{target}': {found}{lacks}. Run the artifact on such a machine, or compile for 'host'."
        raise TargetError(msg)


def aligned(size: int) -> Array:
    """Bytes at an address that is a multiple of ALIGNMENT."""
    block = np.zeros(size + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + size]


def _mapped(path: Path) -> Array:
    return np.memmap(path, np.uint8, mode="r") if path.stat().st_size else aligned(0)


def _library(path: Path) -> ctypes.CDLL:
    """Load a private copy: the dynamic loader would hand out a library again that has been replaced on disk."""
    with tempfile.TemporaryDirectory(prefix="sparsec-") as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        try:
            return ctypes.CDLL(str(copy))
        except OSError as error:
            msg = f"Artifact '{path.parent}': cannot load '{path.name}': {error}. {_REMEDY}"
            raise ArtifactError(msg) from error


def _crew(library: ctypes.CDLL, manifest: Manifest) -> Crew | None:
    if manifest.threads == 1:
        return None
    made_for = _function(library, f"{manifest.name}_threads", ctypes.c_int, 0)()
    if made_for != manifest.threads:
        msg = f"The artifact's library is made for {made_for} threads, its manifest says {manifest.threads}. {_REMEDY}"
        raise ArtifactError(msg)
    if manifest.threads > cores():
        return None
    function = _function(library, f"{manifest.name}_run_thread", ctypes.c_int, 5)
    function.argtypes = [*[ctypes.c_void_p] * 5, ctypes.c_int]  # type: ignore[attr-defined]
    return Crew(function, manifest.threads, aligned(thread_entry.SYNC_BYTES))


def _function(library: ctypes.CDLL, name: str, result: type[Any], pointers: int) -> Callable[..., int]:
    try:
        function = getattr(library, name)
    except AttributeError as error:
        msg = f"The artifact's library has no function '{name}'. {_REMEDY}"
        raise ArtifactError(msg) from error
    function.restype, function.argtypes = result, [ctypes.c_void_p] * pointers
    return function  # type: ignore[no-any-return]


def _pointers(arrays: Sequence[Array]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * max(1, len(arrays)))(*(array.ctypes.data for array in arrays))
