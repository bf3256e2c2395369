# SPDX-License-Identifier: Apache-2.0
"""The files that peers read: ONNX, layers for TensorFlow.js, TensorFlow Lite."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks import peers_layers
from benchmarks.peers_models import Network, older
from benchmarks.workers import python

HERE = Path(__file__).resolve().parent
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Files:
    """Where the network stands, in each form; `layers` is the folder of its float32 layers."""

    float32_onnx: Path
    s8s8_onnx: Path
    u8s8_onnx: Path
    layers: Path
    float32_tflite: Path
    int8_tflite: Path


def write(net: Network, folder: Path) -> Files:
    """The network in the forms that web peers read."""
    names = ("float32.onnx", "s8s8.onnx", "u8s8.onnx", "float32", "float32.tflite", "int8.tflite")
    made = Files(*(folder / name for name in names))
    onnx.save(net.folded, made.float32_onnx)
    onnx.save(net.s8s8, made.s8s8_onnx)
    onnx.save(net.u8s8, made.u8s8_onnx)
    tflite(net.folded, made.float32_tflite, made.layers)
    tflite(net.s8s8, made.int8_tflite, folder / "int8")
    return made


def tflite(model: onnx.ModelProto, file: Path, layers: Path, *, sparse: bool = False) -> None:
    """Write a model as layers, in a folder, and as TensorFlow Lite.

    Without the environment that writes TensorFlow Lite the file stays away, and engines that want it are left out.

    Raises:
        subprocess.CalledProcessError: If writing fails.
    """
    layers.mkdir(exist_ok=True)
    peers_layers.write(model, layers)
    try:
        writer = python("litert")
    except RuntimeError as error:
        print(f"No '{file.name}': {error}", file=sys.stderr)
        return
    command = [str(writer), str(HERE / "peers_tflite.py"), str(layers), str(file)]
    subprocess.run([*command, "sparse"] if sparse else command, check=True, capture_output=True)


def for_workers(net: Network, folder: Path) -> list[tuple[str, str, Path]]:
    """Engine, what the network is, and file."""
    dense = {"float32": net.folded, "int8": net.u8s8}
    sparse = {"float32, 4x4 at 0.5": net.pruned, "int8, 4x4 at 0.5": net.pruned_u8s8}
    found = []
    for number, (name, model) in enumerate((dense | sparse).items()):
        file = folder / f"opset13-{number}.onnx"
        onnx.save(older(model, 13, 8), file)  # the newest that DeepSparse knows
        found += [
            (engine, name, file) for engine in ("openvino", "deepsparse") if name in dense or engine != "openvino"
        ]
    for name, model in (("float32", net.folded), ("int8", net.s8s8)):
        file = folder / f"{name}-x86.tflite"
        tflite(model, file, folder / f"{name}-x86")
        found.append(("litert", name, file))
    return sorted(found)


def inputs(arrays: Arrays, folder: Path) -> list[dict[str, Any]]:
    """Inputs in files of plain float32, as contenders.mjs reads them."""
    described = []
    for number, (name, array) in enumerate(arrays.items()):
        path = folder / f"input{number}.bin"
        path.write_bytes(np.ascontiguousarray(array, np.float32).tobytes())
        described.append({"name": name, "file": str(path), "shape": list(array.shape)})
    return described


def archive(arrays: Arrays, folder: Path) -> Path:
    """Inputs in one file, as workers read them."""
    path = folder / "inputs.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def served(entries: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The same entries with the addresses that browser.py serves the folder at."""

    def moved(path: str) -> str:
        return f"/files/{Path(path).relative_to(folder)}"

    return [
        {**entry, "file": moved(entry["file"]), "inputs": [{**i, "file": moved(i["file"])} for i in entry["inputs"]]}
        for entry in entries
    ]
