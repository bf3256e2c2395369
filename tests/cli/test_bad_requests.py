# SPDX-License-Identifier: Apache-2.0
"""Wrong usage, recipes, data, output folders and tools: the exit code, one message, nothing left behind."""

import errno
import importlib.util
import json
import os
import shutil

import numpy as np
import pytest

TWO = ("compile", "two.onnx", "--target", "host")
PRUNE = "prune-blocks{density=0.5 min_weights=1}"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("compile", "two.onnx"), "--target"),
        (("compile", "two.onnx", "--target", "wasn"), ("--target", "'wasm'")),
        (("compile", "two.onnx", "--target", "x86+avx512"), ("--target", "avx512vnni")),
        ((*TWO, "--emit", "lvm"), ("--emit", "'llvm'")),
        ((*TWO, "--shape", "x"), ("--shape", "image=1x3x224x224")),
        ((*TWO, "--shape", "x=1x0"), ("--shape", "at least 1")),
        ((*TWO, "--shape", "x=1x16", "--shape", "x=1x16"), "twice"),
        ((*TWO, "--pass", "prune-block{}"), ("--pass", "'prune-blocks'")),
        ((*TWO, "--pass", "prune-blocks{row=4}"), ("--pass", "'rows'")),
        ((*TWO, "--pass", "prune-blocks{density=2}"), ("--pass", "density")),
        ((*TWO, "--seed", "-1"), "--seed"),
        ((*TWO, "--recipy", "x"), "--recipe"),
        ((*TWO, "--emit", "tir", "--json"), "--json"),
        (("compil", "two.onnx"), "compile"),
        (("list", "pases"), "'passes'"),
        (("run", "two"), "--input"),
        (("run", "two", "--input", "x.npz", "--tolerance", "nan"), "--tolerance"),
        (("bench", "two", "--against", "onnxruntime"), "--model"),
        (("inspect", ".", "--shape", "x=1"), "--shape"),
    ],
)
def test_wrong_usage_is_code_2_and_names_what_is_valid(arguments, says, model, refused):
    refused(*arguments, code=2, says=says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("version: 1\npasses:\n  - prune-block\n", ("line 3", "'prune-blocks'")),
        ("version: 1\npasses:\n  - prune-blocks:\n      row: 4\n", ("line 4", "'rows'")),
        ("version: 1\npases: []\n", ("line 2", "'passes'")),
        ("version: 2\npasses: []\n", "line 1"),
        ("version: 1\npasses: [\n", "line"),
        ("", "empty"),
    ],
)
def test_a_wrong_recipe_names_line_and_nearest(text, says, model, here, refused):
    (here / "recipe.yaml").write_text(text)
    refused(*TWO, "--recipe", "recipe.yaml", says=says)


def test_an_unknown_recipe_names_the_nearest(model, refused):
    refused(*TWO, "--recipe", "sparse-int", says="'sparse-int8'")


def calibration_without_samples(samples):
    return {"x": samples[:0]}


CALIBRATIONS = {
    "missing": (lambda x: {}, "no array"),
    "another name": (lambda x: {"z": x}, ("missing", "surplus")),
    "surplus": (lambda x: {"x": x, "z": x}, "surplus"),
    "wrong type": (lambda x: {"x": x.astype(np.float64)}, "float64"),
    "wrong shape": (lambda x: {"x": x[:, :15]}, "15"),
    "not a number": (lambda x: {"x": np.where(x == x.max(), np.nan, x).astype(np.float32)}, "nan"),
    "infinite": (lambda x: {"x": np.where(x == x.max(), np.inf, x).astype(np.float32)}, "inf"),
    "no samples": (calibration_without_samples, "no samples"),
}


@pytest.mark.parametrize("kind", CALIBRATIONS)
def test_wrong_calibration_is_one_error(kind, model, here, samples, refused):
    make, says = CALIBRATIONS[kind]
    np.savez(here / "calibration.npz", **make(samples))
    refused(*TWO, "--pass", PRUNE, "--calibration", "calibration.npz", says=says)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no archive", np.random.default_rng(0).bytes(500)])
