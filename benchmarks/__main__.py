# SPDX-License-Identifier: Apache-2.0
"""Run every benchmark and write docs/benchmarks.md."""

import platform
import subprocess
from pathlib import Path

import sparsec
from benchmarks import efficientnet

DOC = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Time, print, write."""
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    parts = [
        "# Benchmarks\n",
        "Written by `make bench`. One thread; median of interleaved rounds in one process; above 1x is faster.\n",
        f"Machine: {_machine()}. sparsec {sparsec.__version__}, {', '.join(efficientnet.versions())}, Node {node}.\n",
        "## EfficientNet-Lite0\n",
        (efficientnet.__doc__ or "").partition("\n\n")[2],
    ]
    for table in efficientnet.tables():
        print(table, flush=True)
        parts.append(table)
    DOC.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
