# SPDX-License-Identifier: Apache-2.0
"""Open an artifact from its folder: here, in the driver's layer, artifacts meet the back ends that can run them."""

from importlib import import_module
from pathlib import Path

from sparsec.compiler import manifest
from sparsec.compiler.artifact import Artifact, Runner
from sparsec.compiler.manifest import Manifest

_RUNNERS = {
    "x86": "sparsec.backends.x86.run",
    "arm": "sparsec.backends.arm.run",
    "wasm": "sparsec.backends.wasm.run",
}
"""Module of each target with a function ``open_runner(folder, manifest)``."""


def load(folder: str | Path) -> Artifact:
    """Read an artifact; its code is loaded on the first run.

    Raises:
        ArtifactError: If the folder is no artifact, malformed or incomplete. `Artifact.verify` checks more.
    """
    path = Path(folder).resolve()
    return Artifact(path, manifest.read(path), open_runner)


def open_runner(folder: Path, manifest_: Manifest) -> Runner:
    """Load the code of the artifact in `folder` with its target's runner.

    Raises:
        TargetError: If this machine's processor cannot run it.
        ToolchainError: If an emulator or engine is missing.
    """
    runner: Runner = import_module(_RUNNERS[manifest_.target.name]).open_runner(folder, manifest_)
    return runner
