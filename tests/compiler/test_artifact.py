# SPDX-License-Identifier: Apache-2.0
import errno
import json
import os
import shutil
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

import sparsec
from sparsec.compiler import artifact, golden, manifest, output_folder
from sparsec.compiler.artifact import Artifact, Code, Contents
from sparsec.compiler.errors import ArtifactError, DataError
from sparsec.compiler.golden import Golden, relative_error
from sparsec.compiler.load import load
from sparsec.compiler.lowering.kernel import KernelSpec
from sparsec.compiler.lowering.ops import Softmax
from sparsec.compiler.lowering.program import Call, Port, Program, Ref
from sparsec.compiler.target import Target

SPEC = KernelSpec("softmax", Softmax(2, 3))
X, Y = Port("x", "float32", (2, 3)), Port("y", "float32", (2, 3))
PROGRAM = Program(
    "m", (X,), (Y,), (Call(SPEC.symbol, (Ref("input"), Ref("output")), "l"), Call("other", (), "k")),
    {SPEC.symbol: SPEC}, {}, 64, b"w" * 64, (),
)  # fmt: skip
INPUT = np.arange(6, dtype=np.float32).reshape(2, 3)
CONTENTS = Contents(
    PROGRAM, Target("x86"), "a" * 64, "version: 1\n", Golden({"x": INPUT}, {"y": INPUT * 2}), {"layers": [1.5]}
)


class Doubler:
    """Runs the model that doubles."""

    opened = 0
    closed = 0

    def __init__(self, folder, manifest_):
        Doubler.opened += 1

    def run(self, inputs):
        return [inputs[0] * 2]

    def close(self):
        Doubler.closed += 1


def emit(folder):
    (folder / "code").write_bytes(b"code")
    return Code(4, 128)


def write(folder, contents=CONTENTS, code=emit):
    return artifact.write(folder, contents, code, Doubler)


@pytest.fixture
def written(tmp_path):
    return write(tmp_path / "out")


# Writing


def test_manifest_tells_everything(written):
    data = json.loads((written.folder / "manifest.json").read_text())
    files = data.pop("files")
    assert data == {
        "format": 1,
        "sparsec": sparsec.__version__,
        "name": "m",
        "target": "x86",
        "threads": 1,
        "source": {"sha256": "a" * 64},
        "recipe": "version: 1\n",
        "tolerance": 1e-4,
        "inputs": [{"name": "x", "type": "float32", "shape": [2, 3], "layout": "row-major"}],
        "outputs": [{"name": "y", "type": "float32", "shape": [2, 3], "layout": "row-major"}],
        "sizes": {"arena": 128, "weights": 64, "code": 4},
        "kernels": [
            {"symbol": "other", "family": "fallback", "pattern": "dense", "calls": 1},
            {"symbol": SPEC.symbol, "family": "softmax", "pattern": "dense", "calls": 1},
        ],
    }
    assert sorted(files) == ["code", "report.json", "selftest.npz", "weights.bin"]
    assert sorted(path.name for path in written.folder.iterdir()) == ["code", "manifest.json", *sorted(files)[1:]]


def test_same_in_same_out(written, tmp_path):
    again = write(tmp_path / "elsewhere" / "again")
    for path in written.folder.iterdir():
        assert (again.folder / path.name).read_bytes() == path.read_bytes()


def test_nothing_else_is_left(written, tmp_path):
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, ArtifactError])
def test_a_failure_leaves_nothing(tmp_path, error):
    def fail(folder):
        emit(folder)
        raise error

    with pytest.raises(error):
        write(tmp_path / "new" / "deep" / "out", code=fail)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_failure_keeps_the_earlier_artifact(written, error):
    def fail(folder):
        raise error

    with pytest.raises(error):
        write(written.folder, code=fail)
    assert os.listdir(written.folder.parent) == ["out"]
    assert load(written.folder).manifest == written.manifest


def test_a_full_disk_is_one_clear_error(tmp_path):
    def full(folder):
        emit(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ArtifactError, match=r"writing failed: No space left on device\. Free space, or choose another"):
        write(tmp_path / "out", code=full)
    assert os.listdir(tmp_path) == []


def test_a_failing_rename_brings_the_earlier_artifact_back(written, monkeypatch):
    rename = Path.rename

    def fail_on_staging(path, target):
        if path.name.endswith(".tmp"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_on_staging)
    with pytest.raises(ArtifactError, match=r"Device or resource busy"):
        write(written.folder)
    assert os.listdir(written.folder.parent) == ["out"]
    assert load(written.folder).manifest == written.manifest


