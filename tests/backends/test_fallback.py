# SPDX-License-Identifier: Apache-2.0
import ctypes
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from sparsec.backends import link
from sparsec.backends.fallback import lower_node
from sparsec.backends.isa import ISAS
from sparsec.backends.tir import ALIGNMENT, build_object
from sparsec.compiler.errors import UnsupportedError
from sparsec.compiler.importers.limits import OPSET
from sparsec.compiler.lowering.kernel import Fallback, FallbackCall

ISA = ISAS["avx2"]
RNG = np.random.default_rng(5)


def f32(*shape):
    return RNG.normal(0, 1, shape).astype("float32")


def ints(*shape, low=-5, high=6, dtype="int64"):
    return RNG.integers(low, high, shape).astype(dtype)


def i64(*values):
    return np.array(values, "int64")


@dataclass(frozen=True)
class Case:
    """One node: its inputs by position (None: absent), those from `known` on are constants."""

    op: str
    inputs: tuple
    attributes: dict = field(default_factory=dict)
    known: int = 99
    outputs: int = 1
    want: np.ndarray | None = None

    def __post_init__(self):
        object.__setattr__(self, "inputs", tuple(a if a is None else np.asarray(a) for a in self.inputs))

    def constants(self):
        return [a if k >= self.known else None for k, a in enumerate(self.inputs)]

    def names(self):
        return ["" if a is None else f"x{k}" for k, a in enumerate(self.inputs)]

    def expected(self):
        """By onnxruntime, where it has the operator."""
        if self.want is not None:
            return [self.want]
        outs = [f"y{k}" for k in range(self.outputs)]
        node = onnx.helper.make_node(self.op, self.names(), outs, **self.attributes)
        feeds = {n: a for n, a in zip(self.names(), self.inputs, strict=True) if a is not None}
        known = {n for n, a in zip(self.names(), self.constants(), strict=True) if a is not None}
        kind = onnx.helper.np_dtype_to_tensor_dtype
        ports = [onnx.helper.make_tensor_value_info(n, kind(a.dtype), a.shape) for n, a in feeds.items()]
        results = [onnx.ValueInfoProto(name=n) for n in outs]
        weights = [onnx.numpy_helper.from_array(feeds[n], n) for n in known]
        graph = onnx.helper.make_graph([node], "g", [p for p in ports if p.name not in known], results, weights)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10)
        feeds = {n: a for n, a in feeds.items() if n not in known}
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, feeds)

    def node(self, results):
        values = [None if a is None else _value(n, a) for n, a in zip(self.names(), self.inputs, strict=True)]
        attributes = [ir.from_proto(onnx.helper.make_attribute(k, v)) for k, v in self.attributes.items()]
        made = ir.Node("", self.op, values, attributes, num_outputs=len(results), name="layer")
        for k, (value, array) in enumerate(zip(made.outputs, results, strict=True)):
            value.name, value.type, value.shape = f"y{k}", _value("", array).type, ir.Shape(array.shape)
        return made


def _value(name, array):
    kind = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    return ir.Value(name=name, type=kind, shape=ir.Shape(array.shape))


