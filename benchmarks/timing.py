# SPDX-License-Identifier: Apache-2.0
"""Interleaved timings: every round runs each contender once; medians and ratios of medians are what counts."""

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
Arrays = Mapping[str, NDArray[Any]]


def interleave(contenders: Mapping[str, Callable[[], object]], rounds: int = 21) -> dict[str, float]:
    """Median milliseconds of each contender, in this process."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-3, rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if number >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: median(values) for name, values in times.items()}


def interleave_node(
    entries: Sequence[Mapping[str, Any]], inputs: Arrays, folder: Path, rounds: int = 15
) -> dict[str, float]:
    """Median milliseconds of each entry (see interleave.mjs) in one Node process, with relaxed SIMD.

    Raises:
        subprocess.CalledProcessError: If Node or a contender fails.
    """
    files = []
    for number, (name, array) in enumerate(inputs.items()):
        path = folder / f"input{number}.bin"
        path.write_bytes(np.ascontiguousarray(array, np.float32).tobytes())
        files.append({"name": name, "file": str(path), "shape": list(array.shape)})
    config = {"rounds": rounds, "entries": [{**entry, "inputs": files} for entry in entries]}
    command = ["node", *relaxed_flag(), str(HERE / "interleave.mjs"), json.dumps(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: median(values) for name, values in json.loads(done.stdout).items()}


def relaxed_flag() -> list[str]:
    """Node 20 knows relaxed SIMD only behind a flag; later versions do not know the flag."""
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return ["--experimental-wasm-relaxed-simd"] if version.startswith("v20.") else []


def install_peers() -> None:
    """Install the npm peers next to this file, at the versions of package.json, where that has not been done.

    Their install scripts are not run: they would fetch what is not needed here.

    Raises:
        subprocess.CalledProcessError: If npm fails.
    """
    if any(_installed(name) != version for name, version in npm_versions().items()):
        command = ["npm", "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
        subprocess.run(command, cwd=HERE, check=True)


def npm_versions() -> dict[str, str]:
    """Version of each npm peer by name."""
    found: dict[str, str] = json.loads((HERE / "package.json").read_text("utf-8"))["dependencies"]
    return found


def _installed(name: str) -> str | None:
    path = HERE / "node_modules" / name / "package.json"
    return json.loads(path.read_text("utf-8"))["version"] if path.exists() else None


def onnxruntime_session(model: bytes) -> Any:
    """An onnxruntime session with one thread and all optimizations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
