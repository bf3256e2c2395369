# SPDX-License-Identifier: Apache-2.0
"""Compiling by the profile of a machine, and saying whose it is."""

import json
from dataclasses import replace

import pytest

from sparsec.backends.targets import profile_of
from sparsec.compiler.machine_profile import cpu_name
from sparsec.compiler.target import host


@pytest.fixture
def profile(here):
    """The file of a profile that makes blocks very dear, of another machine."""
    known = profile_of(host())
    path = here / "desk.json"
    path.write_text(str(replace(known, machine="a desk", cpu="a chip", costs={**known.costs, "block_us": 10.0})))
    return path


def test_prices_come_from_the_profile_and_the_machine_is_named(model, profile, sparsec):
    done = sparsec("compile", model, "--target", "host", "-o", "out", "--profile", profile)
    assert done.exit_code == 0, done.stderr
    note = "prices are for a desk, not measured here; 'sparsec tune' measures this one"
    assert f"note       {note}" in done.stdout.splitlines()
    shown = sparsec("inspect", "out").stdout
    assert "prices     for a desk, from the profile that was given; not measured here" in shown.splitlines()
    assert "density pays" in shown
    data = json.loads(sparsec("inspect", "out", "--json").stdout)
    assert data["profile"] == {"machine": "a desk", "source": "file", "cpu": "a chip", "isa": profile_of(host()).isa}
    assert [layer["breakeven_density"] for layer in data["layers"]] == [None, None]


def test_a_profile_of_this_machine_needs_no_note(model, here, sparsec):
    path = here / "mine.json"
    path.write_text(str(replace(profile_of(host()), machine="mine", cpu=cpu_name())))
    done = sparsec("compile", model, "--target", "host", "-o", "out", "--profile", path)
    assert "prices are for" not in done.stdout
    assert "prices     for mine, from the profile that was given" in sparsec("inspect", "out").stdout.splitlines()


def test_the_same_profile_gives_the_same_bytes(model, profile, sparsec):
    for folder in ("one", "two"):
        assert sparsec("compile", model, "--target", "host", "-o", folder, "--profile", profile).exit_code == 0
    one, two = ((profile.parent / folder / "report.json").read_bytes() for folder in ("one", "two"))
    assert one == two


def test_what_is_no_profile_leaves_nothing_behind(model, here, refused):
    (here / "bad.json").write_text("{}")
    refused("compile", model, "--target", "host", "--profile", here / "bad.json", says="Profile")
    refused("compile", model, "--target", "host", "--profile", here / "none.json", says="No such file")
