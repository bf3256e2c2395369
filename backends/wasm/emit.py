# SPDX-License-Identifier: Apache-2.0
"""WebAssembly: two modules of one program, with and without relaxed SIMD, and their JavaScript loader.

A module owns all the memory it needs, of a fixed size: weights, arena, inputs and outputs are zero pages of it whose
addresses are exported. It imports nothing. The host fills `weights` once, then for each run fills the inputs, calls
`run`, and reads the outputs.
"""

from collections.abc import Sequence
from pathlib import Path

from sparsec.backends import entry, link
from sparsec.backends.build import Compile
from sparsec.backends.isa import ISAS, Isa
from sparsec.backends.wasm import loader
from sparsec.compiler.artifact import Code
from sparsec.compiler.errors import TargetError
from sparsec.compiler.lowering.program import ALIGNMENT, Port, Program

MODULES = {"model.wasm": "relaxed-simd", "model.simd128.wasm": "simd128"}
"""File and instruction set of each module; the first is the fast one."""
TYPES = ("model.d.mts", "model.d.ts")
"""TypeScript looks for the first beside `model.mjs`, and for the second where a bundler renames that to `model.js`."""
FUNCTIONS = ("run", "arena_bytes")

_LARGEST_MEMORY = (2 << 30) - (64 << 20)
_PAGE = 1 << 16
_SLACK = 1 << 18
"""Bytes: the stack, and what the linker adds."""


def emit(program: Program, compile_kernels: Compile, folder: Path) -> Code:
    """Write both modules, their loader and its types into `folder`.

    Args:
        program: The lowered model.
        compile_kernels: Makes the objects of all kernels for one instruction set.
        folder: Exists.

    Returns:
        Size of the relaxed module, and its arena.

    Raises:
        TargetError: If the model does not fit the memory of a module.
        ToolchainError: If compiling or linking fails.
    """
    _check_memory(program)
    codes = [_emit_module(program, compile_kernels, ISAS[isa], folder / name) for name, isa in MODULES.items()]
    (folder / "model.mjs").write_text(loader.module(program), "utf-8")
    for name in TYPES:
        (folder / name).write_text(loader.types(program), "utf-8")
    return codes[0]


def _check_memory(program: Program) -> None:
    needed = needed_bytes(program)
    if needed > _LARGEST_MEMORY:
        msg = (
            f"Target 'wasm': the model needs {needed:,} bytes of memory, at most {_LARGEST_MEMORY:,} fit a module. "
            "Compress its weights with a recipe, or compile it with smaller input shapes."
        )
        raise TargetError(msg)


def _emit_module(program: Program, compile_kernels: Compile, isa: Isa, path: Path) -> Code:
    kernels = compile_kernels(isa)
    program = entry.with_workspaces(program, kernels.workspace_bytes)
    start = link.compile_c(source(program), isa)
    objects = [start, *kernels.objects]
    module = link.wasm_module(objects, isa, exports(program), max_memory=_memory_bytes(program, objects))
    path.write_bytes(module)
    return Code(len(module), program.arena_bytes)


def _memory_bytes(program: Program, objects: Sequence[bytes]) -> int:
    """More than the linker will lay out, in whole pages; the initial memory is exactly that, and nothing grows it."""
    constants = sum(map(len, objects))
    return -(-(needed_bytes(program) + constants + _SLACK) // _PAGE) * _PAGE


def needed_bytes(program: Program) -> int:
    """Bytes of all blocks: weights, arena, inputs and outputs."""
    sizes = [len(program.weights), program.arena_bytes, *(p.nbytes for p in (*program.inputs, *program.outputs))]
    return sum(size + ALIGNMENT for size in sizes)


def exports(program: Program) -> list[str]:
    """What a module exports besides its memory: two functions, and the address of each block as a global."""
    ports = [f"input{i}" for i in range(len(program.inputs))] + [f"output{i}" for i in range(len(program.outputs))]
    return [*FUNCTIONS, "weights", "arena", *ports]


def source(program: Program) -> str:
    """The C of a module's own part: its blocks of memory, and `run` without arguments."""
    return "\n".join(
        [
            entry.source(program),
            _block("weights", len(program.weights)),
            _block("arena", program.arena_bytes),
            *_blocks("input", program.inputs),
            *_blocks("output", program.outputs),
            f"static const void *const inputs[] = {{{_names('input', program.inputs)}}};",
            f"static void *const outputs[] = {{{_names('output', program.outputs)}}};",
            "int run(void);",
            f"int run(void) {{ return {program.name}_run(weights, arena, inputs, outputs); }}",
            "size_t arena_bytes(void);",
            f"size_t arena_bytes(void) {{ return {program.name}_arena_bytes(); }}",
            "",
        ]
    )


def _block(name: str, size: int) -> str:
    return f"_Alignas({ALIGNMENT}) unsigned char {name}[{max(1, size)}];"


def _blocks(kind: str, ports: Sequence[Port]) -> list[str]:
    return [_block(f"{kind}{i}", port.nbytes) for i, port in enumerate(ports)]


def _names(kind: str, ports: Sequence[Port]) -> str:
    return ", ".join(f"{kind}{i}" for i in range(len(ports))) or "0"
