# SPDX-License-Identifier: Apache-2.0
"""Artifact: a compiled model on disk, with what is needed to run it here and to prove it right."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import sparsec
from sparsec.compiler import golden, manifest, output_folder
from sparsec.compiler.errors import ArtifactError, DataError
from sparsec.compiler.golden import Golden, relative_error
from sparsec.compiler.lowering.program import Port, Program
from sparsec.compiler.manifest import MANIFEST, REPORT, SELFTEST, WEIGHTS, FileEntry, KernelUse, Manifest
from sparsec.compiler.target import Target

Array = NDArray[Any]
_LARGEST_REPORT = 64 << 20


class Runner(Protocol):
    """A compiled model, loaded and ready: made by a target's `run` module."""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs in order, as new arrays, from C-contiguous inputs in order, already checked."""
        ...

    def close(self) -> None:
        """Give back memory, processes and temporary files. No call may follow."""
        ...


OpenRunner = Callable[[Path, Manifest], Runner]
"""Loads the artifact in a folder; raises TargetError or ToolchainError where this machine cannot run it."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What an artifact is made of, besides its code.

    Attributes:
        program: The lowered model.
        target: What it is compiled for.
        source_sha256: SHA-256 of the source model's bytes, hexadecimal.
        recipe: The resolved recipe as text; empty without one.
        golden: Checked inputs and outputs.
        report: JSON values, for `report.json`; must not depend on place or time.
    """

    program: Program
    target: Target
    source_sha256: str
    recipe: str
    golden: Golden
    report: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Code:
    """What a target's `emit` has written: bytes of machine code with its constants, and of the arena it needs."""

    code_bytes: int
    arena_bytes: int


class Artifact:
    """A compiled model in a folder. Loads its code on the first run and keeps it; `close` or a `with` ends that.

    Attributes:
        folder: Where it stands.
        manifest: What it says of itself.
    """

    def __init__(self, folder: Path, manifest_: Manifest, open_runner: OpenRunner) -> None:
        self.folder = folder
        self.manifest = manifest_
        self._open_runner = open_runner
        self._runner: Runner | None = None
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"Artifact('{self.folder}', target='{self.manifest.target}')"

    def __enter__(self) -> "Artifact":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give back what running took; a later run loads the code again."""
        with self._lock:
            if self._runner is not None:
                self._runner.close()
                self._runner = None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute the outputs on this machine: natively, under an emulator, or in a WebAssembly engine.

        Args:
            inputs: One array per input, by name, of exactly its type and shape.

        Returns:
            One new array per output, by name.

        Raises:
            DataError: If an input is missing, surplus, or of the wrong type or shape.
            TargetError: If this machine's processor cannot run the code.
            ToolchainError: If the emulator or engine that runs it is missing or fails.
        """
        arrays = check_arrays("Input", self.manifest.inputs, inputs)
        with self._lock:
            if self._runner is None:
                self._runner = self._open_runner(self.folder, self.manifest)
            outputs = self._runner.run(arrays)
        return {port.name: array for port, array in zip(self.manifest.outputs, outputs, strict=True)}

    def golden(self) -> Golden:
        """The artifact's own inputs and expected outputs.

        Raises:
            ArtifactError: If they are damaged.
        """
        ports = (self.manifest.inputs, self.manifest.outputs)
        return golden.load(self.folder / SELFTEST, *ports, self.manifest.tolerance)

    def report(self) -> dict[str, Any]:
        """The content of `report.json`: what was asked of each layer, and what was got.

        Raises:
            ArtifactError: If it is damaged.
        """
        path = self.folder / REPORT
        try:
            data = json.loads(path.read_text("utf-8") if path.stat().st_size <= _LARGEST_REPORT else "")
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(_damaged(self.folder, REPORT, str(error))) from error
        if not isinstance(data, dict):
            raise ArtifactError(_damaged(self.folder, REPORT, "it is no JSON object"))
        return data

    def verify(self) -> dict[str, float]:
        """Hash every file, run the golden inputs, compare.

        Returns:
            The relative error of each output, by name; all within the manifest's tolerance.

        Raises:
            ArtifactError: If a file or an output differs.
            TargetError: As for `run`.
            ToolchainError: As for `run`.
        """
        self.verify_files()
        expected = self.golden()
        found = self.run(expected.inputs)
        errors = {name: relative_error(found[name], array) for name, array in expected.outputs.items()}
        for name, error in errors.items():
            if not error <= expected.tolerance:
                msg = (
                    f"Artifact '{self.folder}': output '{name}' has relative error {error:.3g}, expected at most "
                    f"{expected.tolerance:.3g}. The code computes something else on this machine; compile it again."
                )
                raise ArtifactError(msg)
        return errors

    def verify_files(self) -> None:
        """Hash every file.

        Raises:
            ArtifactError: If one differs from the manifest.
        """
        for name, entry in manifest.read(self.folder).files.items():
            if file_entry(self.folder / name) != entry:
                raise ArtifactError(_damaged(self.folder, name, "its SHA-256 is not the manifest's"))