@pytest.mark.parametrize("place", ["out", "."])
def test_read_only_folders_are_refused(tmp_path, place):
    (tmp_path / "out").mkdir()
    (tmp_path / place).chmod(0o555)
    with pytest.raises(
        ArtifactError, match=rf"'{tmp_path / place}' is read-only\. Make it writable, or choose another"
    ):
        write(tmp_path / "out")
    (tmp_path / place).chmod(0o755)


def test_a_file_in_the_place_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ArtifactError, match=r"'.*/out' is no folder\. Choose another with -o"):
        write(tmp_path / "out")
    with pytest.raises(ArtifactError, match=r"'.*/out' is no folder\. Choose another with -o"):
        write(tmp_path / "out" / "deeper")


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")


def test_the_same_model_and_target_are_replaced(written):
    again = write(written.folder, replace(CONTENTS, recipe="other"))
    assert load(again.folder).manifest.recipe == "other"
    assert os.listdir(written.folder.parent) == ["out"]


OTHERS = {
    "model": (replace(CONTENTS, source_sha256="b" * 64), r"it holds the artifact of another model\. Remove it"),
    "target": (replace(CONTENTS, target=Target("arm")), r"it holds an artifact for another target, 'x86'\. Remove it"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_artifact_is_refused_and_kept(written, case):
    contents, message = OTHERS[case]
    with pytest.raises(ArtifactError, match=message):
        write(written.folder, contents)
    with pytest.raises(ArtifactError, match=message):
        artifact.check_output(written.folder, contents.target, contents.source_sha256)
    assert load(written.folder).manifest == written.manifest


def test_other_files_are_refused_and_kept(written, tmp_path):
    (written.folder / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"it holds more than an artifact: 'notes.txt'"):
        write(written.folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"it holds files that are no artifact of sparsec"):
        write(tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["manifest.json"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "manifest.json").exists()


def test_permissions_are_the_users_own(tmp_path):
    old = os.umask(0o027)
    try:
        write(tmp_path / "out")
    finally:
        os.umask(old)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750


# Loading


def test_load_gives_what_was_written(written):
    assert load(str(written.folder)).manifest == written.manifest
    assert load(written.folder).report() == {"layers": [1.5]}
    np.testing.assert_array_equal(load(written.folder).golden().outputs["y"], INPUT * 2)


def test_no_artifact(tmp_path):
    with pytest.raises(ArtifactError, match=r"no such folder\. Name a folder that 'sparsec compile' wrote"):
        load(tmp_path / "absent")
    with pytest.raises(ArtifactError, match=r"found no 'manifest.json'"):
        load(tmp_path)


def damage(folder, change):
    """Change the manifest's data in place, or replace its text."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    changed = change(data)
    path.write_text(changed if isinstance(changed, str) else json.dumps(data))


DAMAGED = {
    "text": (lambda m: "{", r"'manifest.json' is not JSON"),
    "deep": (lambda m: "[" * 100_000, r"'manifest.json' is not JSON"),
    "list": (lambda m: "[]", r"found format 'None', expected 1\. Use the sparsec that wrote it"),
    "version": (lambda m: m.update(format=2), r"found format '2', expected 1"),
    "boolean version": (lambda m: m.update(format=True), r"found format 'True', expected 1"),
    "missing key": (lambda m: m.pop("recipe") and None, r"at the top: found .* expected the keys format, sparsec"),
    "unknown key": (lambda m: m.update(extra=1), r"at the top: found .*'extra'"),
    "name": (lambda m: m.update(name="a b"), r"at 'name': found 'a b', expected a C identifier"),
    "target": (lambda m: m.update(target="vax"), r"at 'target': Unknown target 'vax'"),
    "host": (lambda m: m.update(target="host"), r"at 'target': found 'host', expected"),
    **{
        f"{count!r} threads on {target}": (
            lambda m, count=count, target=target: m.update(threads=count, target=target),
            rf"at 'threads': found '{count}', expected a whole number in 1\.\.{most} for target '{target}'",
        )
        for target, most in (("x86", 16), ("arm", 16), ("wasm", 1))
        for count in (0, most + 1, True, 1.5)
    },
    "hash": (lambda m: m["source"].update(sha256="A" * 64), r"at 'source': found '.*', expected 64 hexadecimal"),
    "tolerance": (
        lambda m: m.update(tolerance=float("nan")),
        r"at 'tolerance': found 'nan', expected a number in 0..1",
    ),
    "size": (lambda m: m["sizes"].update(arena=-1), r"at 'sizes.arena': found '-1', expected a whole number"),
    "float size": (lambda m: m["sizes"].update(code=1.5), r"at 'sizes.code': found '1.5'"),
    "huge size": (lambda m: m["sizes"].update(weights=1 << 60), r"at 'sizes.weights'"),
    "type": (
        lambda m: m["inputs"][0].update(type="object"),
        r"at 'inputs'\[0\].type: found 'object', expected one of bool",
    ),
    "layout": (
        lambda m: m["inputs"][0].update(layout="?"),
        r"at 'inputs'\[0\].layout: found '\?', expected 'row-major'",
    ),
    "huge shape": (lambda m: m["inputs"][0].update(shape=[1 << 40] * 2), r"at 'inputs'\[0\].shape: .* fits memory"),
    "long shape": (lambda m: m["inputs"][0].update(shape=[1] * 65), r"at 'inputs'\[0\].shape: .* fits memory"),
    "twice": (lambda m: m["outputs"].append(m["outputs"][0]), r"at 'outputs': .* expected names that differ"),
    "kernel": (lambda m: m["kernels"][0].pop("calls") and None, r"at 'kernels'\[0\]: found"),
    "file entry": (lambda m: m["files"].update(code=3), r"at 'files.code': found '3', expected an object"),
    **{
        repr(name): (
            lambda m, name=name: m["files"].update({name: m["files"]["code"]}),
            r"at 'files': .* plain file names",
        )
        for name in ("../x", "/etc/passwd", "a/b", ".hidden", "a\\b", "", "manifest.json", "x" * 101, "a\nb")
    },
    "no weights": (lambda m: m["files"].pop("weights.bin") and None, r"at .files.: .* .weights.bin. among them"),
    "other weights": (
        lambda m: m["sizes"].update(weights=65),
        r"at 'files.weights.bin': found '64', expected 65 bytes",
    ),
    "missing file": (lambda m: m["files"].update(gone=m["files"]["code"]), r"file 'gone' is missing or no plain file"),
    "wrong size": (lambda m: m["files"]["code"].update(bytes=5), r"file 'code' has 4 bytes, expected 5"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_manifests_are_refused(written, case):
    change, message = DAMAGED[case]
    damage(written.folder, change)
    with pytest.raises(ArtifactError, match=message) as caught:
        load(written.folder)
    assert str(caught.value).startswith(f"Artifact '{written.folder}': ")
    assert len(str(caught.value)) < 1000


def test_links_and_odd_manifests_are_refused(written, tmp_path):
    (written.folder / "code").unlink()
    (written.folder / "code").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"file 'code' is missing or no plain file"):
        load(written.folder)
    (written.folder / "manifest.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ArtifactError, match=r"cannot read 'manifest.json'"):
        load(written.folder)
    os.truncate(written.folder / "manifest.json", (16 << 20) + 1)
    with pytest.raises(ArtifactError, match=r"'manifest.json' is larger than"):
        load(written.folder)


@pytest.mark.parametrize("name", ["code", "weights.bin", "selftest.npz", "report.json"])
def test_a_changed_byte_is_found(written, name):
    data = bytearray((written.folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (written.folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"file '{name}' is damaged: its SHA-256 is not the manifest's"):
        written.verify()


@pytest.mark.parametrize("text", ["[]", "{", '"' * 9])
def test_a_damaged_report_is_refused(written, text):
    (written.folder / "report.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"file 'report.json' is damaged"):
        written.report()


# Running


def test_verify_gives_the_errors(written):
    assert written.verify() == {"y": 0.0}


def test_verify_finds_other_numbers(tmp_path):
    wrong = replace(CONTENTS, golden=Golden({"x": INPUT}, {"y": INPUT * 2.001}))
    with pytest.raises(ArtifactError, match=r"output 'y' has relative error 0.0005, expected at most 0.0001"):
        write(tmp_path / "out", wrong).verify()
    loose = replace(wrong, golden=replace(wrong.golden, tolerance=1e-3))
    assert write(tmp_path / "loose", loose).verify()["y"] == pytest.approx(5e-4, rel=1e-2)


def test_the_runner_is_opened_once_and_closed(written):
    Doubler.opened = Doubler.closed = 0
    with written:
        for _ in range(3):
            written.run({"x": INPUT})
    written.close()
    assert (Doubler.opened, Doubler.closed) == (1, 1)
    written.run({"x": INPUT})
    assert Doubler.opened == 2


BAD_INPUTS = {
    "missing": ({}, r"Input 'x': missing, found none\. Give float32 \[2, 3\]\."),
    "surplus": ({"x": INPUT, "z": INPUT}, r"Input 'z': the model has none of that name, expected: 'x'\."),
    "dtype": (
        {"x": INPUT.astype(np.float64)},
        r"found float64 \[2, 3\], expected float32 \[2, 3\].*astype\(\"float32\"\)",
    ),
    "shape": ({"x": INPUT[0]}, r"Input 'x': found float32 \[3\], expected float32 \[2, 3\]\. .*\.reshape\(2, 3\)"),
    "objects": ({"x": [None]}, r"Input 'x': found object \[1\], expected float32"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_inputs_are_refused(written, case):
    inputs, message = BAD_INPUTS[case]
    with pytest.raises(DataError, match=message):
        written.run(inputs)


def test_strided_inputs_are_made_contiguous(written):
    wide = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(written.run({"x": wide[:, ::2]})["y"], wide[:, ::2] * 2)


# Golden vectors


@pytest.mark.parametrize("kind", ["float16", "float64", "bool", "int64", "uint8"])
def test_golden_vectors_keep_type_and_shape(tmp_path, kind):
    ports = (Port("a/../b", kind, (2, 0)), Port("s", kind, ()))
    arrays = {port.name: np.ones(port.shape, kind) for port in ports}
    golden.save(tmp_path / "g.npz", Golden(arrays, arrays), ports, ports)
    found = golden.load(tmp_path / "g.npz", ports, ports, 0.5)
    assert found.tolerance == 0.5
    for name, array in arrays.items():
        assert (found.inputs[name].dtype, found.outputs[name].shape) == (array.dtype, array.shape)


def test_numpy_reads_them(written):
    with np.load(written.folder / "selftest.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["input0"], INPUT)
        np.testing.assert_array_equal(arrays["output0"], INPUT * 2)


def npy(array):
    stream = BytesIO()
    np.save(stream, array)
    return stream.getvalue()


BAD_ARRAYS = {
    "shape": npy(INPUT[0]),
    "dtype": npy(INPUT.astype(np.float64)),
    "huge": npy(INPUT).replace(b"(2, 3), }          ", b"(99999999, 9999), }"),
    "open bracket": npy(INPUT).replace(b"(2, 3), }", b"(2, 3), ("),
    "truncated": npy(INPUT)[:-4],
    "magic": b"\x93NUMPX" + npy(INPUT)[6:],
    "version": npy(INPUT)[:6] + b"\x09\x00" + npy(INPUT)[8:],
    "objects": npy(np.array([None])),
    "empty": b"",
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_damaged_golden_vectors_are_refused(written, case):
    with zipfile.ZipFile(written.folder / "selftest.npz", "w") as archive:
        archive.writestr("input0.npy", BAD_ARRAYS[case])
        archive.writestr("output0.npy", npy(INPUT))
    with pytest.raises(ArtifactError, match=r"damaged golden vectors: .* Copy the artifact again"):
        written.golden()


@pytest.mark.parametrize("data", [b"", b"PK", b"\0" * 100])
def test_golden_vectors_that_are_no_zip_are_refused(written, data):
    (written.folder / "selftest.npz").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"damaged golden vectors"):
        written.golden()
    (written.folder / "selftest.npz").unlink()
    with pytest.raises(ArtifactError, match=r"damaged golden vectors"):
        written.golden()


def test_relative_error():
    ones = np.ones(4, np.float32)
    assert relative_error(ones, ones) == 0
    assert relative_error(ones * 1.5, ones) == pytest.approx(0.5)
    assert relative_error(np.array([1e-3]), np.array([0.0])) == pytest.approx(1e-3)
    assert relative_error(np.array([np.nan, np.inf, 1]), np.array([np.nan, np.inf, 1])) == 0
    assert relative_error(np.array([np.nan, 1]), np.array([1.0, 1])) == np.inf
    assert relative_error(np.array([np.inf, 1]), np.array([-np.inf, 1])) == np.inf
    assert relative_error(np.empty(0), np.empty(0)) == 0


def test_parse_is_the_inverse_of_text(written):
    assert manifest.parse(written.manifest.text()) == written.manifest


def test_copies_are_artifacts_too(written, tmp_path):
    shutil.copytree(written.folder, tmp_path / "copy")
    assert Artifact(tmp_path / "copy", manifest.read(tmp_path / "copy"), Doubler).verify() == {"y": 0.0}


def test_check_output_changes_nothing(tmp_path):
    output_folder.check_output(tmp_path / "new" / "out", lambda old: pytest.fail("nothing there"))
    assert os.listdir(tmp_path) == []
