# SPDX-License-Identifier: Apache-2.0
"""The loader takes the relaxed module only where the engine computes it right: the probe, and first runs in Node."""

import json
import platform
import re
from pathlib import Path

import numpy as np
import pytest
import wasmtime
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.backends.tuning import timing
from sparsec.backends.wasm import loader
from sparsec.backends.wasm.emit import MODULES
from sparsec.compiler.golden import relative_error
from tests.backends.wasm_node import FLAGS, needs_node, node, node_version

ROOT = Path(__file__).resolve().parents[2]
PROBE = (ROOT / "backends" / "wasm" / "probe.wat").read_text("utf-8")
CODE = re.sub(r";;.*", "", PROBE)
DOT = "i32x4.relaxed_dot_i8x16_i7x16_add_s"
PLACES = [match.start() for match in re.finditer(DOT, CODE)]


def dot(total="(local.get 2)", sign="s"):
    """A dot product in exact instructions, added to `total`; its weights are signed or not."""
    low, high = (
        "(i32x4.dot_i16x8_s"
        f" (i16x8.extend_{half}_i8x16_{sign} (local.get 0)) (i16x8.extend_{half}_i8x16_s (local.get 1)))"
        for half in ("low", "high")
    )
    even, odd = "0 1 2 3 8 9 10 11 16 17 18 19 24 25 26 27", "4 5 6 7 12 13 14 15 20 21 22 23 28 29 30 31"
    halves = [f"(i8x16.shuffle {lanes} {low} {high})" for lanes in (even, odd)]
    sums = f"(local.tee 3 (i32x4.add {halves[0]} {halves[1]}))"
    head = "(func $dot (param v128 v128 v128) (result v128) (local v128)"
    return f"{head} (i32x4.add {sums} {total}))"


def answer(text):
    store = wasmtime.Store()
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, text), []).exports(store)
    return exports["exact"](store)


def calling(function, places=PLACES):
    """The probe with its dot products at these places in the text computed by a function."""
    text = CODE
    for place in sorted(places, reverse=True):
        text = text[:place] + "call $dot" + text[place + len(DOT) :]
    return text.rstrip().removesuffix(")") + function + ")"


def test_exact_arithmetic_passes_the_probe():
    assert answer(loader.probe()) == 1
    assert answer(calling(dot())) == 1


@pytest.mark.parametrize("place", PLACES)
def test_a_dot_product_that_overwrites_its_accumulator_fails(place):
    assert answer(calling(dot(total="(local.get 3)"), [place])) == 0


@pytest.mark.parametrize(
    "text",
    [
        calling(dot(sign="u")),
        calling(dot(total="(v128.const i64x2 0 0)")),
        CODE.replace("relaxed_madd", "relaxed_nmadd"),
        CODE.replace("laneselect (local.get 0) (local.get 1)", "laneselect (local.get 1) (local.get 0)"),
        CODE.replace("relaxed_trunc_f32x4_s", "relaxed_trunc_f32x4_u"),
    ],
    ids=["unsigned", "not added", "madd", "laneselect", "trunc"],
)
def test_other_faults_fail(text):
    assert text != CODE
    assert answer(text) == 0


def test_the_probe_runs_every_relaxed_instruction_of_the_kernels():
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "backends").rglob("*.py"))
    used = set(re.findall(r"llvm\.wasm\.relaxed\.(\w+)", sources))
    assert used == set(re.findall(r"\.relaxed_([a-z]+)", CODE))


@pytest.mark.parametrize(
    ("version", "flags"),
    [("v20.20.2", ["--experimental-wasm-relaxed-simd", "--no-liftoff"]), ("v22.23.3", []), ("v200.0.0", [])],
)
def test_flags_of_node(version, flags, monkeypatch):
    monkeypatch.setattr(timing, "_node_version", lambda: version)
    assert timing.relaxed_flag() == flags


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    """An int8 artifact: two convolutions, its input and what wasmtime computes."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((16, 8, 3, 3)), "v": rng.standard_normal((8, 16, 1, 1))}
    nodes = [("Conv", ["x", "w"], "a"), ("Relu", ["a"], "r"), ("Conv", ["r", "v"], "y")]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, [out], name=out) for op, inputs, out in nodes],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 7, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    x = rng.standard_normal((16, 1, 8, 7, 7)).astype(np.float32)
    folder = tmp_path_factory.mktemp("int8") / "out"
    with sparsec.compile(proto, "wasm", "int8", {"x": x}, output=folder) as artifact:
        return folder, x[0], artifact.run({"x": x[0]})["y"]


def first_run(folder, x, options, flags):
    """What the first run in a new process computes, and whether the engine passed the probe."""
    script = f"""
      import {{ hasRelaxedSimd, load }} from "./model.mjs";
      const model = await load({options});
      const {{ y }} = model.run({{ x: new Float32Array({x.ravel().tolist()}) }});
      console.log(JSON.stringify([[...y], hasRelaxedSimd()]));
    """
    return node(folder, script, *flags)


@needs_node
@pytest.mark.node
@pytest.mark.parametrize("flags", FLAGS, ids=FLAGS.values())
def test_the_first_run_of_an_int8_artifact_is_right(int8, flags):
    folder, x, expected = int8
    found, relaxed = first_run(folder, x, "", flags)
    assert relative_error(np.array(found, np.float32).reshape(expected.shape), expected) < 1e-5
    if node_version() > 20 or "--no-liftoff" in flags:
        assert relaxed
    elif not flags or platform.machine() == "x86_64":
        assert not relaxed


@needs_node
@pytest.mark.node
@pytest.mark.parametrize("flags", [flags for flags in FLAGS if flags or node_version() > 20])
def test_a_module_that_the_user_names_is_taken_as_it_is(int8, flags):
    """And the probe says whether its first run will be right."""
    folder, x, expected = int8
    for name in MODULES:
        found, relaxed = first_run(folder, x, f"{{ wasm: {json.dumps(name)} }}", flags)
        error = relative_error(np.array(found, np.float32).reshape(expected.shape), expected)
        assert (error < 1e-5) == (relaxed or name != "model.wasm")
