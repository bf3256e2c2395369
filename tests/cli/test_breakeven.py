# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace

import pytest

from sparsec.backends.targets import profile_of
from sparsec.compiler.machine_profile import cpu_name
from sparsec.compiler.target import Target

SMALL = ("--shape", "64x64x49", "--shape", "32x16x49x3x3")
WASM = profile_of(Target("wasm"))


def curves(done):
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["curves"]


def test_the_table_has_a_row_for_each_layer_and_precision(sparsec, here):
    done = sparsec("breakeven", "--target", "wasm", *SMALL)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    rows = [line.split()[0] for line in lines if line.startswith(("64x", "32x"))]
    assert rows == ["64x64x49", "32x16x49x3x3"] * 2 + ["64x64x49"]
    assert any("float32 layer" in line and "block(4x4)" in line and "unstructured" in line for line in lines)
    assert any("int8 layer" in line for line in lines)
    assert any("int4 layer" in line and "block(1x16)" in line for line in lines)
    assert list(here.iterdir()) == []


def test_json_has_whole_curves(sparsec):
    done = sparsec("breakeven", "--target", "wasm", *SMALL, "--json")
    data = json.loads(done.stdout)
    assert data.keys() == {"target", "profile", "note", "curves"}
    assert data["profile"]["machine"] == WASM.machine
    for curve in data["curves"]:
        assert curve.keys() == {"shape", "pattern", "precision", "densities", "ratios", "pays_from", "rival"}
        assert len(curve["densities"]) == len(curve["ratios"])
    assert {curve["shape"] for curve in data["curves"]} == {"64x64x49", "32x16x49x3x3"}


def test_a_pattern_holds_whole_kernels_of_a_convolution(sparsec):
    found = curves(sparsec("breakeven", "--target", "wasm", *SMALL, "--pattern", "block(4x4)", "--json"))
    assert {(curve["shape"], curve["pattern"]) for curve in found} == {
        ("64x64x49", "block(4x4)"), ("32x16x49x3x3", "block(4x36)")
    }  # fmt: skip


def test_prices_come_from_the_profile(sparsec, here):
    path = here / "desk.json"
    path.write_text(str(replace(WASM, machine="a desk", cpu="a chip", costs={**WASM.costs, "block_us": 10.0})))
    done = sparsec("breakeven", "--target", "wasm", *SMALL, "--pattern", "block(4x4)", "--profile", path, "--json")
    assert {curve["pays_from"] for curve in curves(done)} == {None}
    data = json.loads(done.stdout)
    assert data["profile"] == {"machine": "a desk", "source": "file", "cpu": "a chip", "isa": "relaxed-simd"}
    assert data["note"] == "prices are for a desk, not measured here; 'sparsec tune --target wasm' measures this one"


@pytest.mark.parametrize(("cpu", "line"), [
    ("a chip", "note       prices are for a desk, not measured here; 'sparsec tune --target wasm' measures this one"),
    (cpu_name(), "prices     for a desk, which is this machine"),
])  # fmt: skip
def test_the_table_names_the_machine(cpu, line, sparsec, here):
    (here / "desk.json").write_text(str(replace(WASM, machine="a desk", cpu=cpu)))
    done = sparsec("breakeven", "--target", "wasm", *SMALL[:2], "--profile", here / "desk.json")
    assert line in done.stdout.splitlines()


def test_the_layers_of_a_model(sparsec, model):
    found = curves(sparsec("breakeven", "--target", "wasm", "--model", model, "--pattern", "block(4x4)", "--json"))
    assert {(curve["shape"], curve["precision"]) for curve in found} == {
        (shape, precision) for shape in ("32x16x1", "8x32x1") for precision in ("float32", "int8")
    }


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_a_plot_is_the_same_each_time(suffix, sparsec, here):
    for name in ("one", "two"):
        done = sparsec("breakeven", "--target", "wasm", *SMALL, "--plot", here / f"{name}.{suffix}")
        assert done.stdout.splitlines()[-1] == f"plot       {here / f'{name}.{suffix}'}"
    assert (here / f"one.{suffix}").read_bytes() == (here / f"two.{suffix}").read_bytes()


def test_wrong_requests(refused, model, here):
    refused(
        "breakeven", "--target", "wasm", "--shape", "64x64", code=2, says="Shape '64x64': expected OUTxINxPOSITIONS"
    )
    refused("breakeven", "--target", "wasm", "--pattern", "blok", code=2, says="Pattern 'blok' is not known")
    refused("breakeven", "--target", "wasm", "--pattern", "dense", says="exploits zeros of dense in these layers")
    refused("breakeven", "--target", "wasm", *SMALL, "--model", model, code=2, says="give one of them")
    refused("breakeven", "--target", "wasm", *SMALL, "--plot", "map.gif", says="the suffix is '.gif'")
    refused("breakeven", "--target", "wasm", *SMALL, "--plot", model, says="two.onnx': the suffix is '.onnx'")
    nothing = "no kernel of 'wasm' exploits zeros of dense"
    refused("breakeven", "--target", "wasm", "--shape", "8x8x4", "--pattern", "dense", "--plot", "a.svg", says=nothing)
    refused("breakeven", "--target", "wasm", "--model", here / "no.onnx", says="no.onnx")
