# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest

from sparsec.compiler.recipe import Recipe
from tests.cli.conftest import names

BLOCKS = "prune-blocks{min_weights=1}"
SWEEP = ("sweep", "two.onnx", "--calibration", "samples.npz", "--pattern", BLOCKS)


@pytest.fixture
def data(model, here):
    """20 samples of `two_products`, and eight others."""
    random = np.random.default_rng(1)
    for name, count in (("samples", 20), ("others", 8)):
        np.savez(here / f"{name}.npz", x=random.standard_normal((count, 16)).astype(np.float32))
    return here


def test_the_table_has_a_row_for_each_layer(data, sparsec):
    done = sparsec(*SWEEP, "--densities", "0.75,0.5,0.25")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    heading = next(line.split() for line in lines if line.startswith("layer"))
    assert heading == ["layer", "weights", "PQ", "dead", "0.75", "0.5", "0.25", "knee", "take"]
    first, second = (next(line.split() for line in lines if line.startswith(name)) for name in ("first", "second"))
    assert first[0:2] == ["first", "512"]
    assert first[-5:] == ["1.000", "1.000", first[-3], "0.25", "0.5"]
    assert second[3] == "-"
    assert f"{BLOCKS}, measured on 5 samples" in lines
    assert any(line.startswith("note ") and "the last 5 of 20" in line for line in lines)
    assert names(data) == ["others.npz", "samples.npz", "two.onnx"]


def test_json_has_the_curves(data, sparsec):
    done = sparsec(
        *SWEEP, "--heldout", "others.npz", "--densities", "0.5,0.25", "--pattern", "prune-nm{min_weights=1}", "--json"
    )
    found = json.loads(done.stdout)
    assert found["samples"] == 8
    assert [curve["pattern"] for curve in found["whole"]] == [BLOCKS, "prune-nm{min_weights=1}"]
    assert [layer["name"] for layer in found["layers"]] == ["first", "second"]
    first = found["layers"][0]
    assert first["dead"] == {"units": 32, "dead": 0.0, "silent": pytest.approx(0.5, abs=0.2)}
    assert 0 < first["pq_index"] < 1
    (half, quarter) = first["curves"][0]["points"]
    assert (half["density"], half["realised"], half["fidelity"]) == (0.5, 0.5, 1.0)
    assert quarter["fidelity"] < 0.99
    assert {"relative_error", "sqnr_db", "correlation", "top1", "kl", "rows"} <= quarter.keys()
    assert first["curves"][0]["knee"] == 0.25


def test_the_same_request_gives_the_same_text(data, sparsec):
    one, two = (sparsec(*SWEEP, "--json", "--jobs", jobs).stdout for jobs in (1, 3))
    assert one == two != ""


def test_the_recipe_and_the_plot_are_written(data, sparsec):
    done = sparsec(*SWEEP, "--densities", "0.5,0.25", "--budget", "0.5", "-o", "r.yaml", "--plot", "p.svg")
    assert done.exit_code == 0, done.stderr
    assert names(data) == ["others.npz", "p.svg", "r.yaml", "samples.npz", "two.onnx"]
    (step,) = Recipe.load(data / "r.yaml").passes
    chosen = {text.rpartition("=")[0]: float(text.rpartition("=")[2]) for text in step.densities}
    assert 512 * chosen["first"] + 256 * chosen["second"] == pytest.approx(0.5 * 768, rel=1e-3)
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.split()}
    assert "keeps 50.0 % of the weights" in lines["chosen"]
    assert {"uniform", "recipe", "plot"} <= lines.keys()
    assert b"<svg" in (data / "p.svg").read_bytes()
    request = (
        "compile",
        "two.onnx",
        "--target",
        "host",
        "--recipe",
        "r.yaml",
        "--calibration",
        "samples.npz",
        "--json",
    )
    assert json.loads(sparsec(*request).stdout)["after"]["zeros"] == pytest.approx(0.5, abs=0.01)


def test_without_a_budget_the_recipe_stops_at_the_knees(data, sparsec):
    assert sparsec(*SWEEP, "--densities", "0.75,0.5,0.25", "-o", "r.yaml").exit_code == 0
    (step,) = Recipe.load(data / "r.yaml").passes
    assert (step.densities, step.ignore) == (("first=0.5",), ("second",))