def test_a_damaged_calibration_file_is_one_error(data, model, here, refused):
    (here / "calibration.npz").write_bytes(data)
    refused(*TWO, "--calibration", "calibration.npz", says="calibration.npz")


def test_pickled_calibration_is_refused(model, here, refused):
    np.savez(here / "calibration.npz", x=np.array([{"a": 1}], dtype=object))
    refused(*TWO, "--calibration", "calibration.npz", says="calibration.npz")


def test_a_pass_that_needs_samples_says_so(model, refused):
    refused(*TWO, "--recipe", "int8", says=("quantize", "--calibration"))


def test_a_file_in_the_way_stays(model, here, refused):
    (here / "out").write_text("mine")
    refused(*TWO, "-o", "out", says="-o")
    assert (here / "out").read_text() == "mine"


def test_a_folder_with_other_files_stays(model, here, refused):
    (here / "out").mkdir()
    (here / "out" / "notes.txt").write_text("mine")
    refused(*TWO, "-o", "out", says="no artifact")
    assert (here / "out" / "notes.txt").read_text() == "mine"


def test_the_artifact_of_another_model_stays(model, here, compiled, refused):
    shutil.copytree(compiled, here / "out")
    manifest = here / "out" / "manifest.json"
    before = manifest.read_text()
    data = json.loads(before)
    data["source"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(data))
    refused(*TWO, "-o", "out", says="another model")


def test_a_read_only_folder_is_refused_before_compiling(model, here, refused, monkeypatch):
    folder = here / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    monkeypatch.setattr("sparsec.compiler.driver.compress", lambda job: pytest.fail("compiled before looking"))
    refused(*TWO, "-o", folder / "out", says="read-only")
    folder.chmod(0o755)


def test_a_full_disk_leaves_nothing(model, here, refused, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sparsec.compiler.golden.save", full)
    refused(*TWO, "-o", "out", says=("No space left", "'" + str(here / "out") + "'"))


def test_a_missing_linker_says_what_to_install(model, refused, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "ziglang" else real(name, *rest)
    )
    refused("compile", "two.onnx", "--target", "wasm", says=("ziglang", "pip install"))


def test_the_source_is_not_overwritten(model, refused):
    before = model.read_bytes()
    refused(*TWO, "--emit", "onnx", "-o", "two.onnx", says="the input itself")
    assert model.read_bytes() == before


INPUTS = {
    "missing": (lambda x: {}, "'x'"),
    "surplus": (lambda x: {"x": x[:1], "z": x[:1]}, "'z'"),
    "wrong type": (lambda x: {"x": x[:1].astype(np.int32)}, ("int32", "float32")),
    "wrong shape": (lambda x: {"x": x[:1, :15]}, "[1, 15]"),
    "no samples": (lambda x: {"x": x[:0]}, "at least 1"),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_wrong_inputs_are_one_error(kind, compiled, here, samples, refused):
    make, says = INPUTS[kind]
    np.savez(here / "inputs.npz", **make(samples))
    refused("run", compiled, "--input", "inputs.npz", "--output", "out.npz", says=says)


@pytest.mark.parametrize("command", ["verify", "bench", "inspect"])
def test_a_folder_that_is_no_artifact(command, here, refused):
    (here / "folder").mkdir()
    refused(command, "folder", says="manifest.json")


def test_a_damaged_artifact_does_not_verify(compiled, here, refused):
    shutil.copytree(compiled, here / "out")
    path = here / "out" / "weights.bin"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    refused("verify", "out", says="weights.bin")


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"layers": 3, "steps": []}', '{"layers": [{"name": 1}], "steps": []}']
)
def test_a_damaged_report_is_one_error(text, compiled, here, refused):
    shutil.copytree(compiled, here / "out")
    (here / "out" / "report.json").write_text(text)
    manifest = json.loads((here / "out" / "manifest.json").read_text())
    manifest["files"]["report.json"]["bytes"] = len(text)
    (here / "out" / "manifest.json").write_text(json.dumps(manifest))
    refused("inspect", "out", says="report.json")
