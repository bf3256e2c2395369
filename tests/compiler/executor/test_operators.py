# SPDX-License-Identifier: Apache-2.0
"""Each operator on small tensors against onnxruntime, one sample and a batch."""

import re

import numpy as np
import pytest

from sparsec.compiler.errors import UnsupportedError
from sparsec.compiler.oracle import Oracle

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

INT = np.int64
ONE = {  # x is float[2,3,4,6]
    "abs": "y = Abs (x)",
    "arithmetic": "a = Add (x, w) b = Sub (a, x) c = Mul (b, x) y = Div (c, w)",
    "powers": "a = Mul (x, x) b = Sqrt (a) c = Exp (x) d = Log (c) e = Reciprocal (c) y = Sum (b, c, d, e)",
    "square": "two = Constant <value_float = 2.0> () y = Pow (x, two)",
    "functions": "a = Erf (x) b = Sin (x) c = Cos (x) d = Tanh (x) e = Sigmoid (x) y = Sum (a, b, c, d, e)",
    "rectifiers": "a = Relu (x) b = LeakyRelu <alpha = 0.1> (x) y = Max (a, b)",
    "smooth rectifiers": "a = Elu <alpha = 0.5> (x) b = Softplus (x) y = Sum (a, b)",
    "hard": "a = HardSwish (x) b = HardSigmoid <alpha = 0.3, beta = 0.4> (x) y = Min (a, b)",
    "gelu": 'a = Gelu (x) b = Gelu <approximate = "tanh"> (x) c = Mish (x) y = Mean (a, b, c)',
    "softmax": "a = Softmax <axis = 1> (x) b = LogSoftmax (x) y = Add (a, b)",
    "prelu": "y = PRelu (x, w)",
    "mod": "y = Mod <fmod = 1> (x, w)",
    "round": "a = Round (x) b = Floor (x) c = Ceil (x) d = Sign (x) y = Sum (a, b, c, d)",
    "compare": "a = Greater (x, w) b = LessOrEqual (x, w) c = Not (a) d = And (b, c) y = Where (d, x, w)",
    "cast": "a = Cast <to = 7> (x) b = Cast <to = 1> (a) y = CastLike (b, x)",
    "clip": "y = Clip (x, low, high)",
    "transpose": "y = Transpose <perm = [3, 0, 2, 1]> (x)",
    "flatten": "y = Flatten <axis = 2> (x)",
    "concat": "y = Concat <axis = 2> (x, w, x)",
    "split": "a, b = Split <axis = 3, num_outputs = 2> (x) y = Sub (a, b)",
    "pool": "y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [0, 1, 1, 1]> (x)",
    "average": "y = AveragePool <kernel_shape = [3, 2], pads = [1, 0, 1, 1]> (x)",
    "average with padding": "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (x)",
    "global": "a = GlobalAveragePool (x) b = GlobalMaxPool (x) y = Add (a, b)",
    "greatest": "a = ArgMax <axis = 1> (x) y = Cast <to = 1> (a)",
    "least, last": "a = ArgMin <axis = 1, select_last_index = 1> (x) y = Cast <to = 1> (a)",
    "triangle": "y = Trilu <upper = 0> (x)",
    "depth": "a = Transpose <perm = [0, 2, 1, 3]> (x) b = DepthToSpace <blocksize = 2> (a) y = Abs (b)",
    "shape": "s = Shape (x) r = Reshape (x, s) y = Neg (r)",
    "identity": "a = Identity (x) y = Dropout (a)",
}
TWO = {  # with constants: operator text, constants
    "conv": ("y = Conv <pads = [1, 0, 1, 2], strides = [2, 1]> (x, k, b)", {"k": (5, 3, 3, 3), "b": (5,)}),
    "depthwise": ('y = Conv <group = 3, auto_pad = "SAME_UPPER", strides = [2, 2]> (x, k)', {"k": (3, 1, 3, 3)}),
    "dilated": ("y = Conv <dilations = [1, 2]> (x, k)", {"k": (2, 3, 2, 3)}),
    "transposed": (
        "y = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1]> (x, k, b)",
        {"k": (3, 2, 4, 4), "b": (2,)},
    ),
    "uneven": ("y = ConvTranspose <strides = [2, 2], pads = [0, 1, 1, 0]> (x, k)", {"k": (3, 2, 3, 3)}),
    "matmul": ("y = MatMul (x, k)", {"k": (6, 5)}),
    "batched": ("t = Transpose <perm = [0, 1, 3, 2]> (x) y = MatMul (t, x)", {}),
    "gemm": (
        "f = Flatten <axis = 2> (x) y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (f, k, b)",
        {"k": (4, 24), "b": (4,)},
    ),
    "layer": ("y = LayerNormalization (x, k, b)", {"k": (6,), "b": (6,)}),
    "layer of axes": ("y = LayerNormalization <axis = 2> (x, k)", {"k": (4, 6)}),
    "instance": ("y = InstanceNormalization (x, k, b)", {"k": (3,), "b": (3,)}),
}
INTS = {  # operator text, integer constants
    "reshape": ("y = Reshape (x, s)", {"s": [2, 0, -1]}),
    "axes": ("a = Unsqueeze (x, s) y = Squeeze (a, s)", {"s": [0, 3]}),
    "expand": ("a = Unsqueeze (x, t) y = Expand (a, s)", {"s": [2, 1, 1, 4, 6], "t": [0]}),
    "tile": ("y = Tile (x, s)", {"s": [1, 2, 1, 2]}),
    "slice": ("y = Slice (x, s, e, a, t)", {"s": [1, -1], "e": [9, -99], "a": [1, 3], "t": [1, -2]}),
    "pieces": ("a, b, c = Split <axis = 3> (x, s) y = Concat <axis = 3> (c, a, b)", {"s": [1, 2, 3]}),
    "gather": ("y = Gather <axis = 3> (x, s)", {"s": [[0, -1], [3, 3]]}),
    "sum": ("a = ReduceSum <keepdims = 0> (x, s) b = ReduceMean (a) y = Mul (a, b)", {"s": [1, -1]}),
    "reductions": (
        "a = ReduceMax (x, s) b = ReduceMin (x, s) c = ReduceL1 (x, s) d = ReduceL2 (x, s) e = ReduceLogSumExp (x, s) "
        "f = ReduceSumSquare (x, s) g = ReduceProd (x, s) y = Sum (a, b, c, d, e, f, g)",
        {"s": [1, 3]},
    ),
    "top": ("v, i = TopK <axis = 3> (x, s) f = Cast <to = 1> (i) y = Add (v, f)", {"s": [4]}),
    "least": ("v, i = TopK <axis = 1, largest = 0> (x, s) f = Cast <to = 1> (i) y = Add (v, f)", {"s": [2]}),
    "pad": ("y = Pad (x, s)", {"s": [0, 0, 1, 2, 0, 0, 0, -1]}),
    "elements": ("v, i = TopK <axis = 3> (x, s) y = GatherElements <axis = 3> (x, i)", {"s": [3]}),
    "scatter": ("v, i = TopK <axis = 3> (x, s) y = ScatterElements <axis = 3> (x, i, v)", {"s": [2]}),
    "scatter sum": (
        'v, i = TopK <axis = 3> (x, s) y = ScatterElements <axis = 3, reduction = "add"> (x, i, v)',
        {"s": [2]},
    ),
    "places": ("y = GatherND (x, s)", {"s": [[0, 1], [1, -1]]}),
    "running": ("y = CumSum <reverse = 1, exclusive = 1> (x, s)", {"s": 2}),
}
RESIZE = {
    "nearest": 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"',
    "linear": 'mode = "linear"',
    "corners": 'mode = "linear", coordinate_transformation_mode = "align_corners"',
    "cubic": 'mode = "cubic", cubic_coeff_a = -0.75',
}


