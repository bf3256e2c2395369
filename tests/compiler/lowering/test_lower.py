# SPDX-License-Identifier: Apache-2.0
"""Lowered programs, run by a numpy interpreter, against onnxruntime."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsec.compiler.errors import UnsupportedError
from sparsec.compiler.golden import relative_error
from sparsec.compiler.graph import dtype_of, shape_of
from sparsec.compiler.importers import load_model
from sparsec.compiler.lowering.lower import lower
from sparsec.compiler.oracle import Oracle

_spec = importlib.util.spec_from_file_location("interpreter", Path(__file__).with_name("interpreter.py"))
interpreter = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(interpreter)

RNG = np.random.default_rng(1)


def model_of(nodes, inputs, weights=(), outputs=("y",)):
    """A model from nodes, input shapes by name, and arrays by name."""
    graph = helper.make_graph(
        [n for n in nodes],
        "test",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, s) for k, s in inputs.items()],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, None) for k in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in dict(weights).items()],
    )
    for number, node in enumerate(graph.node):
        node.name = node.name or f"n{number}"
    return load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def check(model, tolerance=1e-5):
    """Lower, run, compare with onnxruntime; returns the program."""
    program = lower(model, interpreter.BACKEND, "test")
    feeds = {v.name: normal(*shape_of(v)).astype(dtype_of(v)) for v in model.graph.inputs}
    expected, found = Oracle(model).run(feeds), interpreter.run(program, feeds)
    for name, array in expected.items():
        assert found[name].shape == array.shape
        assert relative_error(found[name], array) <= tolerance, name
    return program


def node(op, inputs, outputs="y", **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


CASES = {
    "conv": (
        [node("Conv", "x w b", pads=[1, 0, 1, 2], strides=[2, 1], group=2)],
        {"x": [2, 4, 7, 6]},
        {"w": normal(6, 2, 3, 3), "b": normal(6)},
    ),
    "conv1d": ([node("Conv", "x w", dilations=[2])], {"x": [1, 3, 9]}, {"w": normal(5, 3, 2)}),
    "conv-residual": (
        [node("Conv", "x w", "c"), node("Add", "c x", "s"), node("Relu", "s")],
        {"x": [1, 4, 5, 5]},
        {"w": normal(4, 4, 1, 1)},
    ),
    "silu": (
        [node("Conv", "x w", "c"), node("Sigmoid", "c", "s"), node("Mul", "c s")],
        {"x": [1, 4, 5, 5]},
        {"w": normal(4, 4, 1, 1)},
    ),
    "two-consumers": (
        [node("Conv", "x w", "c"), node("Relu", "c", "r"), node("Conv", "c w", "d"), node("Add", "r d")],
        {"x": [1, 4, 5, 5]},
        {"w": normal(4, 4, 1, 1)},
    ),
    "gemm": (
        [node("Gemm", "x w b", transB=1, alpha=0.5, beta=2.0)],
        {"x": [3, 4]},
        {"w": normal(5, 4), "b": normal(5)},
    ),
    "gemm-computed": ([node("Gemm", "x w b")], {"x": [3, 4], "w": [4, 5], "b": [5]}, {}),
    "matmul-batch": ([node("MatMul", "x w")], {"x": [2, 3, 4, 5], "w": [2, 3, 5, 2]}, {}),
    "matmul-shared": ([node("MatMul", "x w")], {"x": [2, 3, 4, 5], "w": [5, 2]}, {}),
    "matmul-bias": (
        [node("MatMul", "x w", "m"), node("Add", "b m")],
        {"x": [2, 3, 4]},
        {"w": normal(4, 6), "b": normal(6)},
    ),
    "broadcast": ([node("Add", "x z", "s"), node("Mul", "s x")], {"x": [2, 3, 4], "z": [3, 1]}, {}),
    "transpose": ([node("Transpose", "x", perm=[2, 0, 1])], {"x": [2, 3, 4]}, {}),
    "views": (
        [node("Reshape", "x s", "r"), node("Flatten", "r", "f", axis=1), node("Relu", "f")],
        {"x": [2, 3, 4]},
        {"s": np.array([2, 2, 6])},
    ),
    "slice": (
        [node("Slice", "x a b c d")],
        {"x": [4, 6, 5]},
        {"a": np.array([1, -4]), "b": np.array([100, -1]), "c": np.array([1, 2]), "d": np.array([2, 1])},
    ),
    "rows": (
        [node("Slice", "x a b c", "s"), node("Relu", "s")],
        {"x": [1, 6, 5]},
        {"a": np.array([2]), "b": np.array([4]), "c": np.array([1])},
    ),
    "split-concat": (
        [node("Split", "x s", "a b", axis=1), node("Concat", "b a x", axis=1)],
        {"x": [2, 5, 3]},
        {"s": np.array([2, 3])},
    ),
    "gather": ([node("Gather", "x i", axis=1)], {"x": [2, 5, 3]}, {"i": np.array(-2)}),
    "expand": ([node("Expand", "x s")], {"x": [3, 1]}, {"s": np.array([2, 3, 4])}),
    "softmax": ([node("Softmax", "x", axis=-1)], {"x": [2, 5, 3]}, {}),
    "softmax-inner": ([node("Softmax", "x", axis=1)], {"x": [2, 5, 3]}, {}),
    "layernorm": ([node("LayerNormalization", "x s b")], {"x": [2, 5, 8]}, {"s": normal(8), "b": normal(8)}),
    "reduce": ([node("ReduceMean", "x a", keepdims=0)], {"x": [2, 5, 3, 2]}, {"a": np.array([1, 2])}),
    "reduce-apart": ([node("ReduceSum", "x a")], {"x": [2, 5, 3, 2]}, {"a": np.array([0, 2])}),
    "pool": (
        [node("MaxPool", "x", "m", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
         node("AveragePool", "m", kernel_shape=[2, 2], pads=[1, 1, 0, 0])],
        {"x": [2, 3, 7, 6]},
        {},
    ),
    "global-pool": ([node("GlobalAveragePool", "x")], {"x": [2, 3, 4, 5]}, {}),
    "lstm": (
        [node("LSTM", "x w r b", "y h c", hidden_size=4, direction="bidirectional")],
        {"x": [3, 2, 5]},
        {"w": normal(2, 16, 5), "r": normal(2, 16, 4), "b": normal(2, 32)},
    ),
    "gru": (
        [node("GRU", "x w r b", "y", hidden_size=4, linear_before_reset=1, direction="reverse")],
        {"x": [3, 2, 5]},
        {"w": normal(1, 12, 5), "r": normal(1, 12, 4), "b": normal(1, 24)},
    ),
    "rnn": ([node("RNN", "x w r", "y", hidden_size=4)], {"x": [3, 1, 5]}, {"w": normal(1, 4, 5), "r": normal(1, 4, 4)}),
    "fallback": ([node("Sin", "x", "s"), node("Conv", "s w")], {"x": [1, 4, 5, 5]}, {"w": normal(4, 4, 1, 1)}),
    "resize-linear": (
        [node("Resize", "x r s", mode="linear", coordinate_transformation_mode="align_corners")],
        {"x": [1, 2, 5, 4]},
        {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 1.6, 2.5], np.float32)},
    ),
    "resize-nearest": (
        [node("Resize", "x r s", nearest_mode="floor", coordinate_transformation_mode="asymmetric")],
        {"x": [1, 2, 5, 4]},
        {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 0.6], np.float32)},
    ),
    "resize-half-pixel": (
        [node("Resize", "x r r s", mode="linear")],
        {"x": [1, 2, 5, 4]},
        {"r": np.zeros(0, np.float32), "s": np.array([1, 2, 9, 3])},
    ),
    "conv-transpose": (
        [node("ConvTranspose", "x w b", strides=[2, 3], pads=[1, 0, 1, 1], output_padding=[1, 0], group=2)],
        {"x": [2, 4, 3, 5]},
        {"w": normal(4, 3, 4, 3), "b": normal(6)},
    ),
    "conv-transpose-whole": (
        [node("ConvTranspose", "x w", strides=[2, 2])],
        {"x": [1, 3, 3, 4]},
        {"w": normal(3, 2, 2, 2)},
    ),
    "pow": ([node("Pow", "x e")], {"x": [3, 4]}, {"e": np.array(3.0, np.float32)}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operator(name):
    nodes, inputs, weights = CASES[name]
    outputs = {"lstm": ("y", "h", "c")}.get(name, ("y",))
    check(model_of(nodes, inputs, weights, outputs))


@pytest.mark.parametrize("name", ["silu", "conv-residual", "matmul-bias"])
def test_elementwise_work_joins_its_anchor(name):
    assert len(check(model_of(*CASES[name])).calls) == 1


def test_a_value_read_twice_is_not_swallowed():
    assert len(check(model_of(*CASES["two-consumers"])).calls) == 3


def test_views_cost_nothing():
    assert len(check(model_of(*CASES["views"])).calls) == 1
    assert len(check(model_of(*CASES["rows"])).calls) == 1


def test_outputs_may_be_inputs_constants_and_each_other():
    nodes = [node("Identity", "x", "a"), node("Relu", "x", "b"), node("Reshape", "b s", "c")]
    model = model_of(nodes, {"x": [2, 3]}, {"s": np.array([3, 2])}, ("a", "b", "c"))
    check(model)


def test_loops_are_refused_by_name():
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["v"], ["w"])],
        "body",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", 7, []), ("c", 9, []), ("v", 1, [2]))],
        [helper.make_tensor_value_info(n, t, s) for n, t, s in (("d", 9, []), ("w", 1, [2]))],
    )
    loop = helper.make_node("Loop", ["n", "", "x"], ["y"], body=body, name="steps")
    graph = helper.make_graph(
        [loop],
        "test",
        [helper.make_tensor_value_info("x", 1, [2]), helper.make_tensor_value_info("n", 7, [])],
        [helper.make_tensor_value_info("y", 1, [2])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(UnsupportedError, match=r"'steps'.*'Loop'"):
        lower(ir.from_proto(onnx.shape_inference.infer_shapes(proto)), interpreter.BACKEND, "test")


@pytest.mark.parametrize("shapes", [((0, 4), (4, 4)), ((1, 0), (0, 4))])
def test_a_product_of_nothing_is_refused(shapes):
    model = model_of([node("MatMul", "x w")], {"x": shapes[0]}, {"w": np.ones(shapes[1], np.float32)})
    message = "Layer 'n0': operator 'MatMul' works on an empty tensor, which is not supported."
    with pytest.raises(UnsupportedError) as caught:
        lower(model, interpreter.BACKEND, "test")
    assert str(caught.value) == message
