# SPDX-License-Identifier: Apache-2.0
"""All kernels of a program for one instruction set, as object files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sparsec.backends.isa import Isa
from sparsec.compiler.artifact import Code

__all__ = ["Code", "Compile", "Kernels"]


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
