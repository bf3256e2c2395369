# SPDX-License-Identifier: Apache-2.0
"""The list of packages in setup.cfg is the folders, and nothing else is shipped."""

from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("compiler", "passes", "backends", "cli", "models")


def listed():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    return set(config["options"]["packages"].split())


def test_packages_are_the_folders():
    found = {path.parent for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert listed() == {"sparsec", *(".".join(("sparsec", *p.relative_to(ROOT).parts)) for p in found)}


def test_every_package_says_what_it_is():
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("__init__.py"):
            assert '"""' in path.read_text(), path


def test_no_other_module_stands_at_the_root():
    assert [path.name for path in ROOT.glob("*.py")] == ["__init__.py"]


def test_files_are_short():
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in (*FOLDERS, "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 500
    }
    assert long == {}


def test_sources_name_their_licence():
    for folder in (*FOLDERS, "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            assert path.read_text().startswith("# SPDX-License-Identifier: Apache-2.0"), path
