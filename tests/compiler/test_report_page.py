# SPDX-License-Identifier: Apache-2.0
import copy
import json
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import pytest

from sparsec.compiler.errors import ArtifactError
from sparsec.compiler.report_html import breakeven, chart, layers, units
from sparsec.compiler.report_html.page import page
from sparsec.compiler.report_html.summary import Facts

EVIL = "</td></title><script>alert('1')</script>\" onload=\"x\x1b[2J\u202e&amp;{{ 7 * 7 }}"
SHOWN = EVIL.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
FACTS = Facts("0.1.0", "version: 1\npasses:\n- prune-blocks\n", 4000, 128, (("input", "x", "float32", (1, 3)),))
FOUND = {"relative_error": 0.25, "sqnr_db": 12.0, "correlation": 0.9, "top1": 0.75, "kl": 1.1e-6, "rows": 4}


def layer(name, verdict="dense", density=1.0, price=8.0, rival=8.0, **more):
    pattern = "dense" if verdict == "dense" else "block(4x4)"
    return {
        "name": name,
        "op": "Conv+Clip",
        "pattern": pattern,
        "density": density,
        "bytes": 400,
        "kernel": f"convolution {pattern}",
        "price": price,
        "rival_price": rival,
        "refused": "reaches 0.80x of dense" if verdict == "refused" else "",
        "macs": 1000,
        "verdict": verdict,
        "shape": [8, 16, 1, 1],
        "precision": "int8",
        "breakeven_density": 0.25 if verdict == "refused" else None,
        **more,
    }


def step(name, changed=True, fidelity=None, records=(), **more):
    sizes = {"weight_bytes": 500, "macs": 2000, "zeros": 0.5}
    found = {"y": FOUND} if fidelity is None else fidelity
    return {
        "name": name,
        "text": f"{name}{{density=0.5}}",
        "changed": changed,
        **sizes,
        "records": list(records),
        "fidelity": found,
        **more,
    }


CURVE = {
    "shape": "8x16x49",
    "pattern": "block(4x4)",
    "precision": "int8",
    "densities": [0.1, 0.5, 0.9],
    "ratios": [6.0, 1.8, 0.9],
    "pays_from": 0.8,
}


@pytest.fixture
def data():
    side = {"parameters": 100, "weight_bytes": 1000, "zeros": 0.0, "macs": 2000}
    found = {
        "version": 1,
        "name": "net",
        "target": "wasm",
        "before": side,
        "after": {**side, "weight_bytes": 700, "zeros": 0.5, "macs": 1500},
        "totals": {"layers": 4, "sparse": 1, "refused": 1, "unpriced": 0, "price": 14.0, "dense_price": 17.0},
        "profile": {"machine": "a machine", "source": "built-in"},
        "breakeven": [CURVE],
        "steps": [
            step("prune-blocks", records=[{"layer": "stem", "note": "it is small", "skipped": True}]),
            step("quantize"),
        ],
        "layers": [
            layer("stem"),
            layer("block", "sparse", 0.25, 2.0, 5.0),
            layer("late", "refused", 0.6, 3.0, 3.0),
            layer("pool", rival=None, shape=[], precision="", bytes=0),
        ],
    }
    return copy.deepcopy(found)


class Tags(HTMLParser):
    """Collects tags, attributes and text; checks that what is opened is closed."""

    VOID = ("meta", "wbr", "line")

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)
        self.text = "".join(self.texts)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_it_loads_nothing(data):
    text = page(data, FACTS)
    found = Tags(text)
    assert not {"link", "img", "iframe", "object", "form", "base", "a"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "href", "action")]
    assert not re.search(r"url\(|@import|https?:", text)


def test_the_only_script_it_allows_is_its_own(data):
    text = page(data, FACTS)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text


def test_hostile_names_stay_text(data):
    data |= {"name": EVIL, "target": EVIL, "profile": {"machine": EVIL, "source": EVIL}}
    data["breakeven"] = [{**CURVE, "shape": EVIL, "pattern": EVIL, "precision": EVIL}]
    data["layers"] = [
        layer(EVIL, "sparse", 0.5, 2.0, 5.0, op=EVIL, pattern=EVIL, kernel=EVIL, precision=EVIL, refused=EVIL),
        layer("worse", EVIL),
    ]
    data["steps"] = [step(EVIL, fidelity={EVIL: FOUND}, records=[{"layer": EVIL, "note": EVIL, "skipped": True}])]
    data["steps"] += [step("last", fidelity={EVIL: {**FOUND, "sqnr_db": -1.0}}), step("idle", False, {}, [
        {"layer": EVIL, "note": EVIL, "skipped": True}])]  # fmt: skip
    text = page(data, Facts(EVIL, EVIL, 1, 1, ((EVIL, EVIL, EVIL, (1,)),)))
    found = Tags(text)
    assert found.tags.count("script") == 1
    assert not {"\x1b", "\u202e"} & set(text)
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert found.text.count(SHOWN) > 12
    assert any(SHOWN in value for name, value in found.attributes if name == "title")