def write(folder: Path, contents: Contents, emit: Callable[[Path], Code], open_runner: OpenRunner) -> Artifact:
    """Write a complete artifact, or nothing.

    Args:
        folder: Where it is to stand. An artifact of the same model and target there is replaced.
        contents: All but the code.
        emit: Writes the target's files into the folder it is given and says how large the code is.
        open_runner: For the artifact's `run`.

    Raises:
        ArtifactError: If the folder holds anything else, is read-only, or the disk is full.
    """
    with output_folder.staged(folder, lambda old: may_replace(old, contents.target, contents.source_sha256)) as staging:
        code = emit(staging)
        program = contents.program
        (staging / WEIGHTS).write_bytes(program.weights)
        golden.save(staging / SELFTEST, contents.golden, program.inputs, program.outputs)
        report = json.dumps(contents.report, indent=1, sort_keys=True, allow_nan=False)
        (staging / REPORT).write_text(report + "\n", "utf-8")
        made = _manifest(contents, code, staging)
        (staging / MANIFEST).write_text(made.text(), "utf-8")
    return Artifact(folder.resolve(), made, open_runner)


def check_output(folder: Path, target: Target, source_sha256: str) -> None:
    """Refuse an output folder early that `write` would refuse in the end; changes nothing.

    Raises:
        ArtifactError: As for `write`.
    """
    output_folder.check_output(folder, lambda old: may_replace(old, target, source_sha256))


def may_replace(folder: Path, target: Target, source_sha256: str) -> None:
    """Refuse to replace a folder unless it holds an artifact of the same model and target and nothing else.

    Raises:
        ArtifactError: Saying what it holds.
    """
    names = {path.name for path in folder.iterdir()}
    try:
        old = manifest.parse((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError, ArtifactError):
        raise ArtifactError(_occupied(folder, "it holds files that are no artifact of sparsec")) from None
    surplus = sorted(names - set(old.files) - {MANIFEST})
    if surplus:
        raise ArtifactError(_occupied(folder, f"it holds more than an artifact: '{surplus[0]}'"))
    if old.target != target:
        raise ArtifactError(_occupied(folder, f"it holds an artifact for another target, '{old.target}'"))
    if old.source_sha256 != source_sha256:
        raise ArtifactError(_occupied(folder, "it holds the artifact of another model"))


def _occupied(folder: Path, found: str) -> str:
    return f"Output folder '{folder}': {found}. Remove it, or choose another folder with -o."


def _damaged(folder: Path, name: str, found: str) -> str:
    return f"Artifact '{folder}': file '{name}' is damaged: {found}. Copy the artifact again, or compile it again."


def check_arrays(kind: str, ports: Sequence[Port], arrays: Mapping[str, Array]) -> list[Array]:
    """The arrays in the order of the ports, C-contiguous.

    Args:
        kind: ``Input``, for messages.
        ports: What is expected.
        arrays: By name.

    Raises:
        DataError: If one is missing, surplus, or of the wrong type or shape.
    """
    names = [port.name for port in ports]
    for name in arrays:
        if name not in names:
            msg = f"{kind} '{name}': the model has none of that name, expected: {_quoted(names)}."
            raise DataError(msg)
    return [_checked(kind, port, arrays) for port in ports]


def _checked(kind: str, port: Port, arrays: Mapping[str, Array]) -> Array:
    if port.name not in arrays:
        msg = f"{kind} '{port.name}': missing, found {_quoted(arrays)}. Give {port.dtype} {list(port.shape)}."
        raise DataError(msg)
    array = np.asarray(arrays[port.name])
    if (array.dtype.name, array.shape) != (port.dtype, port.shape):
        found, expected = f"{array.dtype.name} {list(array.shape)}", f"{port.dtype} {list(port.shape)}"
        remedy = f'.astype("{port.dtype}")' if array.shape == port.shape else f".reshape{port.shape}"
        msg = f"{kind} '{port.name}': found {found}, expected {expected}. Convert it, as with {remedy}."
        raise DataError(msg)
    return np.require(array, requirements=["C", "A"])


def _quoted(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _manifest(contents: Contents, code: Code, folder: Path) -> Manifest:
    program = contents.program
    return Manifest(
        sparsec=sparsec.__version__,
        name=program.name,
        target=contents.target,
        threads=program.threads,
        source_sha256=contents.source_sha256,
        recipe=contents.recipe,
        tolerance=contents.golden.tolerance,
        inputs=program.inputs,
        outputs=program.outputs,
        arena_bytes=code.arena_bytes,
        weight_bytes=len(program.weights),
        code_bytes=code.code_bytes,
        kernels=_kernels(program),
        files={path.name: file_entry(path) for path in sorted(folder.iterdir())},
    )


def _kernels(program: Program) -> tuple[KernelUse, ...]:
    calls = Counter(call.symbol for call in program.calls)
    kinds = {symbol: (spec.family, spec.pattern) for symbol, spec in program.specs.items()}
    return tuple(KernelUse(s, *kinds.get(s, ("fallback", "dense")), calls=calls[s]) for s in sorted(calls))


def file_entry(path: Path) -> FileEntry:
    """Size and hash of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256") if hasattr(hashlib, "file_digest") else _digest(stream.read())
    return FileEntry(path.stat().st_size, digest.hexdigest())


def _digest(data: bytes) -> Any:
    return hashlib.sha256(data)