IMAGE = f32(1, 3, 4, 4)
SCALE = (np.float32(0.02), np.uint8(120))
WEIGHT_SCALES = (np.array([0.01, 0.02, 0.03], "float32"), np.zeros(3, "int8"))
CASES = {
    "sin": Case("Sin", (f32(3, 5),)),
    "acosh": Case("Acosh", (1 + f32(7) ** 2,)),
    "erf": Case("Erf", (f32(300),)),
    "float64": Case("Sin", (f32(6).astype("float64"),)),
    "float16": Case("Exp", (f32(9).astype("float16"),)),
    "pow": Case("Pow", (f32(3, 4) ** 2, f32(4))),
    "einsum": Case("Einsum", (f32(2, 3, 4), f32(2, 4, 5)), {"equation": "bij,bjk->bik"}),
    "gather": Case("Gather", (f32(5, 4), ints(2, 3, low=-5, high=5)), {"axis": 0}),
    "gather_nd": Case("GatherND", (f32(3, 4, 2), i64([0, 1], [2, 3]))),
    "gather_elements": Case("GatherElements", (f32(3, 3), ints(2, 3, low=0, high=3)), {"axis": 0}),
    "scatter_nd": Case("ScatterND", (f32(5, 3), i64([1], [4]), f32(2, 3))),
    "scatter_elements": Case("ScatterElements", (f32(3, 3), i64([2, 0, 1]), f32(1, 3)), {"axis": 0}),
    "resize_nearest": Case("Resize", (f32(1, 2, 3, 4), None, None, i64(1, 2, 6, 8)), {"mode": "nearest"}, 1),
    "resize_linear": Case("Resize", (f32(1, 2, 4, 4), None, None, i64(1, 2, 7, 5)), {"mode": "linear"}, 1),
    "top_k": Case("TopK", (f32(3, 8), i64(3)), {"axis": 1}, 1, 2),
    "top_k_smallest": Case("TopK", (ints(6, 4), i64(2)), {"axis": 0, "largest": 0}, 1, 2),
    "cum_sum": Case("CumSum", (f32(3, 5), np.array(1)), {"exclusive": 1, "reverse": 1}, 1),
    "where": Case("Where", (ints(3, 4, low=0, high=2).astype(bool), f32(3, 4), f32(4))),
    "reduce_sum": Case("ReduceSum", (f32(2, 3, 4), i64(0, 2)), {"keepdims": 0}, 1),
    "reduce_max": Case("ReduceMax", (ints(3, 4, dtype="int32"), i64(1)), {}, 1),
    "reduce_prod": Case("ReduceProd", (f32(3, 4), i64(-1)), {}, 1),
    "reduce_log_sum_exp": Case("ReduceLogSumExp", (f32(3, 4), i64(0)), {}, 1),
    "reduce_l2": Case("ReduceL2", (f32(3, 4), i64(0)), {}, 1),
    "arg_max": Case("ArgMax", (f32(3, 7),), {"axis": 1, "keepdims": 0}),
    "pad_constant": Case("Pad", (f32(2, 3), i64(0, 1, 2, 0), np.float32(1.5).reshape(())), {}, 1),
    "pad_reflect": Case("Pad", (f32(4, 5), i64(1, 2, 3, 1)), {"mode": "reflect"}, 1),
    "pad_edge": Case("Pad", (f32(4, 5), i64(1, 2, 3, 1)), {"mode": "edge"}, 1),
    "one_hot": Case("OneHot", (ints(2, 3, low=0, high=4), np.array(4), np.array([0, 1], "float32")), {"axis": -1}, 1),
    "lrn": Case("LRN", (f32(1, 6, 3, 3),), {"size": 3, "alpha": 0.01}),
    "instance_norm": Case("InstanceNormalization", (f32(2, 3, 4, 4), f32(3), f32(3)), {}, 1),
    "group_norm": Case("GroupNormalization", (f32(2, 4, 3, 3), f32(4), f32(4)), {"num_groups": 2}, 1),
    "depth_to_space": Case("DepthToSpace", (f32(1, 8, 2, 3),), {"blocksize": 2, "mode": "CRD"}),
    "space_to_depth": Case("SpaceToDepth", (f32(1, 2, 4, 6),), {"blocksize": 2}),
    "trilu": Case("Trilu", (f32(4, 5), np.array(1)), {"upper": 0}, 1),
    "mod": Case("Mod", (ints(20), ints(20, low=1, high=5) * i64(1, -1).repeat(10))),
    "fmod": Case("Mod", (f32(20) * 9, f32(20)), {"fmod": 1}),
    "bit_shift": Case("BitShift", (ints(8, low=0, dtype="uint32"),) * 2, {"direction": "LEFT"}),
    "not": Case("Not", (ints(8, low=0, high=2).astype(bool),)),
    "cast_to_half": Case("Cast", (f32(8) * 1e4,), {"to": onnx.TensorProto.FLOAT16}),
    "cast_to_integer": Case("Cast", (f32(8) * 100,), {"to": onnx.TensorProto.INT64}),
    "int8_add": Case("Add", (ints(8, dtype="int8"), ints(8, dtype="int8"))),
    "round": Case("Round", (np.array([0.5, 1.5, 2.5, -0.5, -1.5, 2.3], "float32"),)),
    "split": Case("Split", (f32(6, 2), i64(1, 3, 2)), {"axis": 0}, 1, 3),
    "tile": Case("Tile", (f32(2, 3), i64(2, 2)), {}, 1),
    "expand": Case("Expand", (f32(3, 1), i64(2, 3, 4)), {}, 1),
    "slice": Case("Slice", (f32(6, 5), i64(4, 0), i64(0, 5), i64(0, 1), i64(-2, 2)), {}, 1),
    "transpose": Case("Transpose", (f32(2, 3, 4),), {"perm": [2, 0, 1]}),
    "conv_transpose": Case("ConvTranspose", (f32(1, 3, 4, 4), f32(3, 2, 3, 3)), {"strides": [2, 2]}, 1),
    "conv_1d": Case("Conv", (f32(1, 3, 9), f32(4, 3, 3)), {"pads": [1, 1]}, 1),
    "conv_3d": Case("Conv", (f32(1, 2, 4, 4, 4), f32(3, 2, 2, 2, 2)), {}, 1),
    "max_pool_1d": Case("MaxPool", (f32(1, 3, 9),), {"kernel_shape": [3], "strides": [2]}),
    "hard_swish": Case("HardSwish", (f32(20) * 4,)),
    "mish": Case("Mish", (f32(20),)),
    "grid_sample": Case("GridSample", (f32(1, 2, 4, 4), np.tanh(f32(1, 3, 3, 2)))),
    "identity": Case("Identity", (f32(4),)),
    "pow_of_integers": Case("Pow", (ints(9, dtype="int32"), ints(9, low=0, high=9, dtype="int32"))),
    "pow_mixed": Case("Pow", (f32(9), ints(9))),
    "is_inf_positive": Case("IsInf", (np.array([1, np.inf, -np.inf], "float32"),), {"detect_negative": 0}),
    "layer_norm_statistics": Case("LayerNormalization", (f32(3, 8), f32(8), f32(8)), {}, 1, 3),
    "lp_normalization": Case("LpNormalization", (f32(3, 4),), {"p": 1}),
    "global_lp_pool": Case("GlobalLpPool", (IMAGE,), want=np.sqrt((IMAGE**2).sum((2, 3), keepdims=True))),
    "conv_integer": Case("ConvInteger", (ints(1, 2, 5, 5, low=0, dtype="uint8"),
                                         ints(3, 2, 3, 3, low=0, dtype="uint8"), np.uint8(2))),
    "q_linear_conv": Case("QLinearConv", (ints(1, 2, 5, 5, low=0, high=256, dtype="uint8"), *SCALE,
                                          ints(3, 2, 3, 3, low=-127, high=128, dtype="int8"), *WEIGHT_SCALES,
                                          np.float32(0.7), np.uint8(100), ints(3, dtype="int32")), {}, 1),
    "q_linear_matmul": Case("QLinearMatMul", (ints(4, 6, low=0, high=256, dtype="uint8"), *SCALE,
                                              ints(6, 5, low=0, high=256, dtype="uint8"), *SCALE,
                                              np.float32(0.9), np.uint8(128)), {}, 1),
    "dropout_mask": Case("Dropout", (f32(4),), {}, 99, 2),
    "one_hot_inner_axis": Case("OneHot", (ints(2, 3, low=0, high=4), np.array(4), i64(2, 5)), {"axis": -2}, 1),
    "large_temporary": Case("Softmax", (f32(2, 600),), {"axis": 0}),
}  # fmt: skip


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Every case's fallback, its expected results, and one library with all functions."""
    expected = {name: case.expected() for name, case in CASES.items()}
    lowered = {name: lower_node(case.node(expected[name]), case.constants()) for name, case in CASES.items()}
    functions = {symbol: f for fallback in lowered.values() for symbol, f in fallback.functions.items()}
    made = build_object(functions, ISA)
    path = tmp_path_factory.mktemp("fallback") / "libfallback.so"
    link.shared_library([made.object], ISA, list(functions), path)
    return expected, lowered, ctypes.CDLL(str(path)), made.workspace_bytes


