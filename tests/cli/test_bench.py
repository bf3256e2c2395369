# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import pytest

from sparsec.cli.contenders import Contender, race
from sparsec.compiler.target import host


def test_json_has_the_stable_keys(compiled, model, sparsec):
    against = ("--against", "onnxruntime", "--model", model, "--against", f"onnxruntime:{model}", "--against", compiled)
    done = sparsec("bench", compiled, *against, "--runs", "3", "--json")
    assert done.exit_code == 0, done.stderr
    data = json.loads(done.stdout)
    assert data.keys() == {"median_ms", "runs", "threads", "against"}
    assert data["runs"] == 3
    assert data["median_ms"] > 0
    assert [other["name"] for other in data["against"]] == ["onnxruntime", "onnxruntime", str(compiled)]
    for other in data["against"]:
        assert other.keys() == {"name", "median_ms", "ratio"}
        assert other["ratio"] == pytest.approx(other["median_ms"] / data["median_ms"])


def test_the_table_names_everyone(compiled, model, sparsec):
    done = sparsec("bench", compiled, "--against", f"onnxruntime:{model}", "--runs", "3")
    assert done.exit_code == 0, done.stderr
    assert "onnxruntime" in done.stdout
    assert "3 runs each, one thread" in done.stdout


def test_an_emulated_target_is_not_timed(compiled, here, refused):
    other = "arm" if host().name == "x86" else "x86"
    shutil.copytree(compiled, here / "other")
    manifest = here / "other" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"{host()}"', f'"{other}"'))
    refused("bench", "other", says=(f"'{other}'", "emulation"))
    refused("bench", compiled, "--against", "other", says="emulation")


def test_artifacts_with_other_inputs_are_not_compared(compiled, here, refused):
    shutil.copytree(compiled, here / "other")
    manifest = here / "other" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"name": "x"', '"name": "z"'))
    refused("bench", compiled, "--against", "other", says=("'other'", "inputs differ"))


def test_runs_take_turns():
    calls = []
    contenders = [Contender(name, lambda name=name: calls.append(name) or _wait()) for name in "ab"]
    assert len(race(contenders, 5, lambda *_: None)) == 2
    assert "".join(calls)[-10:] == "ababababab"


def _wait():
    """Longer than the least time of a run, so that it is not repeated."""
    from time import sleep

    sleep(0.005)
