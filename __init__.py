# SPDX-License-Identifier: Apache-2.0
"""sparsec: compress a trained network and compile it, ahead of time, to sparse kernels for one target."""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsec.compiler.artifact import Artifact
    from sparsec.compiler.driver import compile
    from sparsec.compiler.load import load
    from sparsec.compiler.pass_manager import PassManager
    from sparsec.compiler.recipe import Recipe
    from sparsec.compiler.target import Target

__version__ = "0.1.0"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # set before onnxruntime is first imported: no network at run time

_HOME = {
    "Artifact": "sparsec.compiler.artifact",
    "PassManager": "sparsec.compiler.pass_manager",
    "Recipe": "sparsec.compiler.recipe",
    "Target": "sparsec.compiler.target",
    "compile": "sparsec.compiler.driver",
    "load": "sparsec.compiler.load",
}
__all__ = ["Artifact", "PassManager", "Recipe", "Target", "compile", "load"]


def __getattr__(name: str) -> object:
    """Load a public name on first use, so that ``import sparsec`` stays light."""
    if name not in _HOME:
        msg = f"module 'sparsec' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_HOME[name]), name)
