# SPDX-License-Identifier: Apache-2.0
"""From a model to an artifact that runs: quantized residuals in every layout, and determinism."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.compiler import driver
from sparsec.compiler.golden import relative_error

RNG = np.random.default_rng(0)
QUANTIZE = ("quantize{correct_bias=false}",)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def model(operator, chain, inputs, channels):
    """Two layers of `operator` with weights w1, w2, wired as `chain` says."""
    last = (1, 1) if operator == "Conv" else ()
    shapes = {"w1": (channels, 6, *last), "w2": (channels, channels, *last)}
    if operator == "MatMul":
        shapes["w1"] = (6, channels)
    nodes = [helper.make_node(op, names.split(), [out], name=out) for op, names, out in chain]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(normal(*shape), name) for name, shape in shapes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def chain(operator, kind):
    """A residual of codes added to a float32 result, or of float32 added to a result that becomes codes."""
    if kind == "codes":
        return [(operator, "x w1", "a"), ("Relu", "a", "r"), (operator, "r w2", "b"), ("Add", "b r", "y")]
    return [(operator, "x w1", "a"), ("Add", "a z", "s"), ("Relu", "s", "r"), (operator, "r w2", "y")]


@pytest.mark.parametrize("channels", [7, 8])
@pytest.mark.parametrize("kind", ["codes", "float32"])
@pytest.mark.parametrize("operator", ["Conv", "MatMul"])
@pytest.mark.parametrize("target", ["wasm", "x86"])
def test_quantized_residuals(target, operator, kind, channels, tmp_path):
    data = {"Conv": [2, 6, 5, 5], "MatMul": [2, 5, 6]}[operator]
    result = {"Conv": [2, channels, 5, 5], "MatMul": [2, 5, channels]}[operator]
    inputs = {"x": data} | ({"z": result} if kind == "float32" else {})
    calibration = {name: normal(16, *shape) for name, shape in inputs.items()}
    proto = model(operator, chain(operator, kind), inputs, channels)
    with sparsec.compile(proto, target, None, calibration, output=tmp_path / "out", passes=QUANTIZE) as artifact:
        golden = artifact.golden()
        found = artifact.run(golden.inputs)
        assert relative_error(found["y"], golden.outputs["y"]) < 1e-5
        assert any(kernel.family in ("convolution", "sparse") for kernel in artifact.manifest.kernels)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    proto = model("Conv", chain("Conv", "codes"), {"x": [1, 6, 5, 5]}, 8)
    calibration = {"x": normal(16, 1, 6, 5, 5)}
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        sparsec.compile(proto, "wasm", "int8", calibration, output=folder).close()
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert contents[0] == contents[1]


def test_fidelity_is_measured_on_the_data_held_out(tmp_path):
    proto = model("MatMul", chain("MatMul", "codes"), {"x": [2, 5, 6]}, 8)
    given = {"calibration": {"x": normal(20, 2, 5, 6)}, "heldout": {"x": normal(3, 2, 5, 6)}}
    errors = []
    for options in ({}, {"heldout": given["heldout"]}):
        notes = []
        arguments = {"recipe": "int8", "calibration": given["calibration"], "notice": notes.append, **options}
        compressed = driver.compress(driver.job(proto, "wasm", **arguments))
        errors.append(compressed.fidelity[-1][1]["y"].relative_error)
        assert any("the last 5 of 20 calibration samples" in note for note in notes) == (not options)
        assert len(compressed.sizes) == len(compressed.steps)
    assert errors[0] != errors[1]
