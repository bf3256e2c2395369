# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.cli.conftest import names

PRUNE = "prune-blocks{rows=4 cols=4 density=0.25 min_weights=1}"
TWO = ("compile", "two.onnx", "--target", "host")


@pytest.fixture
def sparse(model, here, samples, sparsec):
    """Compiled with half of the blocks gone, and what was printed."""
    np.savez(here / "samples.npz", x=samples)
    done = sparsec(*TWO, "--pass", PRUNE, "--calibration", "samples.npz", "-o", "out")
    assert done.exit_code == 0, done.stderr
    return done


def test_the_table_says_what_was_gained_and_lost(sparse):
    lines = {line.split()[0]: line for line in sparse.stdout.splitlines() if line.split()}
    assert {"weights", "multiply-adds", "zeros", "code", "layers", "predicted", "fidelity", "artifact"} <= lines.keys()
    assert lines["artifact"].split()[-1] == "out"
    assert "'y' relative error" in lines["fidelity"]
    notes = [line for line in sparse.stdout.splitlines() if line.startswith("note ")]
    assert any("set to 1" in line or "batch" in line for line in notes)
    assert sparse.stderr == ""


def test_the_artifact_runs_and_its_report_agrees(sparse, sparsec):
    assert sparsec("verify", "out").exit_code == 0
    found = json.loads(sparsec("inspect", "out", "--json").stdout)
    assert [layer["pattern"] for layer in found["layers"]] == ["block(4x4)", "block(4x4)"]
    assert all(layer["density"] == pytest.approx(0.25) for layer in found["layers"])


def test_it_holds_a_page_that_loads_nothing(sparse, here):
    page = (here / "out" / "report.html").read_text()
    assert "first" in page
    assert page.count("<script") == 1
    assert not any(word in page for word in ("http://", "https://", "src=", "@import", "url("))


def test_the_page_is_one_of_the_files_that_are_verified(sparse, here):
    from sparsec.compiler.artifact import file_entry
    from sparsec.compiler.errors import ArtifactError
    from sparsec.compiler.load import load

    path = here / "out" / "report.html"
    with load(here / "out") as artifact:
        assert artifact.manifest.files["report.html"] == file_entry(path)
        artifact.verify_files()
        path.write_bytes(path.read_bytes().replace(b"first", b"fIrst"))
        with pytest.raises(ArtifactError, match=r"'report\.html' is damaged"):
            artifact.verify_files()


def test_default_folder_json_and_quiet(model, here, sparsec):
    done = sparsec(*TWO, "--json", "--name", "Net 2")
    data = json.loads(done.stdout)
    assert data["artifact"].startswith("net_2-")
    assert names(here) == [data["artifact"], "two.onnx"]
    assert data["before"]["parameters"] == 16 * 32 + 32 * 8
    assert data["weight_bytes"] == (here / data["artifact"] / "weights.bin").stat().st_size
    again = sparsec(*TWO, "--quiet", "--name", "Net 2")
    assert (again.exit_code, again.stdout, again.stderr) == (0, "", "")