def test_without_data_the_weights_decide(data, sparsec):
    request = ("sweep", "two.onnx", "--pattern", BLOCKS, "--data-free", "--budget", "0.5")
    done = sparsec(*request, "-o", "r.yaml")
    assert done.exit_code == 0, done.stderr
    assert "PQ index" in done.stdout
    (step,) = Recipe.load(data / "r.yaml").passes
    chosen = {text.rpartition("=")[0]: float(text.rpartition("=")[2]) for text in step.densities}
    assert 512 * chosen["first"] + 256 * chosen["second"] == pytest.approx(0.5 * 768, rel=1e-3)
    assert chosen["first"] < chosen["second"]
    found = json.loads(sparsec(*request, "--json").stdout)
    assert found["whole"] == []
    assert set(found["densities"]) == {"first", "second"}
    with_data = json.loads(sparsec(*request, "--calibration", "samples.npz", "--json").stdout)
    assert with_data == found
    assert not any("fidelity" in note for note in with_data["notes"])


def test_some_layers_and_the_whole_model_only(data, sparsec):
    found = json.loads(sparsec(*SWEEP, "--layers", "f*", "--densities", "0.5", "--whole", "--json").stdout)
    assert [layer["name"] for layer in found["layers"]] == ["first"]
    assert found["layers"][0]["curves"] == []
    assert found["whole"][0]["points"][0]["realised"] == 0.5


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--densities", "0.5,1.5"), ("--densities", "Density 1.5: expected numbers of more than 0 and at most 1")),
        (("--densities", "0"), "Density 0: expected"),
        (("--densities", "half"), "'half': expected numbers with commas between them"),
        (("--pattern", "blok(4x4)"), ("--pattern", "Pattern 'blok(4x4)' is not known")),
        (("--pattern", "quantize{}"), "Pass 'quantize' does not prune weights"),
        (("--budget", "2"), ("--budget", "more than 0 and at most 1")),
        (("--drop", "x"), "--drop"),
        (("--score", "wand"), ("--score", "'wanda'")),
        (("--plot", "p.jpg"), ("--plot", "'.jpg', expected one of .svg, .png, .pdf")),
        (("--pattern", "unstructured", "-o", "r.yaml"), "one --pattern goes with -o"),
        (("--whole", "--budget", "0.5"), "--whole sweeps no layer alone"),
        (("-o", "p.svg", "--plot", "p.svg"), "-o and --plot name the same file"),
        (("--data-free",), "--data-free needs --budget"),
        (("--data-free", "--budget", "0.5", "--plot", "p.svg"), "--data-free measures nothing"),
    ],
)
def test_wrong_usage_is_code_2(more, says, data, refused):
    refused(*SWEEP, *more, code=2, says=says)


def test_a_pattern_without_a_choice_of_density_is_refused(data, refused):
    request = ("sweep", "two.onnx", "--calibration", "samples.npz", "--pattern", "nm(2:4)", "--budget", "0.5")
    refused(*request, code=2, says="pattern 'nm(2:4)' has a density of its own, so -o and --budget have none to choose")


def test_a_sweep_without_data_says_what_to_give(data, refused):
    refused("sweep", "two.onnx", code=2, says="a sweep needs real inputs: give --calibration, --heldout, or both")


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.ones((4, 16), np.float32), "4 samples that are all the same"),
        (np.full((4, 16), np.nan, np.float32), "holds nan"),
        (np.random.default_rng(0).random((1, 16)).astype(np.float32), "1 samples, expected at least 2"),
        (np.random.default_rng(0).random((4, 15)).astype(np.float32), "expected (samples, 16)"),
    ],
)
def test_bad_samples_are_code_1_and_leave_nothing(array, says, data, refused):
    np.savez(data / "bad.npz", x=array)
    request = ("sweep", "two.onnx", "--calibration", "bad.npz", "--pattern", BLOCKS)
    refused(*request, "-o", "r.yaml", "--plot", "p.svg", says=says)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--layers", "frist"), ("Option '--layers': Unknown layer 'frist'", "Did you mean 'first'?")),
        (("--layers", "z*"), "Unknown layer 'z*'"),
        (("--pattern", "block(4x4)"), "Pattern 'block(4x4)' fits none of the layers: 'first': it has 512 weights"),
        (("--budget", "0.1", "--densities", "0.5"), "Budget 0.1 is below 0.5"),
        (("-o", "two.onnx", "--budget", "0.7"), "Output file 'two.onnx' is the input itself. Choose another file."),
        (("-o", "no/r.yaml"), "Output file 'no/r.yaml' is in 'no', which is no folder. Choose another file."),
        (("-o", "."), "Output file '.' is a folder. Choose another file."),
    ],
)
def test_what_does_not_fit_the_model_is_code_1(more, says, data, refused):
    refused(
        "sweep",
        "two.onnx",
        "--calibration",
        "samples.npz",
        *(() if "--pattern" in more else ("--pattern", BLOCKS)),
        *more,
        "--plot",
        "p.svg",
        says=says,
    )
