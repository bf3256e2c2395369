# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.profiles import built_in
from sparsec.backends.targets import BY_FAMILY, profile_of
from sparsec.backends.tuning import timing, tune
from sparsec.backends.tuning.fit import fit, ranking_loss, typical_error
from sparsec.backends.tuning.samples import samples
from sparsec.compiler.machine_profile import cpu_name
from sparsec.compiler.target import Target, host


@pytest.fixture
def few(monkeypatch):
    """Few kernels are timed, dense and sparse, float32 and int8."""

    def some(kernels, lanes, profile):
        found = samples(kernels, lanes, profile)
        picked = {sample.name: sample for sample in found if "256x64x49" in sample.name and "unstr" not in sample.name}
        return list(picked.values()) + found[:2]

    monkeypatch.setattr(tune, "samples", some)


def measured(done, path):
    assert done.exit_code == 0, done.stderr
    target = Target("wasm") if "simd" in path.name else host()
    found = profile_of(target, path)
    assert found.cpu == cpu_name()
    known = profile_of(target)
    assert found.costs.keys() == known.costs.keys()
    assert found.costs != known.costs
    for name in ("call_us", "vector_lanes"):
        assert found.costs[name] == known.costs[name]
    return found


@pytest.mark.skipif(host().name != "x86", reason="needs an x86 processor")
def test_this_machine_is_measured_and_its_profile_used(few, here, model, sparsec):
    done = sparsec("tune", "--milliseconds", "4")
    isa = profile_of(host()).isa
    found = measured(done, here / f"sparsec-profile-{isa}.json")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{isa}: 14 kernels timed on {found.machine}"
    assert any(line.split()[:1] == ["float32_macs_per_us"] for line in lines)
    assert lines[-1] == f"profile    sparsec-profile-{isa}.json"
    done = sparsec("compile", model, "--target", "host", "-o", "out", "--profile", f"sparsec-profile-{isa}.json")
    assert done.exit_code == 0, done.stderr
    assert "prices are for" not in done.stdout


@pytest.mark.parametrize("node", [pytest.param(True, marks=pytest.mark.node), False])
def test_wasm_is_measured_in_node_or_wasmtime(node, few, here, sparsec, monkeypatch):
    if node and shutil.which("node") is None:
        pytest.skip("found no node")
    monkeypatch.setattr(timing, "has_node", lambda: node)
    done = sparsec("tune", "--target", "wasm", "--milliseconds", "4", "-o", "simd.json", "--json")
    found = measured(done, here / "simd.json")
    data = json.loads(done.stdout)
    assert data["engine"].startswith("V8 in Node v" if node else "wasmtime ")
    assert found.machine.endswith(data["engine"])
    assert data["new"] == dict(found.costs)
    assert data["kernels"] == 14


def test_another_machine_is_not_measured(refused):
    other = "arm" if host().name == "x86" else "x86"
    refused("tune", "--target", other, says=f"Target '{other}' can only be measured on such a machine, this one is")


def test_a_place_that_cannot_be_written_is_refused_first(here, refused, few):
    (here / "folder").mkdir()
    refused("tune", "-o", "folder", says="is a folder")
    refused("tune", "-o", "no/where.json", says="which is no folder")


_SPARSE = ("block(4x4)", "unstructured")


@pytest.mark.parametrize("isa", ["avx2", "avx512vnni", "neon", "neon-dotprod", "simd128", "relaxed-simd"])
def test_samples_know_every_family_with_a_choice(isa):
    found = samples(BY_FAMILY, ISAS[isa].lanes("float32"), built_in(isa).costs)
    families = {sample.spec.family for sample in found}
    assert {"convolution", "depthwise", "linear", "matvec", "sparse", "sparse-matvec", "pad", "elementwise"} <= families
    sparse = {(s.spec.family, s.spec.op.dtype, s.spec.pattern) for s in found if s.spec.pattern in _SPARSE}
    assert sparse >= {
        ("sparse", "float32", "block(4x4)"),
        ("sparse", "uint8", "block(4x4)"),
        ("row-masks", "float32", "unstructured"),
        ("word-pairs", "uint8", "unstructured"),
    }


def test_the_fit_finds_the_costs_that_made_the_times():
    known = profile_of(Target("wasm")).costs
    found = samples(BY_FAMILY, 4, known)[::3]
    prices = [lambda costs, s=s: BY_FAMILY[s.spec.family].cost(s.spec, s.weight, costs) for s in found]
    rates = {"int8_macs_per_us": 60000.0, "float32_macs_per_us": 20000.0}
    true = {**known, **rates, "block_us": 0.0004, "bytes_per_us": 90000.0}
    times = [price(true) for price in prices]
    fitted = fit(prices, times, known)
    assert typical_error(prices, times, known) > 0.3
    assert typical_error(prices, times, fitted) < 0.02
    assert {name: fitted[name] for name in rates} == pytest.approx(rates, rel=0.1)
    groups = {"all": list(range(len(times)))}
    assert ranking_loss(groups, prices, times, true) == 0.0
