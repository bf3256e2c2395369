# SPDX-License-Identifier: Apache-2.0
"""Each target as values: what lowering may know of it, how its kernels are compiled, how its artifact is written."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from sparsec.backends import fallback, tir
from sparsec.backends.build import Code, Kernels, Progress, compile_functions
from sparsec.backends.isa import Isa, for_target, priced_for, twins_of
from sparsec.backends.kernels.table import KERNELS
from sparsec.backends.profiles import built_in
from sparsec.compiler.lowering.kernel import Backend, Kernel
from sparsec.compiler.lowering.program import Program
from sparsec.compiler.machine_profile import MachineProfile, read
from sparsec.compiler.target import Target

BY_FAMILY: Mapping[str, Kernel] = {kernel.family: kernel for kernel in KERNELS}


def backend(target: Target, profile: MachineProfile | None = None) -> Backend:
    """What lowering may know of a target.

    Args:
        target: What to compile for.
        profile: To price kernels by; None for the built-in one.
    """
    isa = priced_for(target)
    profile = profile or built_in(isa.name)
    return Backend(
        name=str(target),
        lanes=isa.lanes("float32"),
        kernels=BY_FAMILY,
        profile=profile.costs,
        profile_name=profile.machine,
        twins=tuple(built_in(twin.name).costs for twin in twins_of(isa)),
        fallback=fallback.lower_node,
        operators=fallback.operators(),
    )


def profile_of(target: Target, path: Path | None = None) -> MachineProfile:
    """The profile to price a target's kernels by: the built-in one, or the one in a file.

    Raises:
        DataError: If the file is malformed, or for another instruction set.
    """
    known = built_in(priced_for(target).name)
    return known if path is None else read(path, known, target)


def functions(program: Program, isa: Isa) -> dict[str, Any]:
    """All TIR functions of a program by symbol."""
    own = {symbol: BY_FAMILY[spec.family].build(spec, isa) for symbol, spec in program.specs.items()}
    return own | dict(program.functions)


def compile_kernels(program: Program, isa: Isa, progress: Progress) -> Kernels:
    """Objects of all kernels of a program.

    Raises:
        ToolchainError: If the compiler fails.
    """
    return compile_functions(functions(program, isa), isa, progress)


def emit(program: Program, target: Target, folder: Path, progress: Progress) -> Code:
    """Write the code of an artifact into a folder.

    Raises:
        ToolchainError: If compiling or linking fails.
        TargetError: If the model does not fit the target.
    """
    module = import_module(f"sparsec.backends.{target.name}.emit")

    def compile_for(isa: Isa) -> Kernels:
        return compile_kernels(program, isa, progress)

    arguments = (program, compile_for, folder) if target.name == "wasm" else (program, target, compile_for, folder)
    code: Code = module.emit(*arguments)
    return code


def text(program: Program, target: Target, kind: str) -> str:
    """The program's kernels as ``tir``, ``llvm`` or ``asm``."""
    isa = for_target(target)
    made = functions(program, isa)
    if kind == "tir":
        return "\n".join(f"# {symbol}\n{function.script()}" for symbol, function in made.items())
    built = tir.build_object(made, isa)
    return built.llvm() if kind == "llvm" else built.asm()
