# SPDX-License-Identifier: Apache-2.0
"""All kernels of a program for one instruction set, as object files, compiled by a few threads."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from sparsec.backends.isa import Isa
from sparsec.compiler.artifact import Code

__all__ = ["Code", "Compile", "Kernels", "Progress", "compile_functions"]

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""

_GROUP = 6
"""Functions that are compiled together; fixed, as it decides the order of code in the artifact."""
_MOST_THREADS = 4


@dataclass(frozen=True, slots=True)
class Kernels:
    """Compiled functions.

    Attributes:
        objects: ELF or WebAssembly object files.
        workspace_bytes: Bytes of scratch memory that a function takes through one more pointer at its end, by
            symbol; 0 or missing: no such pointer.
    """

    objects: tuple[bytes, ...]
    workspace_bytes: Mapping[str, int]


Compile = Callable[[Isa], Kernels]
"""Makes the objects of all kernels of a program."""


def compile_functions(functions: Mapping[str, Any], isa: Isa, progress: Progress) -> Kernels:
    """Compile TIR functions in small groups, several at once: LLVM works outside Python's lock.

    The same functions give the same bytes on any machine, however many threads it has.

    Args:
        functions: TIR functions by C name.
        isa: What to compile for.
        progress: Called from this thread after each group.

    Raises:
        ToolchainError: If a function cannot be compiled.
    """
    from sparsec.backends import tir

    symbols = sorted(functions)
    groups = [symbols[i : i + _GROUP] for i in range(0, len(symbols), _GROUP)]
    pool = ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1))
    try:
        futures = [pool.submit(tir.build_object, {s: functions[s] for s in group}, isa) for group in groups]
        _report(futures, len(symbols), f"kernels for {isa.name}", progress)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after a failure or Ctrl-C, wait for no group that still runs
    built = [future.result() for future in futures]
    sizes = {symbol: size for part in built for symbol, size in part.workspace_bytes.items()}
    return Kernels(tuple(part.object for part in built), sizes)


def _report(futures: list["Future[Any]"], total: int, what: str, progress: Progress) -> None:
    progress(what, 0, total)
    for done, future in enumerate(as_completed(futures), 1):
        future.result()
        progress(what, min(total, done * _GROUP), total)
