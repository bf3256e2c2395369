# SPDX-License-Identifier: Apache-2.0
"""Compiling C and linking, through the compiler and linkers that the ``ziglang`` package carries.

Everything happens in temporary folders; a tool that is missing, fails or hangs is one `ToolchainError`.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from sparsec.backends.isa import Isa
from sparsec.backends.symbols import localize, undefined
from sparsec.compiler.errors import ToolchainError

TIMEOUT = 120.0
"""Seconds for one run of a tool; the first static executable of an architecture builds a C library first."""
_LINES = 8
_PARTS = ("memory", "fmod", "half")
_PROCESSORS = {"x86_64": "x86_64_v3", "aarch64": "generic", "wasm32": "generic+simd128+bulk_memory"}
_SYSTEMS = {"x86_64": "x86_64-linux-musl", "aarch64": "aarch64-linux-musl", "wasm32": "wasm32-freestanding"}
_FREESTANDING = (
    "-O2", "-ffreestanding", "-fno-builtin", "-fPIC", "-g0", "-fno-sanitize=all", "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
)  # fmt: skip

_WITHOUT_DEBUG = "SECTIONS { /DISCARD/ : { *(.debug*) *(.rela.debug*) *(.comment) } }\n"
"""A linker script: the linker's own switch leaves debug information in objects."""


def compile_c(source: str, isa: Isa, *, options: Sequence[str] = ()) -> bytes:
    """Compile C that needs no C library to an object file.

    Args:
        source: One translation unit.
        isa: Gives the architecture; the object runs on any processor of it that sparsec compiles for.
        options: More compiler options, such as ``-DNAME=value``.

    Raises:
        ToolchainError: If the compiler is missing or refuses the source.
    """
    machine = _machine(isa)
    with tempfile.TemporaryDirectory(prefix="sparsec-") as name:
        folder = Path(name)
        (folder / "source.c").write_text(source)
        how = ("cc", "-target", _SYSTEMS[machine], "-mcpu=" + _PROCESSORS[machine], *_FREESTANDING, *options)
        run_tool((*how, "-c", "source.c", "-o", "source.o"), folder)
        return (folder / "source.o").read_bytes()


def archive(objects: Mapping[str, bytes], path: Path) -> None:
    """Write a static library of objects by member name; the same objects give the same bytes.

    Raises:
        ToolchainError: If the archiver is missing or fails.
    """
    with tempfile.TemporaryDirectory(prefix="sparsec-") as name:
        folder = Path(name)
        members = _write(objects, folder)
        run_tool(("ar", "rcsD", "library.a", *members), folder)
        path.write_bytes((folder / "library.a").read_bytes())


def combine(objects: Sequence[bytes], isa: Isa, keep: Sequence[str]) -> bytes:
    """Link ELF objects to one that needs nothing and shows nothing but the names to keep.

    Args:
        objects: What `build_object` and `compile_c` gave.
        isa: An instruction set with ELF objects.
        keep: Names of functions that stay visible; code that they do not reach is dropped.

    Raises:
        ToolchainError: If a symbol stays undefined, or the linker is missing or fails.
    """
    roots = [f"--undefined={name}" for name in keep]
    linked = _link(("ld.lld", "-r", "--gc-sections", "--script=layout.ld", *roots), objects, isa, _WITHOUT_DEBUG)
    missing = undefined(linked)
    if missing:
        msg = f"Linking for '{isa.name}': nothing defines {', '.join(map(repr, missing))}. This is a fault of sparsec."
        raise ToolchainError(msg)
    return localize(linked, frozenset(keep))


def shared_library(objects: Sequence[bytes], isa: Isa, exports: Sequence[str], path: Path) -> None:
    """Write an ELF shared library that needs no other and exports only the given names.

    Raises:
        ToolchainError: If a symbol stays undefined, or the linker is missing or fails.
    """
    whole = combine(objects, isa, exports)
    options = ("ld.lld", "-shared", "--no-undefined", "--strip-debug", "--build-id=none", "-z", "noexecstack")
    path.write_bytes(_link((*options, f"-soname={path.name}"), [whole], isa))


