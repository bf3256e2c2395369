# SPDX-License-Identifier: Apache-2.0
"""Each target as values: what lowering may know of it, how its kernels are compiled, how its artifact is written."""

import json
from collections.abc import Mapping
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from sparsec.backends import fallback, tir
from sparsec.backends.build import Code, Kernels, Progress, compile_functions
from sparsec.backends.isa import Isa, for_target
from sparsec.backends.kernels.table import KERNELS
from sparsec.compiler.lowering.kernel import Backend, Kernel
from sparsec.compiler.lowering.program import Program
from sparsec.compiler.target import Target

BY_FAMILY: Mapping[str, Kernel] = {kernel.family: kernel for kernel in KERNELS}


def backend(target: Target) -> Backend:
    """What lowering may know of a target.

    Raises:
        TargetError: If there is no back end for it.
    """
    isa = for_target(target)
    profile = json.loads(files("sparsec.backends.profiles").joinpath(f"{isa.name}.json").read_text("utf-8"))
    return Backend(
        name=str(target),
        lanes=isa.lanes("float32"),
        kernels=BY_FAMILY,
        profile=profile["costs"],
        profile_name=profile["machine"],
        fallback=fallback.lower_node,
        operators=fallback.operators(),
    )


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
