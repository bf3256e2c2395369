# SPDX-License-Identifier: Apache-2.0
"""Cycles of the inner loops of ARM kernels, by llvm-mca: `python -m benchmarks.inner_loops`.

Of each layer's kernel, compiled for `arm+dotprod` (or for `arm`, which has no int8 dot products, where it says so), the
loop with the most multiply-adds that contains no other is taken out of the assembly. llvm-mca assumes that every load
hits the first cache; what it says is a bound, not a time. The processors can do two vector instructions a cycle, so 32
int8 dot-product or 8 float32 multiply-accumulates. Neoverse N1 is the server's sibling of Cortex-A76; LLVM describes it
in detail from version 16 on, and takes Cortex-A76 for the older A57, which does one float32 vector instruction a cycle.
Spills: instructions that touch the stack.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.peers_stacks import SHAPES, stack
from sparsec.compiler import driver

PROCESSORS = ("cortex-a76", "neoverse-n1")
TOOLS = ("llvm-mca-22", "llvm-mca-21", "llvm-mca-20", "llvm-mca-19", "llvm-mca")
_PER_INSTRUCTION = {
    r"\bv\d+\.": {"sdot": 16, "fmla": 4, "smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8},
    r"%zmm\d": {"vpdpbusd": 64, "vfmadd132ps": 16, "vfmadd213ps": 16, "vfmadd231ps": 16},
}
"""Multiply-accumulates of one instruction, by what its vectors are called: 16 bytes on ARM, 64 on x86."""
_SPARSE_CODES = ("prune-blocks{rows=4 cols=4 density=0.5}", "quantize")
VARIANTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "float32": ("arm+dotprod", ()),
    "float32, 4x1 at 0.5": ("arm+dotprod", ("prune-blocks{rows=4 cols=1 density=0.5}",)),
    "int8": ("arm+dotprod", ("quantize",)),
    "int8, 4x4 at 0.5": ("arm+dotprod", _SPARSE_CODES),
    "int8 for arm": ("arm", ("quantize",)),
    "int8, 4x4 at 0.5, for arm": ("arm", _SPARSE_CODES),
}
"""Target and passes by name."""


@dataclass(frozen=True, slots=True)
class Loop:
    """An innermost loop: whose it is, its instructions, its multiply-accumulates."""

    symbol: str
    lines: tuple[str, ...]
    products: int


def missing() -> str | None:
    """What this machine lacks, and how to get it; None if nothing."""
    return None if _tool() else "llvm-mca is not installed (Debian, Ubuntu: llvm-19)"


def table() -> str:
    """Markdown."""
    version = re.search(r"version ([\d.]+)", _run([str(_tool()), "--version"], ""))
    heads = " | ".join(f"MACs a cycle, {processor}" for processor in PROCESSORS)
    lines = [
        f"llvm-mca {version[1] if version else ''}.\n",
        f"| layer | kernel | instructions | MACs | {heads} | spills |",
        f"| --- | --- | ---: | ---: |{' ---: |' * len(PROCESSORS)} ---: |",
    ]
    for channels, size in SHAPES:
        for name, (target, passes) in VARIANTS.items():
            loop = hottest(_assembly(channels, size, target, passes))
            rates = " | ".join(f"{loop.products / _cycles(loop, processor):.1f}" for processor in PROCESSORS)
            spills = sum(bool(re.search(r"\[sp[\],]", line)) for line in loop.lines)
            layer = f"[{channels}, {channels}, {size * size}] {name}"
            values = f"{len(loop.lines)} | {loop.products} | {rates} | {spills}"
            lines.append(f"| {layer} | {loop.symbol} | {values} |")
    return "\n".join(lines) + "\n"


def hottest(assembly: str) -> Loop:
    """The innermost loop with the most multiply-accumulates.

    Raises:
        ValueError: If there is none with any.
    """
    found = max(_loops(assembly), key=lambda loop: loop.products, default=None)
    if found is None or not found.products:
        msg = "The assembly has no loop with multiply-accumulates of vectors."
        raise ValueError(msg)
    return found


def _loops(assembly: str) -> Iterator[Loop]:
    """Loops without labels inside: from a label to a branch back to it."""
    symbol, label, lines = "", "", list[str]()
    for line in assembly.splitlines():
        text = line.split("//")[0].strip()
        start = re.match(r"(\.?[\w$.]+):", text)
        if start:
            local = text.startswith(".L")
            symbol, label, lines = (symbol if local else start[1]), start[1], []
        elif text and not text.startswith("."):
            lines.append(text)
            if re.match(rf"(b\.\w+|cbn?z\s.*,|tbn?z\s.*,|j\w+)\s*{re.escape(label)}$", text) and label:
                yield Loop(symbol, tuple(lines), _products(lines))


def _products(lines: Sequence[str]) -> int:
    tables = [
        (line, table) for line in lines for vectors, table in _PER_INSTRUCTION.items() if re.search(vectors, line)
    ]
    return sum(table.get(line.split()[0].split(".")[0], 0) for line, table in tables)


def _tool() -> str | None:
    return next(filter(None, map(shutil.which, TOOLS)), None)


def _cycles(loop: Loop, processor: str, iterations: int = 100) -> float:
    command = [str(_tool()), "-mtriple=aarch64", f"-mcpu={processor}", f"-iterations={iterations}"]
    body = "\n".join(re.sub(r"\.L[\w$.]+$", "0b", line) for line in loop.lines)
    report = _run(command, f"0:\n{body}\n")
    found = re.search(r"Total Cycles:\s+(\d+)", report)
    assert found, report
    return int(found[1]) / iterations


def _run(command: Sequence[str], text: str) -> str:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def _assembly(channels: int, size: int, target: str, passes: tuple[str, ...]) -> str:
    samples = np.random.default_rng(1).uniform(0, 6, (8, 1, channels, size, size)).astype(np.float32)
    given = {"image": samples} if passes else None
    job = driver.job(stack(channels, size, stem=False), target, None, given, passes=passes, name="net")
    return driver.emit_text(driver.lower(driver.compress(job), job), job, "asm")


if __name__ == "__main__":
    print(table())
