# SPDX-License-Identifier: Apache-2.0
"""Interleaved timings: every round runs each contender once; medians and ratios of medians are what counts."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from sparsec.backends.tuning.timing import relaxed_flag

HERE = Path(__file__).resolve().parent


class Milliseconds(float):
    """A time that a contender has taken itself."""


def interleave(contenders: Mapping[str, Callable[[], object]], rounds: int = 21) -> dict[str, float]:
    """Median milliseconds of each contender: measured here, or by itself if it returns `Milliseconds`."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-3, rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            returned = run()
            elapsed = returned if isinstance(returned, Milliseconds) else 1e3 * (time.perf_counter() - start)
            if number >= 0:
                times[name].append(elapsed)
    return {name: median(values) for name, values in times.items()}


def interleave_node(
    entries: Sequence[Mapping[str, Any]], folder: Path, rounds: int = 21, flags: Sequence[str] | None = None
) -> dict[str, Any]:
    """What each entry (see contenders.mjs) computes and how long that takes, in one Node process.

    Args:
        entries: The contenders.
        folder: For temporary files.
        rounds: How often each is timed; 0: not warmed up either.
        flags: Of Node; None: those of `sparsec.backends.tuning.timing.relaxed_flag`.

    Returns:
        By name: ``times`` of all rounds in milliseconds, ``first`` with loading, ``output`` as numbers, or ``error``.

    Raises:
        RuntimeError: If Node fails.
    """
    config, answer = folder / "config.json", folder / "found.json"
    config.write_text(json.dumps({"rounds": rounds, "warm": min(rounds, 3), "entries": entries}), "utf-8")
    command = ["node", *(relaxed_flag() if flags is None else flags), str(HERE / "interleave.mjs")]
    done = subprocess.run([*command, str(config), str(answer)], capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"Node ended with status {done.returncode}: {done.stderr.strip()[-1000:]}"
        raise RuntimeError(msg)
    found: dict[str, Any] = json.loads(answer.read_text("utf-8"))
    return found


def missing() -> str | None:
    """What this machine lacks to time WebAssembly in Node, beside peers from npm; None if nothing."""
    lacking = [name for name in ("node", "npm") if shutil.which(name) is None]
    return f"{' and '.join(lacking)} not found; install Node.js 20 or later with npm" if lacking else None


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


def ratio(rival: float | None, mine: float) -> str:
    """How many times faster than a rival, for a table; a dash where the rival did not run."""
    return "-" if rival is None else f"{rival / mine:.2f}x"


def onnxruntime_session(model: bytes) -> Any:
    """An onnxruntime session with one thread and all optimizations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