def test_it_shows_what_was_compiled_and_every_layer_pass_and_refusal(data):
    text = Tags(page(data, FACTS)).text
    for words in (
        "net for wasm", "sparsec 0.1.0", "sparsec's profile of a machine", "1\N{MULTIPLICATION SIGN}3",
        "- prune-blocks", "stem", "pool",
        "reaches 0.80x of dense", "prune-blocks{density=0.5}", "4.00 kB", "128 B", "it is small (stem)",
        "1.21\N{MULTIPLICATION SIGN}", "2.50\N{MULTIPLICATION SIGN}", "12.0 dB", "pays from 80.0 % down",
    ):  # fmt: skip
        assert words in text, words


def test_the_number_of_threads_is_named_where_there_are_several(data):
    assert "threads" not in Tags(page(data, FACTS)).text
    assert "Compiled by sparsec 0.1.0 for 2 threads." in Tags(page(data, replace(FACTS, threads=2))).text


def test_equal_reports_give_equal_pages(data):
    again = json.loads(json.dumps(data, sort_keys=True))
    assert page(data, FACTS) == page(again, FACTS)


def test_ten_thousand_layers(data):
    data["layers"] = [layer(f"layer{n}<script>", "sparse", 0.5, 1.0 + n, 2.0 + n) for n in range(10_000)]
    text = page(data, FACTS)
    found = Tags(text)
    assert f"The {layers.MOST_BARS} longest of 10000 bars" in found.text
    assert f"Only the {breakeven.MOST_DOTS} dearest of 10000 are drawn" in found.text
    assert found.tags.count("circle") < 500
    assert found.tags.count("li") < 200
    assert [found.text.count(f"layer{n}<script>") for n in (5000, 9999)] == [1, 3]
    assert text.count("<script") == 1
    assert len(text) < 10_000_000


def test_a_report_of_an_older_version_has_a_page(data):
    for key in ("profile", "breakeven"):
        del data[key]
    for found in data["layers"]:
        for key in ("shape", "precision", "breakeven_density"):
            del found[key]
    text = Tags(page(data, FACTS)).text
    assert "a machine that the report does not name" in text


def test_a_model_without_passes_or_layers_has_a_page(data):
    data |= {"steps": [], "layers": [], "breakeven": []}
    data["totals"] = {"layers": 0, "sparse": 0, "refused": 0, "unpriced": 0, "price": 0, "dense_price": 0}
    text = Tags(page(data, Facts("0.1.0", "", 0, 0))).text
    assert "compiled as it is" in text
    assert "sparsec breakeven --target wasm --model MODEL" in text
    assert "Accuracy beside speed" not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["steps"].append(step("q", fidelity={"y": {**FOUND, "sqnr_db": -3.0}})), "no nearer to the origi"),
        (lambda d: d["steps"].append(step("idle", False, {}, [{"layer": "a", "note": "odd", "skipped": True}])),
         "Pass 'idle' left all layers alone: odd."),
        (lambda d: [s.update(fidelity={}) for s in d["steps"]], "Fidelity was not measured"),
        (lambda d: d["totals"].update(unpriced=3), "No time is predicted for 3 layers of general code."),
        (lambda d: d["totals"].update(unpriced=1), "No time is predicted for 1 layer of general code."),
    ],
)  # fmt: skip
def test_warnings(data, change, words):
    assert "To heed" not in Tags(page(data, FACTS)).text
    change(data)
    text = Tags(page(data, FACTS)).text
    assert "To heed" in text
    assert words in text


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda d: d.pop("totals"), "totals"),
        (lambda d: d["before"].update(macs=None), "before.macs"),
        (lambda d: d["layers"][1].pop("price"), "layers[1].price"),
        (lambda d: d["layers"][0].update(density=float("nan")), "layers[0].density"),
        (lambda d: d["layers"][0].update(shape=["a"]), "layers[0].shape[0]"),
        (lambda d: d["steps"][1].update(changed=1), "steps[1].changed"),
        (lambda d: d["steps"].append(3), "steps[2]"),
        (lambda d: d["steps"][0]["fidelity"].update(z=1), "steps[0].fidelity.z"),
        (lambda d: d["breakeven"][0].update(pays_from="0.5"), "breakeven[0].pays_from"),
        (lambda d: d.update(profile=[]), "profile"),
    ],
)
def test_a_damaged_report_is_refused(data, change, part):
    change(data)
    with pytest.raises(ArtifactError) as error:
        page(data, FACTS, "here")
    assert str(error.value) == f"Artifact 'here': file 'report.json' is damaged at '{part}'. Compile the model again."


