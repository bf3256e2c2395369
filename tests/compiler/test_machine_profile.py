# SPDX-License-Identifier: Apache-2.0
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.profiles import built_in
from sparsec.backends.targets import backend, profile_of
from sparsec.compiler import machine_profile
from sparsec.compiler.errors import DataError
from sparsec.compiler.machine_profile import cpu_name, note, parse
from sparsec.compiler.target import Target, host

WASM = Target("wasm", ("relaxed-simd",))


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_has_a_profile(isa):
    found = built_in(isa)
    assert (found.isa, found.source) == (isa, "built-in")
    assert found.costs["vector_lanes"] == ISAS[isa].lanes("float32")
    assert found.machine


@pytest.mark.parametrize("isa", ISAS)
def test_profiles_know_the_same_costs(isa):
    assert built_in(isa).costs.keys() == built_in("avx2").costs.keys()


def test_a_profile_reads_what_it_writes(tmp_path):
    known = built_in("relaxed-simd")
    made = replace(known, machine="a desk", cpu="a chip", costs={**known.costs, "tile_us": 0.25})
    (tmp_path / "desk.json").write_text(str(made))
    found = profile_of(WASM, tmp_path / "desk.json")
    assert found == replace(made, source="file")
    assert backend(WASM, found).profile["tile_us"] == 0.25
    assert backend(WASM, found).profile_name == "a desk"


def changed(**keys):
    return json.dumps({**json.loads(str(built_in("relaxed-simd"))), **keys})


def costs(**changes):
    found = {**built_in("relaxed-simd").costs, **changes}
    return {name: value for name, value in found.items() if value != "gone"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "it is no JSON"),
        ('{"version": 1, "version": 1}', "it is no JSON (a key stands there twice)"),
        ("[" * 60000, "it is no JSON"),
        ("[]", "expected an object with the keys version, isa, cpu, machine and costs, and no others"),
        (changed(extra=1), "expected an object with the keys version, isa, cpu, machine and costs, and no others"),
        (changed(version=2), "key 'version' is 2, expected 1"),
        (changed(version=True), "key 'version' is true, expected 1"),
        (changed(machine=7), "key 'machine' is 7, expected at most 200 characters"),
        (changed(cpu="x" * 201), "expected at most 200 characters"),
        (changed(costs=[1]), "key 'costs' is [1], expected an object of numbers"),
        (changed(costs=costs(tile_us="1")), "the cost 'tile_us' is \"1\", expected a number from 0 to 1000"),
        (changed(costs=costs(tile_us=-1)), "the cost 'tile_us' is -1, expected a number from 0 to 1000"),
        (changed(costs=costs(int8_macs_per_us=0)), "the cost 'int8_macs_per_us' is 0, expected a number from 0.001"),
        (changed(costs=costs(spill_factor=1e9)), "'spill_factor' is 1000000000.0, expected a number from"),
        (changed(costs=costs(call_us=float("nan"))), "the cost 'call_us' is NaN, expected a number from 0 to 1000"),
        (changed(costs=costs(call_us=10**400)), "the cost 'call_us' is 1000"),
        (changed(costs=costs(call_us=True)), "the cost 'call_us' is true, expected a number from 0 to 1000"),
        (changed(costs=costs(tile_uss=1)), "the cost 'tile_uss' is not known, the nearest is 'tile_us'"),
        (changed(costs=costs(tile_us="gone")), "the cost 'tile_us' is missing"),
        (changed(isa="avx2"), "it is for instruction set 'avx2', target 'wasm+relaxed-simd' uses 'relaxed-simd'"),
        (changed(machine="x") + " " * (1 << 16), "it has more than 65,536 bytes"),
    ],
)  # fmt: skip
def test_what_is_no_profile_is_refused(text, found, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(text)
    start, end = f"Profile '{path}': ", r"\. Write a new one with 'sparsec tune( --target \S+)?'\."
    with pytest.raises(DataError) as caught:
        profile_of(WASM, path)
    assert re.fullmatch(f"{re.escape(start)}.*{re.escape(found)}.*{end}", str(caught.value), re.DOTALL), caught.value


def test_a_file_that_is_not_there(tmp_path):
    message = f"Profile '{tmp_path}/no.json': No such file or directory. Give a file that 'sparsec tune' has written."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        profile_of(WASM, tmp_path / "no.json")


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="it is no text"):
        profile_of(WASM, tmp_path / "bad.json")


def measured_here(isa):
    return replace(built_in(isa), cpu=cpu_name(), machine="this desk")


def test_a_profile_of_this_machine_needs_no_note():
    assert note(measured_here("relaxed-simd"), WASM) == ""
    assert note(replace(profile_of(host()), cpu=cpu_name()), host()) == ""


def test_a_profile_of_another_machine_is_named():
    other = replace(built_in("relaxed-simd"), cpu="another chip", machine="another desk")
    assert note(other, WASM) == (
        "prices are for another desk, not measured here; 'sparsec tune --target wasm+relaxed-simd' measures this one"
    )
    assert note(replace(profile_of(host()), cpu="", machine="a desk"), host()) == (
        "prices are for a desk, not measured here; 'sparsec tune' measures this one"
    )


def test_another_architecture_is_always_named(monkeypatch):
    monkeypatch.setattr(machine_profile, "host", lambda: Target("x86"))
    assert note(measured_here("neon"), Target("arm")) == (
        "prices are for this desk, not measured here; 'sparsec tune --target arm' measures the machine it runs on"
    )


def test_parse_keeps_the_source():
    assert parse(str(built_in("neon")), "here", "built-in") == built_in("neon")


def test_an_endless_file_is_refused():
    with pytest.raises(DataError, match="it has more than 65,536 bytes"):
        profile_of(WASM, Path("/dev/zero"))