def aligned(size):
    raw = np.zeros(size + ALIGNMENT, "uint8")
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]


def run(library, workspace, fallback, inputs, outputs):
    """Call the functions as an artifact would."""
    spaces = {
        "input": [None if a is None else np.ascontiguousarray(a) for a in inputs],
        "constant": fallback.constants,
        "temporary": [aligned(size) for size in fallback.temporaries],
        "output": outputs,
    }
    for call in fallback.calls:
        arrays = [spaces[space][index] for space, index in call.arguments]
        arrays += [aligned(workspace[call.symbol])] if workspace[call.symbol] else []
        getattr(library, call.symbol)(*(ctypes.c_void_p(array.ctypes.data) for array in arrays))


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_onnxruntime(compiled, name):
    expected, lowered, library, workspace = compiled
    outputs = [np.empty_like(array) for array in expected[name]]
    run(library, workspace, lowered[name], CASES[name].inputs, outputs)
    for got, want in zip(outputs, expected[name], strict=True):
        if want.dtype.kind == "f":
            tolerance = 1e-2 if want.dtype == np.float16 else 2e-5
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance / 10)
        else:
            np.testing.assert_array_equal(got, want)


def test_the_same_node_gives_the_same_symbols():
    case = CASES["scatter_nd"]
    results = case.expected()
    first, second = (lower_node(case.node(results), case.constants()) for _ in range(2))
    assert list(first.functions) == list(second.functions)
    assert first.calls == second.calls


