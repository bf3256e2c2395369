# SPDX-License-Identifier: Apache-2.0
"""Importing sparsec, and asking for help, loads none of the heavy packages."""

import subprocess
import sys

import pytest

HEAVY = ("tvm", "torch", "onnxruntime", "onnx", "wasmtime", "matplotlib", "jinja2")


@pytest.mark.parametrize(
    "code",
    ["import sparsec", "import sparsec.cli.main as m\ntry: m.main(['--help'])\nexcept SystemExit: pass"],
    ids=["import", "help"],
)
def test_heavy_packages_stay_out(code):
    ask = f"{code}\nimport sys; print('loaded:', [n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("loaded: []")
