# SPDX-License-Identifier: Apache-2.0
"""Counts executed AArch64 instructions of programs under qemu's user emulation, with a plugin of our own."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sparsec.backends import link
from sparsec.backends.arm.run import EMULATOR, find_emulator
from sparsec.compiler.errors import ToolchainError

HERE = Path(__file__).resolve().parent
LIBC = Path("/usr/aarch64-linux-gnu")


class Processor(NamedTuple):
    """What qemu emulates.

    Attributes:
        qemu: Its name for qemu, with properties.
        part: ARM's part number.
        features: What Linux would tell of it.
    """

    qemu: str
    part: int
    features: str


_A72 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_N1 = f"{_A72} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
_V1 = f"{_N1} sve jscvt fcma sha3 sm3 sm4 sha512 dit uscat ilrcpc flagm ssbs i8mm bf16"
PROCESSORS = {
    "Cortex-A72": Processor("cortex-a72", 0xD08, _A72),
    "Neoverse N1": Processor("neoverse-n1", 0xD0C, _N1),
    "i8mm, SVE": Processor("max,sve-default-vector-length=16,sme=off", 0xD40, _V1),
}
"""By the name in tables: without dot products, with them, and with int8 matrix products and SVE of 128 bits too."""


class Counts(NamedTuple):
    """Executed instructions: all; and of them int8 dot products, int8 matrix products, float32 vector multiply-adds."""

    total: float
    dots: float
    matrix_products: float
    multiply_adds: float


def emulate(
    command: Sequence[str], folder: Path, *, stdin: bytes = b"", processor: str | None = None
) -> tuple[Counts, bytes]:
    """Run an AArch64 program.

    Args:
        command: The program and its arguments.
        folder: For a temporary file.
        stdin: What it reads.
        processor: Key of `PROCESSORS`, for dynamically linked programs; None: any, for static ones.

    Returns:
        What it executed, and its standard output.

    Raises:
        ToolchainError: If qemu is missing, or the program fails.
    """
    out = folder / "counts"
    options = ("-L", str(_root(processor)), "-cpu", PROCESSORS[processor].qemu) if processor else ()
    whole = [find_emulator(), *options, "-plugin", f"{_plugin()},out={out}", *command]
    done = subprocess.run(whole, input=stdin, capture_output=True, check=False)
    if done.returncode or not out.exists():
        msg = f"'{Path(command[0]).name}' under qemu ended with status {done.returncode}: {done.stderr.decode()[-500:]}"
        raise ToolchainError(msg)
    return Counts(*map(int, out.read_text().split())), done.stdout


def difference(first: Counts, last: Counts, runs: int) -> Counts:
    """What one of the additional runs takes."""
    return Counts(*((b - a) / runs for a, b in zip(first, last, strict=True)))


def missing() -> str | None:
    """What this machine lacks to run dynamically linked programs, and how to get it; None if nothing."""
    if shutil.which(EMULATOR) is None:
        return f"{EMULATOR} is not installed (Debian, Ubuntu: qemu-user)"
    if not (LIBC / "lib" / "libstdc++.so.6").exists():
        return "there are no C and C++ libraries for AArch64 (Debian, Ubuntu: libstdc++6-arm64-cross)"
    return None


def compile_c(options: Sequence[str]) -> None:
    """Run the C compiler of ``ziglang``.

    Raises:
        ToolchainError: If it is missing or refuses the source.
    """
    cache_folder = Path.home() / ".cache" / "sparsec" / "zig"
    link.run_tool(("cc", *options), build_folder(), cache_folder=cache_folder, timeout=600)


@cache
def build_folder() -> Path:
    """A folder that lives as long as this process."""
    folder = tempfile.TemporaryDirectory(prefix="sparsec-")
    _KEPT.append(folder)
    return Path(folder.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


@cache
def _plugin() -> Path:
    version = subprocess.run([find_emulator(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)\.(\d+)", version)
    if found is None:
        msg = f"Cannot read the version of '{EMULATOR}' out of: {version[:200]}"
        raise ToolchainError(msg)
    release = (int(found[1]), int(found[2]))
    interface = 1 if release < (9, 0) else 2 if release < (9, 1) else 3
    path = build_folder() / "count.so"
    options = ("-shared", "-fPIC", "-O2", "-g0", "-fvisibility=hidden", f"-DPLUGIN_VERSION={interface}")
    compile_c((*options, str(HERE / "instructions_plugin.c"), "-o", str(path)))
    return path


@cache
def _root(processor: str) -> Path:
    """What the guest sees first of the file system: its C library and a description of its processor.

    qemu would show it the host's, from which onnxruntime learns nothing and crashes.
    """
    root = build_folder() / f"{PROCESSORS[processor].part:x}"
    (root / "proc").mkdir(parents=True)
    (root / "lib").symlink_to(LIBC / "lib")
    _, part, features = PROCESSORS[processor]
    lines = ("processor\t: 0", f"Features\t: {features}", "CPU implementer\t: 0x41", "CPU architecture: 8")
    lines += ("CPU variant\t: 0x1", f"CPU part\t: {part:#x}", "CPU revision\t: 1", "")
    (root / "proc" / "cpuinfo").write_text("\n".join(lines) + "\n")
    return root
