# SPDX-License-Identifier: Apache-2.0
"""Running module scripts beside an artifact in Node."""

import json
import shutil
import subprocess

import pytest


def node_version():
    node = shutil.which("node")
    done = subprocess.run([node, "--version"], capture_output=True, text=True, check=True) if node else None
    return int(done.stdout.lstrip("v").split(".")[0]) if done else 0


needs_node = pytest.mark.skipif(node_version() < 20, reason="found no Node.js 20 or newer")

_RELAXED = "--experimental-wasm-relaxed-simd"
FLAGS = {(): "plain"} | ({(_RELAXED,): "flag", (_RELAXED, "--no-liftoff"): "optimized"} if node_version() == 20 else {})
"""Ways to start Node: version 20 knows relaxed SIMD behind a flag, and computes it wrongly in its baseline compiler."""


def node(folder, script, *flags):
    """Run a module script beside an artifact and parse what it prints as JSON."""
    done = subprocess.run(
        ["node", *flags, "--input-type=module", "-e", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
