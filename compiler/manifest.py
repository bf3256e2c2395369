# SPDX-License-Identifier: Apache-2.0
"""Manifest: what an artifact says of itself, in `manifest.json`; see docs/artifact-format.md."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from sparsec.compiler.errors import ArtifactError, TargetError
from sparsec.compiler.lowering.program import Port
from sparsec.compiler.target import Target, most_threads

FORMAT = 1
"""Version of the format; a reader refuses any other."""
MANIFEST, WEIGHTS, SELFTEST, REPORT = "manifest.json", "weights.bin", "selftest.npz", "report.json"
LAYOUT = "row-major"
TYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
)  # fmt: skip
"""Types of inputs and outputs, by their numpy names."""

_LARGEST_MANIFEST = 16 << 20
_LARGEST_NUMBER = 1 << 48
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size in bytes and SHA-256 of one file of the artifact."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class KernelUse:
    """One compiled function: its symbol, family and zero pattern, and how often a run calls it."""

    symbol: str
    family: str
    pattern: str
    calls: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything in `manifest.json`.

    Attributes:
        sparsec: Version that wrote the artifact.
        name: Prefix of the C functions.
        target: What it was compiled for.
        threads: How many threads its calls are cut for.
        source_sha256: Of the source model.
        recipe: The resolved recipe as text; empty if the model was compiled as it is.
        tolerance: Largest relative error (norm of the difference over norm) to the golden outputs.
        inputs: In order.
        outputs: In order.
        arena_bytes: Scratch memory of a run.
        weight_bytes: Size of `weights.bin`.
        code_bytes: Machine code and its constants, of the fastest variant.
        kernels: By symbol.
        files: Every other file of the artifact by name.
    """

    sparsec: str
    name: str
    target: Target
    threads: int
    source_sha256: str
    recipe: str
    tolerance: float
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    arena_bytes: int
    weight_bytes: int
    code_bytes: int
    kernels: tuple[KernelUse, ...]
    files: Mapping[str, FileEntry]

    def text(self) -> str:
        """The JSON text; equal manifests have equal text."""
        return json.dumps(_encode(self), indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def read(folder: Path) -> Manifest:
    """Read and check the manifest of an artifact, and that its files are there with the right sizes.

    Raises:
        ArtifactError: If the folder is no artifact, of another format version, malformed or incomplete.
    """
    manifest = parse(_text(folder), f"Artifact '{folder}'")
    for name, entry in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise _fault(folder, f"file '{name}' is missing or no plain file. {_REMEDY}")
        found = path.stat().st_size
        if found != entry.bytes:
            raise _fault(folder, f"file '{name}' has {found} bytes, expected {entry.bytes}. {_REMEDY}")
    return manifest


_REMEDY = "Copy the artifact again, or compile it again."


def _fault(folder: Path, found: str) -> ArtifactError:
    return ArtifactError(f"Artifact '{folder}': {found}")


def _text(folder: Path) -> str:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise _fault(folder, "no such folder. Name a folder that 'sparsec compile' wrote.")
    if path.is_symlink() or not path.is_file():
        raise _fault(folder, f"found no '{MANIFEST}'. Name a folder that 'sparsec compile' wrote.")
    if path.stat().st_size > _LARGEST_MANIFEST:
        raise _fault(folder, f"'{MANIFEST}' is larger than {_LARGEST_MANIFEST} bytes. {_REMEDY}")
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _fault(folder, f"cannot read '{MANIFEST}': {error}. {_REMEDY}") from error


def parse(text: str, where: str = "Manifest") -> Manifest:
    """Read the JSON text strictly: every key present, none unknown, every value of its type and in its bounds.

    Raises:
        ArtifactError: Naming the key, what was found and what was expected.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"{where}: '{MANIFEST}' is not JSON: {error}. {_REMEDY}"
        raise ArtifactError(msg) from error
    version = data.get("format") if isinstance(data, dict) else None
    if version != FORMAT or isinstance(version, bool):
        remedy = "Use the sparsec that wrote it, or compile it again."
        msg = f"{where}: found format {str(version)[:20]!r}, expected {FORMAT}. {remedy}"
        raise ArtifactError(msg)
    try:
        return _manifest(data)
    except _Mismatch as error:
        msg = f"{where}: '{MANIFEST}' is malformed at {error}. {_REMEDY}"
        raise ArtifactError(msg) from error


class _Mismatch(Exception):
    """What does not fit: key, found, expected."""


def _encode(m: Manifest) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "sparsec": m.sparsec,
        "name": m.name,
        "target": str(m.target),
        "threads": m.threads,
        "source": {"sha256": m.source_sha256},
        "recipe": m.recipe,
        "tolerance": m.tolerance,
        "inputs": [_encode_port(port) for port in m.inputs],
        "outputs": [_encode_port(port) for port in m.outputs],
        "sizes": {"arena": m.arena_bytes, "weights": m.weight_bytes, "code": m.code_bytes},
        "kernels": [
            {"symbol": k.symbol, "family": k.family, "pattern": k.pattern, "calls": k.calls}
            for k in sorted(m.kernels, key=lambda kernel: kernel.symbol)
        ],
        "files": {name: {"bytes": f.bytes, "sha256": f.sha256} for name, f in sorted(m.files.items())},
    }


def _encode_port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "type": port.dtype, "shape": list(port.shape), "layout": LAYOUT}


def _manifest(data: Any) -> Manifest:
    keys = ("format", "sparsec", "name", "target", "threads", "source", "recipe", "tolerance", "inputs", "outputs",
            "sizes", "kernels", "files")  # fmt: skip
    top = _object(data, "the top", keys)
    sizes = _object(top["sizes"], "'sizes'", ("arena", "weights", "code"))
    target = _target(top["target"])
    return Manifest(
        sparsec=_string(top["sparsec"], "'sparsec'"),
        name=_matching(top["name"], "'name'", _IDENTIFIER, "a C identifier"),
        target=target,
        threads=_threads(top["threads"], target),
        source_sha256=_sha256(_object(top["source"], "'source'", ("sha256",))["sha256"], "'source'"),
        recipe=_string(top["recipe"], "'recipe'"),
        tolerance=_tolerance(top["tolerance"]),
        inputs=_ports(top["inputs"], "inputs"),
        outputs=_ports(top["outputs"], "outputs"),
        arena_bytes=_number(sizes["arena"], "'sizes.arena'"),
        weight_bytes=_number(sizes["weights"], "'sizes.weights'"),
        code_bytes=_number(sizes["code"], "'sizes.code'"),
        kernels=tuple(_list(top["kernels"], "'kernels'", _kernel)),
        files=_files(top["files"], _number(sizes["weights"], "'sizes.weights'")),
    )


def _object(value: Any, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
    _require(isinstance(value, dict), where, value, "an object")
    _require(set(value) == set(keys), where, sorted(value), f"the keys {', '.join(keys)}")
    return dict(value)


def _list(value: Any, where: str, read_item: Callable[[Any, str], Any]) -> list[Any]:
    _require(isinstance(value, list), where, value, "a list")
    return [read_item(item, f"{where}[{i}]") for i, item in enumerate(value)]


def _string(value: Any, where: str) -> str:
    _require(isinstance(value, str), where, value, "a string")
    return str(value)


def _matching(value: Any, where: str, pattern: re.Pattern[str], expected: str) -> str:
    _require(isinstance(value, str) and pattern.fullmatch(value) is not None, where, value, expected)
    return str(value)


def _sha256(value: Any, where: str) -> str:
    return _matching(value, where, _SHA256, "64 hexadecimal digits")


def _number(value: Any, where: str) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    _require(whole and 0 <= value <= _LARGEST_NUMBER, where, value, f"a whole number up to {_LARGEST_NUMBER}")
    return int(value)


def _threads(value: Any, target: Target) -> int:
    whole, most = isinstance(value, int) and not isinstance(value, bool), most_threads(target)
    _require(whole and 1 <= value <= most, "'threads'", value, f"a whole number in 1..{most} for target '{target}'")
    return int(value)


def _tolerance(value: Any) -> float:
    real = isinstance(value, float | int) and not isinstance(value, bool)
    _require(real and 0 <= value <= 1, "'tolerance'", value, "a number in 0..1")
    return float(value)


def _target(value: Any) -> Target:
    try:
        target = Target.parse(_string(value, "'target'"))
    except TargetError as error:
        msg = f"'target': {error}"
        raise _Mismatch(msg) from error
    _require(str(target) == value, "'target'", value, f"'{target}'")
    return target


def _ports(value: Any, key: str) -> tuple[Port, ...]:
    ports = tuple(_list(value, f"'{key}'", _port))
    names = [port.name for port in ports]
    _require(len(set(names)) == len(names), f"'{key}'", names, "names that differ")
    return ports


def _port(value: Any, where: str) -> Port:
    item = _object(value, where, ("name", "type", "shape", "layout"))
    _require(item["type"] in TYPES, f"{where}.type", item["type"], f"one of {', '.join(TYPES)}")
    _require(item["layout"] == LAYOUT, f"{where}.layout", item["layout"], f"'{LAYOUT}'")
    shape = tuple(_list(item["shape"], f"{where}.shape", _number))
    _require(len(shape) <= 64 and prod(shape) <= _LARGEST_NUMBER, f"{where}.shape", shape, "a shape that fits memory")
    return Port(_string(item["name"], f"{where}.name"), item["type"], shape)


def _kernel(value: Any, where: str) -> KernelUse:
    item = _object(value, where, ("symbol", "family", "pattern", "calls"))
    texts = {key: _string(item[key], f"{where}.{key}") for key in ("symbol", "family", "pattern")}
    return KernelUse(**texts, calls=_number(item["calls"], f"{where}.calls"))


def _files(value: Any, weight_bytes: int) -> dict[str, FileEntry]:
    _require(isinstance(value, dict), "'files'", value, "an object")
    files = {_file_name(name): _file(entry, f"'files.{name}'") for name, entry in value.items()}
    for name in (WEIGHTS, SELFTEST, REPORT):
        _require(name in files, "'files'", sorted(files), f"'{name}' among them")
    found = files[WEIGHTS].bytes
    _require(found == weight_bytes, f"'files.{WEIGHTS}'", found, f"{weight_bytes} bytes, as in 'sizes'")
    return files


def _file_name(name: str) -> str:
    plain = _FILE_NAME.fullmatch(name) is not None and name != MANIFEST
    _require(plain, "'files'", name, "plain file names (letters, digits, '_', '.', '-')")
    return name


def _file(value: Any, where: str) -> FileEntry:
    item = _object(value, where, ("bytes", "sha256"))
    return FileEntry(_number(item["bytes"], f"{where}.bytes"), _sha256(item["sha256"], f"{where}.sha256"))


def _require(condition: bool, where: str, found: object, expected: str) -> None:
    if not condition:
        msg = f"{where}: found {str(found)[:200]!r}, expected {expected}"
        raise _Mismatch(msg)