def test_no_number_breaks_it(data):
    """Zero and huge prices, densities and sizes, and gains beyond the plot: all stay inside the drawing."""
    extremes = (0, 1e-300, 1, 1e300)
    data["layers"] = [
        layer(f"{verdict} {price} {rival} {density}", verdict, density, price, rival, bytes=int(price))
        for verdict in ("sparse", "refused")
        for price in extremes
        for rival in (*extremes, None)
        for density in (0, 1, 7)
    ]
    data["before"] = dict.fromkeys(data["before"], 0)
    data["breakeven"] = [{**CURVE, "ratios": [0, None, 1e300]}, {**CURVE, "densities": [], "ratios": []}]
    text = page(data, FACTS)
    found = Tags(text)
    widths = [float(number) for number in re.findall(r"width:([-\d.e+naif]+)%", text)]
    assert widths
    assert all(0 <= width <= 100 for width in widths)
    for name, high in (("cx", chart.WIDTH), ("cy", breakeven._HEIGHT)):
        assert all(0 <= float(value) <= high for key, value in found.attributes if key == name)


def test_bars_show_the_gain_over_the_rival():
    found = layers.time_bars([layer("a", "sparse", 0.5, 2.0, 5.0), layer("b", price=4.0, rival=4.0)])
    first, second = found.bars
    assert (first.name, first.share, first.rival, first.gain) == ("a", 0.4, 1.0, "2.50\N{MULTIPLICATION SIGN}")
    assert (second.name, second.share, second.gain) == ("b", 0.8, "")


def test_bytes_are_compared_with_dense_float32():
    (bar,) = layers.byte_bars([layer("a", bytes=128)]).bars
    assert (bar.share, bar.rival, bar.gain) == (0.25, 1.0, "4.00\N{MULTIPLICATION SIGN}")


def test_layers_without_a_price_have_no_time_bar():
    general = layer("general", kernel="fallback", price=0.0, rival=None)
    assert layers.time_bars([general]).bars == []
    assert layers.table([general])[0].cells[3].text == units.NONE


def test_the_plot_marks_where_a_refused_layer_would_have_paid(data):
    found = breakeven.plot(data)
    (goal,) = [dot for dot in found.chart.dots if dot.kind == "goal"]
    assert "would have paid from density 25.0 % down" in goal.label
    (refused,) = [dot for dot in found.chart.dots if dot.kind == "refused"]
    assert goal.x < refused.x
    (sparse,) = [dot for dot in found.chart.dots if dot.kind == "sparse"]
    assert sparse.y < refused.y
    assert (found.layers, found.refused, found.left_out) == (2, 1, 0)


def test_a_refused_layer_that_no_density_helps_has_no_mark(data):
    data["layers"][2]["breakeven_density"] = None
    assert [dot for dot in breakeven.plot(data).chart.dots if dot.kind == "goal"] == []


@pytest.mark.parametrize(
    ("low", "high", "by_powers", "ticks"),
    [
        (0.0, 1.0, False, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-11.0, 23.0, False, [-10.0, 0.0, 10.0, 20.0]),
        (0.45, 4.4, True, [0.5, 1.0, 2.0, 4.0]),
    ],
)
def test_ticks_are_round(low, high, by_powers, ticks):
    assert chart.Scale(low, high, 0, 100, by_powers).ticks() == ticks


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0409, "0.0409"),
        (3.49, "3.49"),
        (1.1e-6, "1.1\N{MULTIPLICATION SIGN}10\u207b\u2076"),
        (-2.5, "-2.5"),
    ],
)
def test_scientific_numbers(value, text):
    assert units.scientific(value) == text


def test_a_report_is_not_changed(data):
    before = copy.deepcopy(data)
    page(data, FACTS)
    assert data == before


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("conv_stem", "conv_stem"),
        ("/backbone/encoder/layer.0/mlp/fc1/MatMul", "/b/e/layer.0/mlp/fc1/MatMul"),
        ("/backbone/encoder/layer.11/attention/output/dense/MatMul", "/b/e/l.11/a/o/dense/MatMul"),
        ("a" * 40, "\N{HORIZONTAL ELLIPSIS}" + "a" * 27),
        ("", ""),
    ],
)
def test_long_names_keep_what_tells_them_apart(name, short):
    assert units.brief(name) == short
