# SPDX-License-Identifier: Apache-2.0
"""Run an x86-64 artifact in this process."""

from pathlib import Path

from sparsec.backends.native import Runner
from sparsec.compiler.manifest import Manifest


def open_runner(folder: Path, manifest: Manifest) -> Runner:
    """Load the library.

    Raises:
        TargetError: If this machine's processor lacks the target's features.
    """
    return Runner(folder, manifest)
