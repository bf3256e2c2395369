# SPDX-License-Identifier: Apache-2.0
import json

import pytest

LAYER = {"name", "op", "pattern", "density", "bytes", "kernel", "price", "rival_price", "refused", "breakeven_density"}


def test_an_artifact_has_the_stable_keys(compiled, sparsec):
    done = sparsec("inspect", compiled, "--json")
    assert done.exit_code == 0, done.stderr
    data = json.loads(done.stdout)
    assert data.keys() == {"target", "threads", "code_bytes", "weight_bytes", "profile", "layers"}
    assert data["code_bytes"] > 0
    assert data["layers"]
    assert all(layer.keys() == LAYER for layer in data["layers"])


def test_an_artifact_for_several_threads_says_so(model, sparsec):
    assert sparsec("compile", model, "--target", "host", "--threads", 2, "-o", "two").exit_code == 0
    assert "threads    2 run it together; prices are for one" in sparsec("inspect", "two").stdout.splitlines()
    assert json.loads(sparsec("inspect", "two", "--json").stdout)["threads"] == 2


def test_a_model_shows_the_zeros_it_has(model, sparsec):
    data = json.loads(sparsec("inspect", model, "--json").stdout)
    assert data["inputs"] == [{"name": "x", "type": "float32", "shape": [1, 16]}]
    assert data["outputs"] == [{"name": "y", "type": "float32", "shape": [1, 8]}]
    assert data["opset"] == 17
    assert data["parameters"] == 16 * 32 + 32 * 8
    assert data["macs"] == 16 * 32 + 32 * 8
    first, second = data["layers"]
    assert (first["name"], first["pattern"], first["density"]) == ("first", "block(4x4)", pytest.approx(0.5))
    assert (second["name"], second["pattern"], second["density"]) == ("second", "dense", 1.0)
    assert any("x" in note for note in data["notes"])


def test_a_pinned_shape_shows(model, sparsec):
    data = json.loads(sparsec("inspect", model, "--shape", "x=5x16", "--json").stdout)
    assert data["macs"] == 5 * (16 * 32 + 32 * 8)


@pytest.mark.parametrize("what", ["model", "compiled"])
def test_tables_name_every_layer(what, request, sparsec):
    done = sparsec("inspect", request.getfixturevalue(what))
    assert done.exit_code == 0, done.stderr
    assert "first" in done.stdout
    assert "second" in done.stdout
    assert "block(4x4)" in done.stdout
