# SPDX-License-Identifier: Apache-2.0
import json
import math
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler import report
from sparsec.compiler.comparison import Comparison
from sparsec.compiler.errors import ArtifactError
from sparsec.compiler.lowering.program import LayerChoice, Program
from sparsec.compiler.pass_manager import LayerRecord, Step
from sparsec.compiler.report_html.page import page
from sparsec.compiler.report_html.summary import Facts
from sparsec.compiler.survey import survey
from sparsec.compiler.target import Target

EVIL = "</td><script>alert('1')</script>\x1b[2J\u202e&amp;"
LAYERS = (
    LayerChoice("stem", "Conv+Clip", "dense", 1.0, 400, "convolution dense", 8.0, 8.0, "", 1000),
    LayerChoice("block", "Conv", "block(4x4)", 0.25, 100, "sparse block(4x4)", 2.0, 5.0, "", 800),
    LayerChoice(EVIL, "Gemm", "unstructured", 0.5, 200, "linear dense", 3.0, 3.0, "reaches 0.80x of dense", 100),
    LayerChoice("pool", "GlobalAveragePool", "dense", 1.0, 0, "reduce", 1.0, None, ""),
)
PROGRAM = Program("net", (), (), (), {}, {}, 128, b"w" * 700, LAYERS)
STEPS = (
    Step("prune-blocks", "prune-blocks{density=0.25}", True, (LayerRecord("stem", EVIL, True),), 0.1),
    Step("fold-constants", "fold-constants", False, (), 0.1),
    Step("prune-blocks", "prune-blocks{density=0.20}", True, (LayerRecord("block", "done"),), 0.1),
)
FIDELITY = (
    ("prune-blocks", {"y": Comparison(math.inf, 12.0, 0.9, 0.75, 0.1)}),
    ("prune-blocks", {"y": Comparison(0.25, 12.0, 0.9)}),
)


def one_product():
    """x 1x4 times a 4x8 weight of which half is zero."""
    weight = np.ones((4, 8), np.float32)
    weight[:, 4:] = 0
    text = (
        '<ir_version: 8, opset_import: ["": 18]> g (float[1,4] x) => (float[1,8] y) <float[4,8] w> { y = MatMul(x, w) }'
    )
    model = ir.from_onnx_text(text, [ir.tensor(weight, name="w")])
    return model


@pytest.fixture
def data():
    model = one_product()
    sizes = (survey(model), survey(model), None)
    compressed = SimpleNamespace(original=model, model=model, steps=STEPS, fidelity=FIDELITY, sizes=sizes)
    return report.contents(compressed, PROGRAM, Target("wasm"))


def test_it_is_json_without_place_and_time(data):
    text = json.dumps(data, allow_nan=False)
    assert "seconds" not in text
    assert data["version"] == report.VERSION
    assert (data["name"], data["target"]) == ("net", "wasm")


def test_before_and_after(data):
    assert data["before"] == {"parameters": 32, "weight_bytes": 128, "zeros": 0.5, "macs": 32}
    assert data["after"]["weight_bytes"] == 700
    skipped = 600
    assert data["after"]["macs"] == data["before"]["macs"] - skipped


def test_totals_count_verdicts_and_prices(data):
    assert data["totals"] == {"layers": 4, "sparse": 1, "refused": 1, "unpriced": 0, "price": 14.0, "dense_price": 17.0}
    assert [layer["verdict"] for layer in data["layers"]] == ["dense", "sparse", "refused", "dense"]


def test_layers_have_the_stable_keys(data):
    assert all(set(report.LAYER_KEYS) <= layer.keys() for layer in data["layers"])


def test_fidelity_belongs_to_the_step_it_was_measured_after(data):
    first, folded, second = data["steps"]
    assert first["fidelity"]["y"]["relative_error"] is None
    assert folded["fidelity"] == {}
    assert second["fidelity"]["y"]["relative_error"] == 0.25
    assert first["records"] == [{"layer": "stem", "note": EVIL, "skipped": True}]


def test_each_step_has_the_sizes_after_it(data):
    keys = ("weight_bytes", "macs", "zeros")
    assert [[step[key] for key in keys] for step in data["steps"]] == [[128, 32, 0.5], [128, 32, 0.5], [None] * 3]


def test_a_report_it_made_passes_its_check(data):
    report.check(data, "here")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda d: d.pop("layers"), "layers"),
        (lambda d: d["layers"][1].pop("price"), r"layers\[1\].price"),
        (lambda d: d["layers"][0].update(density=None), r"layers\[0\].density"),
        (lambda d: d["steps"].append(3), r"steps\[3\]"),
        (lambda d: d["steps"][0]["fidelity"].update(z=1), r"steps\[0\].fidelity"),
    ],
)
def test_a_damaged_report_is_named(data, change, part):
    change(data)
    with pytest.raises(ArtifactError, match=f"Artifact 'here': file 'report.json' is damaged at '{part}"):
        report.check(data, "here")


def test_a_report_it_made_has_a_page(data):
    text = page(data, Facts("0.1.0", "", 4000, 128))
    for words in ("reaches 0.80x of dense", "prune-blocks{density=0.20}", "not finite"):
        assert words in text


def test_a_model_without_passes_or_layers_has_a_page():
    model = one_product()
    compressed = SimpleNamespace(original=model, model=model, steps=(), fidelity=(), sizes=())
    empty = Program("net", (), (), (), {}, {}, 0, b"", ())
    found = report.contents(compressed, empty, Target("wasm"))
    assert "compiled as it is" in page(found, Facts("0.1.0", "", 0, 0))