def check(model, samples=3):
    """Outputs of every sample, alone and in a batch, against onnxruntime."""
    from sparsec.compiler.executor.executor import Executor

    (given,) = model.graph.inputs
    (wanted,) = (v.name for v in model.graph.outputs)
    x = np.random.RandomState(3).standard_normal((samples, *given.shape.numpy())).astype(np.float32)
    expected = np.stack([Oracle(model).run({given.name: row})[wanted] for row in x])
    executor = Executor(model)
    single = torch.stack([executor.run({given.name: torch.tensor(row)})[wanted] for row in x])
    batch = executor.run_batch({given.name: torch.tensor(x)})[wanted]
    for found in (single, batch):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def graph(body):
    """A graph from x to y whose output has no declared shape: the importer infers it."""
    return f"g (float[2,3,4,6] x) => (y) {{ {body} }}"


@pytest.mark.parametrize("name", ONE)
def test_without_integers(name, model_of, normal):
    body = ONE[name]
    constants = {
        "w": np.abs(normal(2, 3, 4, 6, seed=9)) + 0.5,
        "low": np.float32(-0.4),
        "high": np.float32(0.7),
    }
    used = {name: array for name, array in constants.items() if re.search(rf"\b{name}\b", body)}
    check(model_of(graph(body), **used))


@pytest.mark.parametrize("name", TWO)
def test_with_weights(name, model_of, normal):
    body, shapes = TWO[name]
    check(model_of(graph(body), **{k: normal(*shape, seed=n) for n, (k, shape) in enumerate(shapes.items())}))


@pytest.mark.parametrize("name", INTS)
def test_with_integers(name, model_of):
    body, constants = INTS[name]
    check(model_of(graph(body), **{k: np.array(v, INT) for k, v in constants.items()}))


@pytest.mark.parametrize("name", RESIZE)
def test_resize(name, model_of):
    check(model_of(graph(f"y = Resize <{RESIZE[name]}> (x, , , s)"), s=np.array([2, 3, 7, 9], INT)))


def test_normalization_without_mean(model_of, normal):
    check(model_of(graph("y = RMSNormalization (x, k)"), 23, k=normal(6)))


def test_equal_values_keep_their_order(model_of):
    from sparsec.compiler.executor.executor import Executor

    model = model_of("g (float[1,6] x) => (float[1,4] v, int64[1,4] i) { v, i = TopK (x, k) }", k=np.array([4], INT))
    x = np.array([[1, 2, 1, 2, 2, 1]], np.float32)
    assert Executor(model).run({"x": torch.tensor(x)})["i"].tolist() == Oracle(model).run({"x": x})["i"].tolist()


def test_unknown_operator_is_named(model_of):
    from sparsec.compiler.executor.executor import Executor

    model = model_of("g (float[2,2] x) => (float y) { y = Det (x) }")
    model.graph[0].name = "determinant"
    with pytest.raises(UnsupportedError) as caught:
        Executor(model).run({"x": torch.eye(2)})
    assert str(caught.value) == (
        "Operator Det of node 'determinant' has no counterpart in torch. "
        "Run the pass without torch, or rewrite the model with operators that have one."
    )