def test_an_identity_is_a_copy():
    case = CASES["identity"]
    fallback = lower_node(case.node(case.expected()), case.constants())
    (symbol,) = fallback.functions
    assert fallback == Fallback((FallbackCall(symbol, (("input", 0), ("output", 0))),), fallback.functions)


def test_constants_are_arrays_of_the_fallback():
    case = CASES["conv_transpose"]
    fallback = lower_node(case.node(case.expected()), case.constants())
    assert any(np.array_equal(array, case.inputs[1]) for array in fallback.constants)


def test_an_index_beyond_the_axis_touches_no_foreign_memory(compiled):
    _, lowered, library, workspace = compiled
    data, got = CASES["gather"].inputs[0], np.empty((2, 3, 4), "float32")
    run(library, workspace, lowered["gather"], (data, np.full((2, 3), 10**15)), [got])
    np.testing.assert_array_equal(got, np.broadcast_to(data[-1], got.shape))


REFUSED = {
    "unknown": (Case("Bernoulli", (f32(3),)), [f32(3)], "'Bernoulli' is not supported"),
    "shape_from_data": (Case("NonZero", (f32(3),)), [ints(1, 3)], "depends on the data"),
    "a_graph": (
        Case("If", (np.array(True),), {"then_branch": onnx.helper.make_graph([], "t", [], []),
                                       "else_branch": onnx.helper.make_graph([], "e", [], [])}),
        [f32(3)],
        "a graph of its own",
    ),
    "type": (Case("Add", (np.zeros(3, "complex64"),) * 2), [np.zeros(3, "complex64")], "has type 'complex64'"),
    "training": (Case("Dropout", (f32(3), np.float32(0.5), np.array(True))), [f32(3)], "training mode"),
    "training_norm": (Case("BatchNormalization", (f32(1, 2, 3), *(f32(2),) * 4), {"training_mode": 1}),
                      [f32(1, 2, 3)], "training"),
    "uneven_scale": (Case("Resize", (f32(1, 1, 4, 4), None, np.array([1, 1, 0.6, 0.6], "float32")), {}, 1),
                     [f32(1, 1, 2, 2)], "whole number of elements"),
    "antialias": (Case("Resize", (f32(1, 1, 4, 4), None, None, i64(1, 1, 2, 2)), {"antialias": 1}, 1),
                  [f32(1, 1, 2, 2)], "'antialias'"),
    "roi_maximum": (Case("RoiAlign", (f32(1, 1, 4, 4), f32(1, 4), i64(0)), {"mode": "max"}),
                    [f32(1, 1, 1, 1)], "'max'"),
    "space_order": (Case("SpaceToDepth", (f32(1, 1, 2, 2),), {"blocksize": 2, "mode": "CRD"}),
                    [f32(1, 4, 1, 1)], "'DCR'"),
    "brain_float": (Case("Relu", (f32(2),)), [np.zeros(2, ir.DataType.BFLOAT16.numpy())], "type 'bfloat16'"),
    "empty": (Case("Relu", (f32(0, 2),)), [f32(0, 2)], "is empty"),
    "needs_a_constant": (Case("TopK", (f32(3, 8), i64(3)), {}, 99, 2), [f32(3, 3), ints(3, 3)], "'TopK' is not"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused_by_name(name):
    case, results, message = REFUSED[name]
    with pytest.raises(UnsupportedError, match=f"Layer 'layer': operator '{case.op}'") as caught:
        lower_node(case.node(results), case.constants())
    assert message in str(caught.value)


def test_a_node_of_another_domain_is_refused():
    case = CASES["identity"]
    node = case.node(case.expected())
    node.domain = "com.acme"
    with pytest.raises(UnsupportedError, match=r"domain .com\.acme."):
        lower_node(node, case.constants())
