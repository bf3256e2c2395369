# SPDX-License-Identifier: Apache-2.0
"""Engines that need environments of their own, as processes that run one inference whenever they are asked to.

The time is taken inside the process. An environment is made below `.cache/` the first time, from the package index.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import Milliseconds

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / ".cache" / "benchmarks"
ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {
    "openvino": ("openvino==2026.4.1", "numpy==2.4.6"),
    "deepsparse": ("deepsparse==1.8.0", "numpy==1.26.4", "onnx==1.14.1"),
    "litert": ("ai-edge-litert==2.3.0", "numpy==2.4.6"),
}
"""Packages by engine; DeepSparse, whose last version this is, needs old ones, and Python 3.11."""
_OLD_PYTHON = {"deepsparse": "python3.11"}


class Worker:
    """One engine with one model.

    Attributes:
        name: Engine and version.
        output: The first output, flat.
    """

    def __init__(self, engine: str, model: Path, inputs: Path) -> None:
        """Start the process.

        Args:
            engine: Key of `ENVIRONMENTS`.
            model: The file it reads.
            inputs: An .npz file with the inputs by name.

        Raises:
            RuntimeError: If the engine refuses the model.
        """
        command = [str(python(engine)), str(HERE / "workers_engine.py"), engine, str(model), str(inputs)]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
            "OMP_NUM_THREADS": "1"
        }
        log = model.with_suffix(f".{engine}.log")
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        self._log = log
        first = self._line()
        self.name: str = first["name"]
        self.output: NDArray[Any] = np.array(first["output"], np.float32)

    def __call__(self) -> Milliseconds:
        """Run one inference."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Milliseconds(self._line())

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            tail = self._log.read_text("utf-8", errors="replace").strip().splitlines()[-3:]
            msg = f"The process ended with status {status}: {' '.join(tail)}"
            raise RuntimeError(msg)
        return json.loads(line)


def python(engine: str) -> Path:
    """The engine's Python, its environment made if need be.

    Raises:
        RuntimeError: If there is no fitting Python, or the packages cannot be installed.
    """
    folder = CACHE / engine
    found, stamp = folder / "bin" / "python", folder / "packages"
    packages = "\n".join(ENVIRONMENTS[engine])
    if stamp.exists() and stamp.read_text("utf-8") == packages:
        return found
    base = shutil.which(_OLD_PYTHON.get(engine, sys.executable))
    if base is None:
        msg = f"'{engine}' needs '{_OLD_PYTHON[engine]}', which is not on the path."
        raise RuntimeError(msg)
    shutil.rmtree(folder, ignore_errors=True)
    install = [str(found), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *ENVIRONMENTS[engine]]
    for command in ([base, "-m", "venv", str(folder)], install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            msg = f"'{' '.join(command[:4])} ...' failed: {done.stderr.strip()[-500:]}"
            raise RuntimeError(msg)
    stamp.write_text(packages, "utf-8")
    return found
