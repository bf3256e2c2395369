# SPDX-License-Identifier: Apache-2.0
"""Graphs that are no graphs: each is refused with one clear ModelError."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from sparsec.compiler.errors import ModelError, UnsupportedError
from sparsec.compiler.importers.onnx import load_onnx

Parse = Callable[..., onnx.ModelProto]


def graph(nodes: list[onnx.NodeProto], outputs: list[str], **fields: object) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])]
    made = helper.make_graph(nodes, "g", given, infos)
    return helper.make_model(made, **{"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 8, **fields})


def node(op_type: str, reads: str, writes: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, reads.split(), writes.split(), **attributes)


@pytest.mark.parametrize(
    ("nodes", "match"),
    [
        ([node("Add", "x y", "a", name="first"), node("Relu", "a", "y")], "cyclic: node 'first'"),
        ([node("Relu", "y", "y", name="self")], "cyclic: node 'self'"),
        ([node("Relu", "none", "y", name="r")], r"Node 'r' \(Relu\) reads 'none', which nothing defines"),
        ([node("Relu", "x", "z")], "output 'y' is defined by nothing"),
        ([node("Relu", "x", "y"), node("Abs", "x", "y")], "name 'y' is defined twice"),
        ([node("Relu", "x", "x"), node("Abs", "x", "y")], "name 'x' is defined twice"),
        ([helper.make_node("Relu", [""], ["y"], name="r")], "its input 'X' is missing"),
        ([node("Add", "x", "y")], "has 1 inputs; 2 to 2 were expected"),
        ([node("Relu", "x x", "y")], "has 2 inputs"),
        ([node("Relu", "x", "y", alpha=1.0)], "unknown attribute 'alpha'"),
        ([node("Softmax", "x", "y", axis=1.5)], "'axis' is of the wrong type"),
        ([node("DepthToSpace", "x", "y", blocksize=1, mode=b"\xff")], "attribute 'mode' is no UTF-8 text"),
        ([node("Cast", "x", "y")], "attribute 'to' is missing"),
        ([node("Split", "x", "y z")], "Operator 'Split', node 'y'"),
    ],
)
def test_malformed(nodes: list[onnx.NodeProto], match: str) -> None:
    opset = 18 if nodes[0].op_type == "Split" else 17
    if opset == 18:
        nodes[0].attribute.append(helper.make_attribute("num_outputs", 2_000_000_000))
    with pytest.raises(ModelError, match=match):
        load_onnx(graph(nodes, ["y"], opset_imports=[helper.make_opsetid("", opset)]))


@pytest.mark.parametrize(
    ("made", "match"),
    [
        (node("Frobnicate", "x", "y", name="f"), "Operator 'Frobnicate', node 'f'"),
        (node("FusedConv", "x", "y", domain="com.microsoft"), "Operator 'com.microsoft.FusedConv'.*imports no such"),
        (node("Gelu", "x", "y"), "Operator 'Gelu', node 'y': is unknown; ONNX has none in version 17"),
    ],
)
def test_unknown_operator(made: onnx.NodeProto, match: str) -> None:
    with pytest.raises(UnsupportedError, match=match):
        load_onnx(graph([made], ["y"]))


@pytest.mark.parametrize("opset", [1, 5, 29, 2**40, -3])
def test_opset_out_of_range(opset: int) -> None:
    model = graph([node("Relu", "x", "y")], ["y"], opset_imports=[helper.make_opsetid("", opset)])
    with pytest.raises(ModelError, match=f"uses opset {opset}; 6 to 28 are supported"):
        load_onnx(model)


@pytest.mark.parametrize("version", [0, 2, 99])
def test_file_format_version_out_of_range(version: int) -> None:
    with pytest.raises(ModelError, match=f"IR version is {version}"):
        load_onnx(graph([node("Relu", "x", "y")], ["y"], ir_version=version))


def test_operator_set_twice() -> None:
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx", 13)]
    with pytest.raises(ModelError, match="imports an operator set twice"):
        load_onnx(graph([node("Relu", "x", "y")], ["y"], opset_imports=sets))


def test_no_outputs() -> None:
    with pytest.raises(ModelError, match="no outputs"):
        load_onnx(graph([node("Relu", "x", "y")], []))


def test_output_listed_twice() -> None:
    with pytest.raises(ModelError, match="output 'y' is listed twice"):
        load_onnx(graph([node("Relu", "x", "y")], ["y", "y"]))


def test_weight_defined_twice() -> None:
    model = graph([node("Add", "x w", "y")], ["y"])
    model.graph.initializer.extend([helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0] * 4)] * 2)
    with pytest.raises(ModelError, match="weight 'w' is defined twice"):
        load_onnx(model)


@pytest.mark.parametrize(
    ("graph_text", "match"),
    [
        ("g (string[4] x) => (string[4] y) { y = Identity(x) }", "Input 'x' of .* holds strings"),
        (
            "g (seq(float[4]) x) => (float[4] y) <int64 i = {0}> { y = SequenceAt(x, i) }",
            "Input 'x' of .* has the type seq",
        ),
        ("g (optional(float[4]) x) => (float[4] y) { y = OptionalGetElement(x) }", "Input 'x' of .* has the type opt"),
        ("g (float[4] x) => (seq(float[4]) y) { y = SequenceConstruct(x) }", "Output 'y' of .* has the type seq"),
        ("g (float[4] x) => (string[4] y) { y = Cast <to = 8> (x) }", "Output 'y' of .* holds strings"),
    ],
)
def test_types_other_than_tensors_of_numbers(parse: Parse, graph_text: str, match: str) -> None:
    with pytest.raises(UnsupportedError, match=match):
        load_onnx(parse(graph_text, 18))


def test_nodes_out_of_order_are_put_in_order(parse: Parse, import_same: Callable[..., object]) -> None:
    model = parse("g (float[1,4] x) => (float[1,4] y) { a = Neg(x) b = Exp(a) y = Abs(b) }")
    nodes = list(model.graph.node)
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(model)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(reversed(nodes))
    assert [n.op_type for n in load_onnx(shuffled).graph] == ["Neg", "Exp", "Abs"]


@pytest.mark.parametrize(
    ("graph_text", "match"),
    [
        (
            "g (float[4] x) => (float[4] y) <int64[4] i = {1,2,3,4}> { y = Add(x, i) }",
            "'Add', node 'y': contradicts its inputs",
        ),
        ("g (int32[4] x) => (int32[4] y) { y = Sin(x) }", "has unsupported type: tensor.int32"),
        ("g (float[4] x) => (float[3] y) <float[3] w = {1,2,3}> { y = Add(x, w) }", "Incompatible dimensions"),
        ("g (float[4] x) => (float[N] y) <int64[2] s = {3,3}> { y = Reshape(x, s) }", r"cannot turn the shape \[4\]"),
        ("g (float[4] x) => (float[1] y) <int64[1] i = {9}> { y = Gather(x, i) }", "constant indices from 9 to 9"),
        ("g (float[4] x) => (float[1] y) <int64[1,1] i = {-5}> { y = GatherND(x, i) }", "constant indices from -5"),
        ("g (int32[4] x) => (int32[4] y) <int32[1] z = {0}> { y = Div(x, z) }", "divides integers by a constant zero"),
        ("g (float[4] x) => (float[N] y) <int64[2] p = {-9,-9}> { y = Pad(x, p) }", "of shape -14 is impossible"),
        (
            "g (float[1,4,5,5] x, float[4,4,3,3] w) => (float[A,B,C,D] y) { y = Conv <group = 0> (x, w) }",
            "has 4 input channels, 0 groups",
        ),
        (
            "g (float[1,1,5,5] x, float[1,1,3,3] w) => (float[A,B,C,D] y) { y = Conv <auto_pad = 'A'> (x, w) }".replace(
                "'A'", '"A"'
            ),
            "'auto_pad' is 'A', which ONNX does not know",
        ),
    ],
)
def test_nodes_that_cannot_be_executed(parse: Parse, graph_text: str, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        load_onnx(parse(graph_text))


@pytest.mark.parametrize("axis", [2**63 - 1, -(2**63), 4, -5, 100])
@pytest.mark.parametrize("opset", [17, 27])
def test_axes_that_are_not_there(parse: Parse, axis: int, opset: int) -> None:
    """ONNX's inference would read behind the dimensions, in the model's opset as well as in ours."""
    text = f"""g (float[2,3,4,5] x, float[4,5] w, int64[2] s) => (float[2,3,4,5] y, int64[1] n) {{
        n = ReduceSum <keepdims = 1> (s) y = LayerNormalization <axis = {axis}> (x, w) }}"""
    with pytest.raises(ModelError, match=f"'LayerNormalization', node 'y': its 'axis' is {axis}, but its first input"):
        load_onnx(parse(text, opset))


def test_negative_batch_dimensions(parse: Parse) -> None:
    text = "g (int32[2,2,2] x, int64[2,1] i) => (int32[2,2] y) { y = GatherND <batch_dims = -2> (x, i) }"
    with pytest.raises(ModelError, match="its 'batch_dims' is -2"):
        load_onnx(parse(text))


def test_axis_inside_a_branch(parse: Parse) -> None:
    text = """g (float[2,3] x, float[3] w, bool c) => (float[2,3] y) {
        y = If(c) <then_branch = t () => (float[2,3] a) { a = LayerNormalization <axis = 99> (x, w) },
                   else_branch = e () => (float[2,3] b) { b = Neg(x) }> }"""
    with pytest.raises(ModelError, match="its 'axis' is 99"):
        load_onnx(parse(text))


class TestFunctions:
    def test_recursion(self, parse: Parse) -> None:
        text = '<domain: "d", opset_import: ["" : 17, "d" : 1]> f (x) => (y) { y = d.f(x) }'
        model = parse("g (float[4] x) => (float[4] y) { y = d.f(x) }", functions=text, domains=', "d" : 1')
        with pytest.raises(ModelError, match=r"function 'd.f' calls itself"):
            load_onnx(model)

    def test_exponential_growth(self, parse: Parse) -> None:
        head = '<domain: "d", opset_import: ["" : 17, "d" : 1]> '
        calls = [f"{head} f{i} (x) => (y) {{ a = d.f{i + 1}(x) y = d.f{i + 1}(a) }}" for i in range(40)]
        text = "\n".join([*calls, f"{head} f40 (x) => (y) {{ y = Relu(x) }}"])
        model = parse("g (float[4] x) => (float[4] y) { y = d.f0(x) }", functions=text, domains=', "d" : 1')
        with pytest.raises(ModelError, match="1099511627776 nodes once its functions are inlined"):
            load_onnx(model)

    def test_deep_chain_of_calls(self, parse: Parse) -> None:
        head = '<domain: "d", opset_import: ["" : 17, "d" : 1]> '
        calls = [f"{head} f{i} (x) => (y) {{ y = d.f{i + 1}(x) }}" for i in range(3000)]
        text = "\n".join([*calls, f"{head} f3000 (x) => (y) {{ y = Relu(x) }}"])
        model = parse("g (float[4] x) => (float[4] y) { y = d.f0(x) }", functions=text, domains=', "d" : 1')
        with pytest.raises(ModelError, match="call each other more than 64 deep"):
            load_onnx(model)


def test_large_weights_need_no_declared_type():
    text = '<ir_version: 10, opset_import: ["": 21]>\ng (float[1,64] x) => (float[1,64] y) { y = MatMul(x, w) }'
    model = ir.from_onnx_text(text, initializers=[ir.tensor(np.ones((64, 64), np.float32), name="w")])
    assert model.graph.initializers["w"].type is None
    assert load_onnx(model).graph.initializers["w"].const_value.shape == (64, 64)
