# SPDX-License-Identifier: Apache-2.0
"""Densities of single layers for the table of accuracy, and accuracy against density, on a small network."""

from dataclasses import replace

import pytest

from benchmarks import accuracy_curve
from benchmarks.accuracy_curve import ALLOCATED, UNIFORM, AccuracyCurve, run_curve, section
from benchmarks.accuracy_rows import ROWS
from benchmarks.densities import Curves, Kept, resolved
from sparsec.compiler import driver
from sparsec.compiler.layers import layers
from sparsec.compiler.pass_manager import silent
from sparsec.compiler.registry import parse_pass
from sparsec.models.catalog import MODELS

SMALL = Curves("prune-blocks{rows=4 cols=4 update=refit}", ("*",), (0.7, 0.4, 0.1), samples=16)
STEP = "prune-blocks{rows=4 cols=4 update=refit}"


@pytest.fixture(scope="module")
def asked():
    entry = MODELS["tiny-cnn"]
    source, samples = entry.build(), entry.inputs("calibration", SMALL.samples)
    return lambda passes: driver.job(source, "host", None, samples, passes=passes, measures=True)


def test_a_budget_becomes_a_density_for_each_layer(asked):
    before, step, after = resolved(["fuse-layernorm", Kept(STEP, 0.5), "quantize"], SMALL, asked)
    assert (before, after) == ("fuse-layernorm", "quantize")
    assert len(set(parse_pass(step).by_layer.values())) > 1
    done = driver.compress(asked([step]))
    known = {layer.name: layer for layer in layers(done.model)}
    least = parse_pass(step).min_weights
    swept = [layer for layer in known.values() if layer.matrix().size >= least and layer.taps == layer.groups == 1]
    kept = sum(layer.mask.sum() for layer in swept) / sum(layer.matrix().size for layer in swept)
    assert kept == pytest.approx(0.5, abs=0.02)


def test_texts_are_left_as_they_are():
    assert resolved(["quantize"], None, lambda passes: pytest.fail("nothing is to be swept")) == ["quantize"]


def test_rows_with_a_budget_say_what_is_swept():
    for row in ROWS:
        if any(isinstance(step, Kept) for step in row.passes):
            assert row.curves is not None
            for step in (*row.passes, row.curves.pattern):
                assert parse_pass(step.step if isinstance(step, Kept) else step)


def test_the_curve_is_measured_told_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy_curve, "RESULTS", tmp_path / "curve.json")
    monkeypatch.setitem(accuracy_curve.METRICS, "tiny-cnn", accuracy_curve.METRICS["digits"])
    curve = AccuracyCurve("drawn", "tiny-cnn", "Tiny: blocks", ("fuse-layernorm",), STEP, SMALL, (0.9, 0.5), (0.5,))
    result = run_curve(curve, silent)
    assert [share for share, _ in result[ALLOCATED]] == [1.0, 0.9, 0.5]
    assert [share for share, _ in result[UNIFORM]] == [1.0, 0.5]
    assert all(0 <= value <= 1 for name in (ALLOCATED, UNIFORM) for _, value in result[name])
    assert result[ALLOCATED][0] == result[UNIFORM][0]
    text = section(curve, result)
    assert "| weights kept | 1 | 0.9 | 0.5 |\n| --- | ---: | ---: | ---: |\n| densities by the sweep | " in text
    assert f"| {UNIFORM} | {result[UNIFORM][0][1]:.4f} | - | {result[UNIFORM][1][1]:.4f} |" in text
    assert "](drawn.svg)" in text
    accuracy_curve.write(curve, result, tmp_path)
    assert accuracy_curve.load() == result
    first = (tmp_path / "drawn.svg").read_bytes()
    assert first.startswith(b"<?xml")
    accuracy_curve.write(replace(curve), result, tmp_path)
    assert (tmp_path / "drawn.svg").read_bytes() == first