def test_emit_onnx_writes_a_model_that_runs(model, here, samples, sparsec):
    done = sparsec(*TWO, "--pass", PRUNE, "--emit", "onnx", "-o", "sparse.onnx", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["onnx"] == "sparse.onnx"
    zeros = [(onnx.numpy_helper.to_array(w) == 0).mean() for w in onnx.load("sparse.onnx").graph.initializer]
    assert min(zeros) == pytest.approx(0.75)
    assert ort.InferenceSession("sparse.onnx").run(None, {"x": samples[:1]})[0].shape == (1, 8)


def test_emit_program_is_one_page_on_stdout(model, here, sparsec):
    done = sparsec(*TWO, "--emit", "program")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("program two: arena")
    assert names(here) == ["two.onnx"]


@pytest.mark.parametrize(("kind", "says"), [("tir", "T."), ("llvm", "define "), ("asm", ".text")])
def test_emit_text_shows_a_stage(kind, says, model, here, sparsec):
    done = sparsec(*TWO, "--emit", kind, "-o", "stage.txt")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == ""
    assert says in (here / "stage.txt").read_text()
    assert names(here) == ["stage.txt", "two.onnx"]


def test_the_same_request_gives_the_same_bytes(model, here, compiled, sparsec):
    assert sparsec(*TWO, "-o", "again").exit_code == 0
    for path in compiled.iterdir():
        assert (here / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_artifact_of_the_same_model_is_replaced(sparse, here, sparsec):
    assert sparsec(*TWO, "-o", "out").exit_code == 0
    assert json.loads(sparsec("inspect", "out", "--json").stdout)["layers"][0]["density"] == pytest.approx(0.5)


def test_each_pass_has_a_row_and_a_time(model, here, samples, sparsec):
    np.savez(here / "samples.npz", x=samples)
    arguments = (*TWO, "--pass", PRUNE, "--pass", "fold-constants", "--calibration", "samples.npz")
    lines = sparsec(*arguments, "-o", "out").stdout.splitlines()
    heading = next(line for line in lines if line.startswith("pass "))
    assert all(word in heading for word in ("weights", "multiply-adds", "zeros", "correlation", "KL", "time"))
    assert "no change" in next(line for line in lines if line.startswith("fold-constants"))
    data = json.loads(sparsec(*arguments, "-o", "out", "--json").stdout)
    assert [step["name"] for step in data["steps"]] == ["prune-blocks", "fold-constants"]
    assert all(step["seconds"] >= 0 for step in data["steps"])
    assert [step["zeros"] for step in data["steps"]] == [0.75, 0.75]
    assert data["steps"][0]["fidelity"]["y"]["rows"] == 4
    assert "seconds" not in (here / "out" / "report.json").read_text()


def test_fidelity_is_measured_on_held_out_samples(model, here, sparsec):
    random = np.random.default_rng(2)
    many, other = (random.standard_normal((n, 16)).astype(np.float32) for n in (40, 7))
    np.savez(here / "many.npz", x=many)
    np.savez(here / "other.npz", x=other)
    request = (*TWO, "--pass", PRUNE, "--emit", "onnx", "-o", "a.onnx", "--calibration", "many.npz", "--json")
    split, given = (json.loads(sparsec(*request, *more).stdout) for more in ((), ("--heldout", "other.npz")))
    assert split["steps"][0]["fidelity"]["y"]["rows"] == 10
    assert any("the last 10 of 40 calibration samples" in note for note in split["notes"])
    assert given["steps"][0]["fidelity"]["y"]["rows"] == 7
    shared = json.loads(sparsec(*request, "--heldout", "many.npz").stdout)
    assert any("40 of the held-out samples are calibration samples too" in note for note in shared["notes"])


def test_passes_never_see_what_is_held_out(model, here, sparsec):
    """The last ten samples are held out: other ones in their place give the same model."""
    random = np.random.default_rng(3)
    first, *last = (random.standard_normal((n, 16)).astype(np.float32) for n in (30, 10, 10))
    written = []
    for number, held in enumerate(last):
        np.savez(here / "samples.npz", x=np.concatenate((first, held * 10**number)))
        arguments = (*TWO, "--pass", PRUNE, "--pass", "quantize", "--calibration", "samples.npz", "--emit", "onnx")
        assert sparsec(*arguments, "-o", f"{number}.onnx").exit_code == 0
        written.append((here / f"{number}.onnx").read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.ones((4, 16), np.float32), "4 samples that are all the same"),
        (np.full((4, 16), np.nan, np.float32), "holds nan"),
    ],
)
@pytest.mark.parametrize(("option", "title"), [("--calibration", "Calibration"), ("--heldout", "Held-out data")])
def test_bad_samples_are_refused(array, says, option, title, model, here, refused):
    np.savez(here / "bad.npz", x=array)
    refused(*TWO, "--pass", PRUNE, option, "bad.npz", says=(title, says))


def _step(name, sqnr, *notes):
    records = [{"layer": str(n), "note": note, "skipped": True} for n, note in enumerate(notes)]
    return {
        "name": name,
        "changed": not notes,
        "records": records,
        "fidelity": {} if notes else {"y": {"sqnr_db": sqnr}},
    }


def test_an_output_worse_than_zeros_is_warned_of():
    from sparsec.compiler.findings import warning_lines

    assert warning_lines([_step("quantize", 20.0)]) == []
    assert warning_lines([]) == []
    (line,) = warning_lines([_step("quantize", 20.0), _step("prune-nm", -0.5)])
    assert line == "'y' is no nearer to the original's than zeros would be; loosen the passes, or recover"


def _outputs(file, samples):
    session = ort.InferenceSession(file)
    return np.vstack([session.run(None, {"x": row[None]})[0] for row in samples])


@pytest.mark.parametrize("kind", ["artifact", "onnx"])
def test_what_must_not_be_overlooked_is_told_at_either_stage(kind, model, here, sparsec):
    passes = ("--pass", "prune-nm{min_weights=999}", "--pass", "prune-unstructured{density=0.1 min_weights=1}")
    assert sparsec(*TWO, *passes, "--emit", "onnx", "-o", "pruned.onnx").exit_code == 0
    many = np.random.default_rng(5).standard_normal((200, 16)).astype(np.float32)
    wanted, found = (_outputs(file, many) for file in ("two.onnx", "pruned.onnx"))
    worst = np.argsort(np.square(found - wanted).sum(axis=1) / np.square(wanted).sum(axis=1))[-4:]
    np.savez(here / "worst.npz", x=many[worst])
    request = (*TWO, *passes, "--heldout", "worst.npz", "--emit", kind, "-o", "out")
    warned = "'y' is no nearer to the original's than zeros would be; loosen the passes, or recover"
    idle = (
        "'prune-nm' left all layers alone: it has 512 weights, fewer than min_weights=999; "
        "it has 256 weights, fewer than min_weights=999"
    )
    lines = sparsec(*request).stdout.splitlines()
    assert f"warning    {warned}" in lines
    assert f"idle       {idle}" in lines
    assert any(line.startswith("fidelity   'y' relative error ") for line in lines)
    data = json.loads(sparsec(*request, "--json").stdout)
    assert (data["warnings"], data["idle"]) == ([warned], [idle])


def test_a_pass_that_leaves_all_layers_alone_says_why():
    from sparsec.compiler.findings import idle_lines

    assert idle_lines([_step("quantize", 20.0)]) == []
    assert idle_lines([_step("prune-nm", 0, "it is small", "it is small", "it is odd", "it is old")]) == [
        "'prune-nm' left all layers alone: it is small; it is odd; 1 more in the report"
    ]
    assert idle_lines([_step("prune-nm", 0, "it is small", "it is odd", "it is old")], "") == [
        "'prune-nm' left all layers alone: it is small; it is odd; 1 more"
    ]
