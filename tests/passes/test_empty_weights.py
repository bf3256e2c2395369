# SPDX-License-Identifier: Apache-2.0
"""Weights without an element: passes leave them alone, a survey counts them, and compilation refuses them by name."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsec.compiler import driver
from sparsec.compiler.errors import UnsupportedError
from sparsec.compiler.importers import load_model
from sparsec.compiler.survey import survey
from sparsec.compiler.sweep.request import Request
from sparsec.compiler.sweep.sweep import sweep

PASSES = ("quantize", "prune-nm{min_weights=1}", "gqsa{min_weights=1}", "prune-blocks{min_weights=1}")


@pytest.fixture
def narrow(normal):
    """y = (x A) (a 16x0 matrix) (a 0x16 one) + x A."""
    nodes = [("one", "x A", "a"), ("two", "a B", "b"), ("three", "b C", "c")]
    products = [helper.make_node("MatMul", reads.split(), [made], name) for name, reads, made in nodes]
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 16))] for name in "xy"]
    arrays = {"A": normal(16, 16), "B": np.zeros((16, 0), np.float32), "C": np.zeros((0, 16), np.float32)}
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph([*products, helper.make_node("Add", ["c", "a"], ["y"], "sum")], "g", *ports, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_a_survey_counts_them(narrow):
    found = survey(load_model(narrow))
    assert [(layer.name, layer.parameters, layer.macs) for layer in found.layers] == [
        ("one", 256, 512), ("two", 0, 0), ("three", 0, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("text", PASSES)
def test_passes_leave_them_alone(text, narrow, normal):
    (step,) = driver.compress(driver.job(narrow, "host", None, {"x": normal(8, 2, 16)}, passes=[text])).steps
    assert step.changed
    assert [(r.layer, r.note) for r in step.records if r.skipped] == [
        ("two", "its weight is empty"), ("three", "its weight is empty"),
    ]  # fmt: skip


def test_a_sweep_leaves_them_alone(narrow, normal):
    _, model, context = driver.imported(driver.job(narrow, calibration={"x": normal(20, 2, 16)}, measures=True))
    found = sweep(model, Request(("prune-blocks{min_weights=1}",), (0.5,)), context)
    assert [len(layer.curves) for layer in found.layers] == [1, 0, 0]


def test_compilation_refuses_them_by_name(narrow):
    job = driver.job(narrow, "host")
    with pytest.raises(UnsupportedError) as caught:
        driver.lower(driver.compress(job), job)
    assert str(caught.value) == (
        "Node 'two' (MatMul): its weight 'B' has the shape 16x0, and so no element; expected at least one. "
        "Take the node out of the model."
    )
