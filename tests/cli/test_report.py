# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import pytest

from sparsec.compiler import manifest
from sparsec.compiler.artifact import file_entry
from tests.cli.conftest import names


@pytest.fixture
def copied(compiled, here):
    """A copy of the artifact that may be changed."""
    shutil.copytree(compiled, here / "copy")
    return here / "copy"


def rewritten(folder, change):
    """Change the report, and its entry in the manifest."""
    path = folder / "report.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    text = json.loads((folder / manifest.MANIFEST).read_text())
    entry = file_entry(path)
    text["files"]["report.json"] = {"bytes": entry.bytes, "sha256": entry.sha256}
    (folder / manifest.MANIFEST).write_text(json.dumps(text))


def test_it_makes_the_page_that_the_artifact_carries(compiled, here, sparsec):
    done = sparsec("report", compiled)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "page       report.html\n"
    assert (here / "report.html").read_bytes() == (compiled / "report.html").read_bytes()
    assert names(here) == ["report.html"]


def test_another_file_and_one_that_is_replaced(compiled, here, sparsec):
    (here / "page.html").write_text("old")
    assert sparsec("report", compiled, "-o", "page.html").exit_code == 0
    assert (here / "page.html").read_bytes() == (compiled / "report.html").read_bytes()


def test_an_old_artifact_has_a_page(copied, here, sparsec):
    def age(data):
        for key in ("profile", "breakeven"):
            data.pop(key, None)
        for layer in data["layers"]:
            for key in ("shape", "precision", "breakeven_density"):
                layer.pop(key, None)

    rewritten(copied, age)
    done = sparsec("report", copied)
    assert done.exit_code == 0, done.stderr
    assert "a machine that the report does not name" in (here / "report.html").read_text()


def test_a_layer_with_a_hostile_name(copied, here, sparsec):
    evil = "\"'><script>alert(1)</script>\x1b[2J"
    rewritten(copied, lambda data: data["layers"][0].update(name=evil))
    assert sparsec("report", copied).exit_code == 0
    text = (here / "report.html").read_text()
    assert text.count("<script") == 1
    assert "\x1b" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J" in text


def test_it_does_not_write_into_the_artifact(copied, refused, monkeypatch):
    message = "error: Output file 'copy/report.html' is in the artifact, whose manifest it would break. "
    refused("report", copied, "-o", "copy/report.html", says=message + "Choose another file with -o.")
    monkeypatch.chdir(copied)
    refused("report", ".", says="Output file 'report.html' is in the artifact")


def test_a_damaged_report(copied, refused):
    rewritten(copied, lambda data: data["totals"].pop("price"))
    refused("report", copied, says="file 'report.json' is damaged at 'totals.price'. Compile the model again.")


def test_what_is_no_artifact(here, refused):
    (here / "folder").mkdir()
    refused("report", "folder", says="Name a folder that 'sparsec compile' wrote.")
    refused("report", "nothing", says="no such folder")


def test_a_folder_in_the_place_of_the_page(compiled, here, refused):
    (here / "report.html").mkdir()
    refused("report", compiled, says="Output file 'report.html' is a folder. Choose another file.")