def wasm_module(
    objects: Sequence[bytes],
    isa: Isa,
    exports: Sequence[str],
    *,
    stack_bytes: int = 1 << 16,
    max_memory: int | None = None,
) -> bytes:
    """Link a WebAssembly module without imports.

    Args:
        objects: What `build_object` and `compile_c` gave.
        isa: ``simd128`` or ``relaxed-simd``.
        exports: Functions to export; ``memory`` and ``__heap_base``, the first free address, are exported too.
        stack_bytes: Size of the stack, which comes first in memory so that overflowing it traps.
        max_memory: Bytes, a multiple of 65536, that the memory may grow to; None: the engine's limit.

    Raises:
        ToolchainError: If a symbol stays undefined, or the linker is missing or fails.
    """
    options = [
        "wasm-ld",
        "--no-entry",
        "--strip-all",
        "--gc-sections",
        "--stack-first",
        "-z",
        f"stack-size={stack_bytes}",
    ]
    options += [f"--export={name}" for name in (*exports, "__heap_base")]
    options += [f"--max-memory={max_memory}"] if max_memory is not None else []
    return _link(options, objects, isa)


def executable(sources: Sequence[Path], libraries: Sequence[Path], isa: Isa, path: Path) -> None:
    """Compile and link a static Linux program with a C library, to test what sparsec made.

    Args:
        sources: C files; headers are found beside them and beside the libraries.
        libraries: Static libraries or objects.
        isa: ``x86`` or ``arm`` instruction set.
        path: The program.

    Raises:
        ToolchainError: If a tool is missing or fails.
    """
    folders = sorted({str(file.resolve().parent) for file in (*sources, *libraries)})
    inputs = [str(file.resolve()) for file in (*sources, *libraries)]
    includes = [f"-I{folder}" for folder in folders]
    how = ("cc", "-target", _SYSTEMS[_machine(isa)], "-static", "-O1", "-g0", *includes, *inputs)
    with tempfile.TemporaryDirectory(prefix="sparsec-") as name:
        run_tool((*how, "-o", str(path.resolve())), Path(name), cache_folder=_user_cache(), timeout=10 * TIMEOUT)


def run_tool(
    arguments: Sequence[str], folder: Path, *, cache_folder: Path | None = None, timeout: float = TIMEOUT
) -> None:
    """Run a tool of ``ziglang`` in a folder.

    Args:
        arguments: The tool's name and its arguments.
        folder: Where it runs.
        cache_folder: Where it keeps what it builds for itself; by default inside `folder`.
        timeout: Seconds.

    Raises:
        ToolchainError: If ``ziglang`` is not installed, or the tool fails or hangs.
    """
    if importlib.util.find_spec("ziglang") is None:
        msg = "The package 'ziglang', which carries linker and C compiler, is missing. Run: pip install ziglang"
        raise ToolchainError(msg)
    kept = str(cache_folder or folder / "cache")
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": kept, "ZIG_LOCAL_CACHE_DIR": kept}
    command = [sys.executable, "-m", "ziglang", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"Tool '{arguments[0]}': {error}."
        raise ToolchainError(msg) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()[-_LINES:]
        msg = "\n".join([f"Tool '{arguments[0]}' failed with exit code {done.returncode}:", *lines])
        raise ToolchainError(msg)


def _link(options: Sequence[str], objects: Sequence[bytes], isa: Isa, script: str = "") -> bytes:
    """Run a linker on objects, with the support library at the end; `script` stands in the file layout.ld."""
    with tempfile.TemporaryDirectory(prefix="sparsec-") as name:
        folder = Path(name)
        inputs = _write({f"{i}.o": data for i, data in enumerate(objects)}, folder)
        (folder / "support.a").write_bytes(_support(isa))
        (folder / "layout.ld").write_text(script)
        run_tool((*options, *inputs, "support.a", "-o", "linked"), folder)
        return (folder / "linked").read_bytes()


@cache
def _support(isa: Isa) -> bytes:
    """The static library of what compilers take for granted."""
    source = files("sparsec.backends").joinpath("support.c.in").read_text()
    members = {f"{part}.o": compile_c(source, isa, options=(f"-DPART_{part}",)) for part in _PARTS}
    with tempfile.TemporaryDirectory(prefix="sparsec-") as name:
        archive(members, Path(name) / "support.a")
        return (Path(name) / "support.a").read_bytes()


def _write(objects: Mapping[str, bytes], folder: Path) -> list[str]:
    for name, data in objects.items():
        (folder / name).write_bytes(data)
    return list(objects)


def _machine(isa: Isa) -> str:
    return isa.triple.partition("-")[0]


def _user_cache() -> Path:
    """A folder that lasts, for the C libraries that static programs need."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "sparsec" / "zig"
