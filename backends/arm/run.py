# SPDX-License-Identifier: Apache-2.0
"""Run an AArch64 artifact: in this process on such a machine, elsewhere as a program under qemu."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.backends import isa, link, native
from sparsec.compiler.artifact import Runner
from sparsec.compiler.errors import ArtifactError, TargetError, ToolchainError
from sparsec.compiler.lowering.program import Port
from sparsec.compiler.manifest import WEIGHTS, Manifest

Array = NDArray[Any]
EMULATOR = "qemu-aarch64"


class QemuRunner:
    """A program under qemu-aarch64 that is kept running: inputs through a pipe, outputs through another."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._outputs = manifest.outputs
        emulator = find_emulator()
        self._folder = tempfile.TemporaryDirectory(prefix="sparsec-")
        try:
            program = _program(folder, manifest, Path(self._folder.name))
            command = [emulator, str(program), str(folder / WEIGHTS)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except BaseException:
            self._folder.cleanup()
            raise

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs in order, as new arrays."""
        assert self._process.stdin is not None
        try:
            for part in (b"\0", *(array.tobytes() for array in inputs)):
                self._process.stdin.write(part)
            self._process.stdin.flush()
            return [self._read(port) for port in self._outputs]
        except (BrokenPipeError, EOFError) as error:
            msg = f"The program under '{EMULATOR}' ended with status {self._process.wait()}. Verify the artifact."
            raise ArtifactError(msg) from error

    def close(self) -> None:
        """End the program and remove it."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def _read(self, port: Port) -> Array:
        assert self._process.stdout is not None
        data = self._process.stdout.read(port.nbytes)
        if len(data) < port.nbytes:
            raise EOFError
        return np.frombuffer(data, port.dtype).reshape(port.shape).copy()


def find_emulator() -> str:
    """Path of qemu-aarch64.

    Raises:
        ToolchainError: If it is not installed.
    """
    path = shutil.which(EMULATOR)
    if path is None:
        msg = f"Target 'arm': found no '{EMULATOR}' to run the artifact here. Install it (Debian, Ubuntu: qemu-user)."
        raise ToolchainError(msg)
    return path


def open_runner(folder: Path, manifest: Manifest) -> Runner:
    """Load the artifact natively on an AArch64 Linux machine that has its features, else under qemu.

    Raises:
        ToolchainError: If qemu is needed and missing.
    """
    try:
        native.require_host(manifest.target)
    except TargetError:
        return QemuRunner(folder, manifest)
    return native.Runner(folder, manifest)


def _program(folder: Path, manifest: Manifest, build: Path) -> Path:
    """Compile the program around `libmodel.a`."""
    path, main = build / "runner", build / "main.c"
    main.write_text(source(manifest), "utf-8")
    link.executable([main], [folder / native.ARCHIVE], isa.for_target(manifest.target), path)
    return path


def source(manifest: Manifest) -> str:
    """The program in C."""
    values = {
        "NAME": manifest.name,
        "WEIGHT_BYTES": str(manifest.weight_bytes),
        "INPUTS": str(len(manifest.inputs)),
        "OUTPUTS": str(len(manifest.outputs)),
        "INPUT_BYTES": ", ".join([*(f"{port.nbytes}u" for port in manifest.inputs), "0"]),
        "OUTPUT_BYTES": ", ".join([*(f"{port.nbytes}u" for port in manifest.outputs), "0"]),
    }
    text = files("sparsec.backends.arm").joinpath("runner.c.in").read_text("utf-8")
    return re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], text)
