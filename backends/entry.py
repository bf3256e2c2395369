# SPDX-License-Identifier: Apache-2.0
"""The C side of an artifact: an entry function that makes a Program's calls, and the header that declares it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from sparsec.compiler.lowering.program import ALIGNMENT, Call, Port, Program, Ref

C_TYPES: dict[str, str] = {
    "bool": "uint8_t", "int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "uint16": "uint16_t",
    "int32": "int32_t", "uint32": "uint32_t", "int64": "int64_t", "uint64": "uint64_t",
    "float16": "uint16_t", "float32": "float", "float64": "double",
}  # fmt: skip
"""C type of one element of each port type; `bool` is 0 or 1, `float16` travels as its bits."""

PARAMETERS = "const void *weights, void *arena, const void *const *inputs, void *const *outputs"


@dataclass(frozen=True, slots=True)
class Slot:
    """A port as the header names it.

    Attributes:
        kind: ``input`` or ``output``.
        index: Position among the inputs, or the outputs.
        word: Upper-case C word for the port, unique among its kind.
        port: Name, dtype and shape.
    """

    kind: str
    index: int
    word: str
    port: Port


def slots(kind: str, ports: Sequence[Port]) -> list[Slot]:
    """The ports with a C word each: the ONNX name where it makes one, else with its index behind."""
    words = [re.sub(r"[^A-Z0-9]+", "_", port.name.upper()).strip("_") for port in ports]
    clear = [bool(word) and words.count(word) == 1 and not word.endswith(("_LENGTH", "_BYTES")) for word in words]
    unique = [word if clear[i] else f"{word}_{i}".strip("_") for i, word in enumerate(words)]
    if len(set(unique)) < len(unique):
        unique = [str(i) for i in range(len(ports))]
    return [Slot(kind, i, word, port) for i, (word, port) in enumerate(zip(unique, ports, strict=True))]


def comment(text: str) -> str:
    """`text` with nothing left that could end a comment or a line."""
    plain = text.encode("ascii", "backslashreplace").decode().replace("\\", "|")
    return re.sub(r"[\x00-\x1f]+", " ", plain).replace("*/", "* /").replace("/*", "/ *")


def with_workspaces(program: Program, sizes: Mapping[str, int]) -> Program:
    """The program with a scratch pointer behind the arguments of each call whose function takes one.

    Args:
        program: As lowering made it.
        sizes: Bytes of scratch memory by symbol; 0 or missing means that the function takes no such pointer.

    Returns:
        The program with one block for each thread, as large as the largest of `sizes`, at the end of its arena.
    """
    users = [call for call in program.calls if sizes.get(call.symbol)]
    block = -(-max((sizes[call.symbol] for call in users), default=0) // ALIGNMENT) * ALIGNMENT
    starts = {call.thread: program.arena_bytes + call.thread * block for call in users}

    def with_scratch(call: Call) -> Call:
        return replace(call, args=(*call.args, Ref("arena", offset=starts[call.thread])))

    calls = tuple(with_scratch(call) if sizes.get(call.symbol) else call for call in program.calls)
    blocks = 1 + max(starts, default=-1)
    return replace(program, calls=calls, arena_bytes=program.arena_bytes + blocks * block)


def source(program: Program) -> str:
    """The entry function in C: no library, no state, no allocation; one call of a kernel per line.

    Args:
        program: Ports of any of `C_TYPES`; every kernel takes pointers and returns nothing.

    Returns:
        C99 that defines `NAME_arena_bytes` and `NAME_run`, as declared by `header`. The status is 0, 1 for a null
        pointer, or 2 for a pointer that is not aligned. What several threads call is `thread_entry`'s.
    """
    name = program.name
    return "\n".join(
        [
            "#include <stddef.h>",
            "#include <stdint.h>",
            "",
            *_declarations(program.calls),
            "",
            f"size_t {name}_arena_bytes(void);",
            f"size_t {name}_arena_bytes(void) {{ return {program.arena_bytes}u; }}",
            "",
            f"int {name}_run({PARAMETERS});",
            f"int {name}_run({PARAMETERS}) {{",
            *prologue(program),
            *(f"  {line}" for line in map(call_line, program.calls)),
            "  return 0;",
            "}",
            "",
        ]
    )


def prologue(program: Program, words: Sequence[str] = ()) -> list[str]:
    """The first lines of a function with `PARAMETERS`: short names for all blocks, and the checks of them.

    Args:
        program: As for `source`.
        words: More pointers to check, which must be aligned like the arena.
    """
    return [
        "  char *const w = (char *)weights;",
        "  char *const a = (char *)arena;",
        "  (void)w;",
        "  (void)a;",
        "  if (!inputs || !outputs) return 1;",
        *_port_variables(program),
        *_checks(program, words),
    ]


def call_line(call: Call) -> str:
    """A call of a kernel, behind `prologue`."""
    return f"{call.symbol}({', '.join(map(_pointer, call.args))});"


def _declarations(calls: Iterable[Call]) -> list[str]:
    arity: dict[str, int] = {}
    for call in calls:
        assert arity.setdefault(call.symbol, len(call.args)) == len(call.args), call.symbol
    return [f"void {symbol}({', '.join(['void *'] * n) or 'void'});" for symbol, n in sorted(arity.items())]


def _port_variables(program: Program) -> list[str]:
    return [
        *(f"  char *const i{i} = (char *)inputs[{i}];" for i in range(len(program.inputs))),
        *(f"  char *const o{i} = (char *)outputs[{i}];" for i in range(len(program.outputs))),
    ]


def _checks(program: Program, words: Sequence[str]) -> list[str]:
    ports = [(f"i{i}", p) for i, p in enumerate(program.inputs)] + [(f"o{i}", p) for i, p in enumerate(program.outputs)]
    blocks = [("w", len(program.weights)), ("a", program.arena_bytes)]
    aligned = [(name, ALIGNMENT) for name, size in blocks if size] + [(word, ALIGNMENT) for word in words]
    aligned += [(name, _item_bytes(port)) for name, port in ports]
    nulls = [f"!{name}" for name, _ in aligned]
    rests = [f"(uintptr_t){name} % {bytes_}u" for name, bytes_ in aligned if bytes_ > 1]
    return [f"  if ({' || '.join(tests)}) return {code};" for code, tests in ((1, nulls), (2, rests)) if tests]


def _item_bytes(port: Port) -> int:
    return port.nbytes // prod(port.shape) if prod(port.shape) else 1


def _pointer(ref: Ref) -> str:
    base = {"input": f"i{ref.index}", "output": f"o{ref.index}", "arena": "a", "weights": "w"}[ref.space]
    return f"{base} + {ref.offset}" if ref.offset else base


def header(program: Program, more: Sequence[str] = ()) -> str:
    """The header for somebody who knows C and no machine learning: sizes, names, shapes, types, rules, an example.

    Args:
        program: As for `source`.
        more: Lines with further declarations.
    """
    name, big = program.name, program.name.upper()
    ins, outs = slots("input", program.inputs), slots("output", program.outputs)
    guard = f"SPARSEC_{big}_H"
    return "\n".join(
        [
            *_HEAD.format(name=name, BIG=big, example=_example(program, ins, outs), alignment=ALIGNMENT).splitlines(),
            f"#ifndef {guard}",
            f"#define {guard}",
            "",
            "#include <stddef.h>",
            "#include <stdint.h>",
            "",
            "/* Sizes in bytes, and where weights and arena must start: at a multiple of this many bytes. */",
            f"#define {big}_WEIGHTS_BYTES {len(program.weights)}u",
            f"#define {big}_ARENA_BYTES {program.arena_bytes}u",
            f"#define {big}_ALIGNMENT {ALIGNMENT}u",
            "",
            f"#define {big}_INPUTS {len(ins)}",
            f"#define {big}_OUTPUTS {len(outs)}",
            "",
            *(line for slot in (*ins, *outs) for line in _defines(big, slot)),
            *_DECLARATIONS.format(name=name, parameters=PARAMETERS).splitlines(),
            *more,
            *_TAIL.format(guard=guard).splitlines(),
            "",
        ]
    )


def _defines(big: str, slot: Slot) -> list[str]:
    port, stem = slot.port, f"{big}_{slot.kind.upper()}_{slot.word}"
    return [
        f'/* {slot.kind}s[{slot.index}]: "{comment(port.name)}", {describe(port)} */',
        f"#define {stem} {slot.index}",
        f"#define {stem}_LENGTH {prod(port.shape)}u",
        f"#define {stem}_BYTES {port.nbytes}u",
        f"typedef {C_TYPES[port.dtype]} {stem.lower()}_t;",
        "",
    ]


def describe(port: Port) -> str:
    """Such as ``float32, 1 x 3 x 224 x 224``; a scalar is ``one float32``."""
    return f"{port.dtype}, {' x '.join(map(str, port.shape))}" if port.shape else f"one {port.dtype}"


def _example(program: Program, ins: Sequence[Slot], outs: Sequence[Slot]) -> str:
    stem, big = program.name, program.name.upper()
    arrays = [
        f"static {stem}_{s.kind}_{s.word.lower()}_t {s.kind}_{s.index}[{big}_{s.kind.upper()}_{s.word}_LENGTH];"
        for s in (*ins, *outs)
    ]
    names = {kind: ", ".join(f"{kind}_{s.index}" for s in group) for kind, group in (("input", ins), ("output", outs))}
    lines = [
        f"static _Alignas({ALIGNMENT}) unsigned char weights[{big}_WEIGHTS_BYTES];  // read weights.bin into it",
        f"static _Alignas({ALIGNMENT}) unsigned char arena[{big}_ARENA_BYTES];",
        *arrays,
        f"const void *inputs[] = {{{names['input'] or '0'}}};",
        f"void *outputs[] = {{{names['output']}}};",
        f"int status = {stem}_run(weights, arena, inputs, outputs);",
    ]
    return "\n".join(f" *     {line}" for line in lines)


_HEAD = """\
/* model.h - a compiled neural network: one function from arrays to arrays. Written by sparsec.
 *
 * {name}_run reads the input arrays and fills the output arrays. It needs two more blocks of memory:
 *   weights  the bytes of weights.bin, unchanged. Read or map the file once; any number of threads may share it.
 *   arena    scratch memory. Its contents do not matter before or after; each thread that runs needs its own.
 * Both must start at a multiple of {alignment} bytes (mmap, aligned_alloc, or _Alignas). The function keeps no state,
 * allocates nothing, does no input or output, and calls no library. The same inputs give the same outputs.
 *
 * Arrays hold their last dimension contiguously (C order). Inputs and outputs must not overlap each other.
 * Types: float32 is float, float64 is double, bool is one byte 0 or 1, float16 is the 16 bits of an IEEE half.
 *
 * Example (C11; link libmodel.a, or load libmodel.so):
 *
{example}
 */"""

_DECLARATIONS = """\
#ifdef __cplusplus
extern "C" {{
#endif

/* Bytes of scratch memory that a run needs. */
size_t {name}_arena_bytes(void);

/* Compute the outputs from the inputs: two arrays of pointers, in the order of the indices above.
 * Returns 0 when done, 1 if a pointer is null, 2 if one is not aligned; then nothing was written. */
int {name}_run({parameters});"""

_TAIL = """\

#ifdef __cplusplus
}}
#endif

#endif /* {guard} */"""
