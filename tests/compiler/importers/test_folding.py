# SPDX-License-Identifier: Apache-2.0
"""Constants fold, within limits; branches with constant conditions disappear; copies go."""

import time
from collections.abc import Callable

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from sparsec.compiler.errors import ModelError, UnsupportedError
from sparsec.compiler.importers.onnx import load_onnx

Parse = Callable[..., onnx.ModelProto]
Import = Callable[..., ir.Model]
Ops = Callable[[ir.Model], list[str]]

SHAPE_ARITHMETIC = """g (float[n,2,4,4] x) => (float[n,32] y) {
    s = Shape(x) zero = Constant <value = int64 {0}> () b = Gather(s, zero) axes = Constant <value_ints = [0]> ()
    bu = Unsqueeze(b, axes) rest = Constant <value_ints = [-1]> () t = Concat <axis = 0> (bu, rest)
    y = Reshape(x, t) }"""


def test_shape_arithmetic(parse: Parse, import_same: Import, op_types: Ops) -> None:
    assert op_types(import_same(parse(SHAPE_ARITHMETIC))) == ["Reshape"]


def test_weights_in_constant_nodes(parse: Parse, import_same: Import) -> None:
    text = "g (float[4] x) => (float[4] y) { w = Constant <value = float[4] {1,2,3,4}> () y = Mul(x, w) }"
    assert list(import_same(parse(text)).graph.initializers) == ["w"]


def test_weights_that_are_also_inputs(parse: Parse, import_same: Import) -> None:
    model = parse("g (float[4] x) => (float[4] y) <float[4] w = {1,2,3,4}> { y = Mul(x, w) }")
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4]))
    model.ir_version = 3
    assert list(import_same(model).graph.initializers) == ["w"]


def test_weight_transposed_and_split(parse: Parse, import_same: Import, op_types: Ops) -> None:
    text = """g (float[1,2] x) => (float[1,1] y, float[1,2] z) <float[3,2] w = {1,2,3,4,5,6}, int64[2] s = {1,2}> {
        t = Transpose(w) a, b = Split <axis = 1> (t, s) y = MatMul(x, a) z = MatMul(x, b) }"""
    assert op_types(import_same(parse(text))) == ["MatMul", "MatMul"]


def test_outputs_that_are_constant_or_inputs_or_shared(parse: Parse, import_same: Import, op_types: Ops) -> None:
    text = "g (float[1,4] x) => (int64[2] s, float[1,4] i, float[1,4] a, float[1,4] b) "
    text += "{ s = Shape(x) i = Identity(x) a = Abs(x) b = Identity(a) }"
    assert sorted(op_types(import_same(parse(text)))) == ["Abs", "Identity", "Identity", "Identity"]


def test_weight_as_output(parse: Parse, import_same: Import) -> None:
    import_same(parse("g (float[2] x) => (float[2] y, float[2] w) <float[2] w = {1,2}> { y = Add(x, w) }"))


def test_copies_and_idle_dropout(parse: Parse, import_same: Import, op_types: Ops) -> None:
    text = "g (float[4] x) => (float[4] y) { a = Identity(x) b = Abs(a) c = Dropout(b) y = Identity(c) }"
    assert op_types(import_same(parse(text))) == ["Abs"]


def test_dropout_between_input_and_output(parse: Parse, import_same: Import, op_types: Ops) -> None:
    text = "g (float[4] x) => (float[4] y, bool[4] m) { y, m = Dropout <seed = 1> (x) }"
    assert sorted(op_types(import_same(parse(text)))) == ["ConstantOfShape", "Identity"]


def test_dropout_in_training(parse: Parse) -> None:
    text = "g (float[4] x) => (float[4] y) <float r = {0.5}, bool t = {1}> { a = Dropout(x, r, t) y = Abs(a) }"
    with pytest.raises(UnsupportedError, match=r"'Dropout', node 'a': is in training mode"):
        load_onnx(parse(text))


def test_unused_things_go(parse: Parse, import_same: Import, op_types: Ops) -> None:
    text = "g (float[4] x) => (float[4] y) <float[4] w = {1,2,3,4}> { y = Abs(x) u = Mul(x, w) }"
    model = import_same(parse(text))
    assert op_types(model) == ["Abs"]
    assert not model.graph.initializers


def test_names(parse: Parse) -> None:
    model = parse("g (float[4] x) => (float[4] y) { a = Abs(x) b = Neg(a) y = Exp(b) }")
    model.graph.node[0].name = "layer.1"
    model.graph.node[1].name = "layer.1"
    assert [node.name for node in load_onnx(model).graph] == ["layer.1", "layer.1_1", "y"]


class TestBranches:
    @pytest.mark.parametrize("taken", [0, 1])
    def test_constant_condition(self, parse: Parse, import_same: Import, op_types: Ops, taken: int) -> None:
        text = f"""g (float[1,4] x) => (float[1,4] y) <bool c = {{{taken}}}> {{ z = Neg(x)
            a = If(c) <then_branch = t () => (float[1,4] p) {{ n = Exp(z) p = Abs(n) }},
                       else_branch = e () => (float[1,4] q) {{ q = Identity(z) }}>
            y = Relu(a) }}"""
        assert op_types(import_same(parse(text))) == (["Neg", "Exp", "Abs", "Relu"] if taken else ["Neg", "Relu"])

    def test_condition_from_a_shape(self, parse: Parse, import_same: Import, op_types: Ops) -> None:
        text = """g (float[n,4] x) => (float[n,4] y) { s = Shape <start = 1> (x) four = Constant <value_ints = [4]> ()
            c = Equal(s, four) axes = Constant <value_ints = [0]> () d = Squeeze(c, axes)
            y = If(d) <then_branch = t () => (float[n,4] p) { k = Constant <value = float[1] {2}> () p = Mul(x, k) },
                       else_branch = e () => (float[n,4] q) { q = Abs(x) }> }"""
        assert op_types(import_same(parse(text))) == ["Mul"]

    def test_output_straight_from_outside(self, parse: Parse, import_same: Import) -> None:
        text = """g (float[1,4] x) => (float[1,4] y, float[1,4] z) <bool c = {1}> { z = Neg(x)
            y = If(c) <then_branch = t () => (float[1,4] p) { p = Identity(z) },
                       else_branch = e () => (float[1,4] q) { q = Abs(x) }> }"""
        import_same(parse(text))

    def test_same_names_in_both_branches_and_outside(self, parse: Parse, import_same: Import) -> None:
        branch = "() => (float[4] p) {{ n = {0}(x) p = Abs(n) }}"
        then, other = branch.format("Exp"), branch.format("Sin")
        nodes = [f"a{i} = If(c{i}) <then_branch = t {then}, else_branch = e {other}>" for i in range(2)]
        text = (
            f"g (float[4] x) => (float[4] y) <bool c0 = {{1}}, bool c1 = {{0}}> {{ {' '.join(nodes)} y = Add(a0, a1) }}"
        )
        import_same(parse(text))


class TestSequences:
    @pytest.mark.parametrize("sizes", ["int64[2] s = {1,3}", "int64 s = {3}"])
    def test_split_and_pick(self, parse: Parse, import_same: Import, op_types: Ops, sizes: str) -> None:
        text = f"""g (float[2,4] x) => (float[2,n] y) <{sizes}, int64 i = {{-1}}> {{
            q = SplitToSequence <axis = 1> (x, s) y = SequenceAt(q, i) }}"""
        assert op_types(import_same(parse(text))) == ["Split"]

    def test_unstack_and_stack(self, parse: Parse, import_same: Import, op_types: Ops) -> None:
        text = """g (float[2,4] x) => (float[4,2] y) <int64 i = {0}, int64 j = {1}> {
            q = SplitToSequence <axis = 0, keepdims = 0> (x) a = SequenceAt(q, i) b = SequenceAt(q, j)
            r = SequenceConstruct(b, a) y = ConcatFromSequence <axis = 1, new_axis = 1> (r) }"""
        found = op_types(import_same(parse(text)))
        assert found[0] == "Split"
        assert found[-1] == "Concat"

    def test_unknown_member_is_refused(self, parse: Parse) -> None:
        text = "g (float[2,4] x, int64 i) => (float[1,4] y) { q = SplitToSequence(x) y = SequenceAt(q, i) }"
        with pytest.raises(UnsupportedError, match="no tensor; sequences"):
            load_onnx(parse(text))


DOUBLINGS = " ".join(f"s{i + 1} = Concat <axis = 0> (s{i}, s{i})" for i in range(40))


class TestBombs:
    @pytest.mark.parametrize(
        "text",
        [
            "g (float[1,4] x) => (float[n] y) <int64[1] s = {1000000000000}> { y = ConstantOfShape(s) }",
            "g (float[1,4] x) => (float[n] y) <int64[2] s = {4611686018427387904, 4}> { y = ConstantOfShape(s) }",
            "g (float[1,4] x) => (float[n] y) <int64[2] s = {4611686018427387904, 4}> { y = Expand(x, s) }",
            "g (float[1,4] x) => (float[n] y) <int64[2] s = {1000000000, 4}> { y = Tile(x, s) }",
            "g (float[1,4] x) => (float[n] y) <float a = {0}, float b = {1e30}, float c = {0}> { y = Range(a, b, c) }",
            "g (float[1,4] x) => (int64[n] y) { s0 = Shape(x) " + DOUBLINGS + " y = Neg(s40) }",
            "g (float[1,4] x) => (float[n] y) <float[2] s0 = {1,2}> {" + DOUBLINGS + " y = Neg(s40) }",
            "g (int64[4] x) => (float[n,m] y) <int64 d = {9000000000000}, float[2] v = {0,1}> { y = OneHot(x, d, v) }",
        ],
    )
    def test_refused_in_no_time(self, parse: Parse, text: str) -> None:
        started = time.monotonic()
        with pytest.raises(ModelError):
            load_onnx(parse(text))
        assert time.monotonic() - started < 20

    def test_large_constants_stay_nodes(self, parse: Parse, op_types: Ops) -> None:
        text = """g (float[1] x) => (float[1] y) <int64[1] s = {100000000}> {
            c = ConstantOfShape(s) m = ReduceSum(c) y = Add(x, m) }"""
        assert op_types(load_onnx(parse(text))) == ["ConstantOfShape", "ReduceSum", "Add"]

    def test_many_middling_constants_stay_nodes(
        self, parse: Parse, op_types: Ops, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sparsec.compiler.importers.folding.MAX_FOLDED_TOTAL_BYTES", 1000)
        parts = [f"c{i} = ConstantOfShape(s) y{i} = Add(x, c{i})" for i in range(4)]
        outputs = ", ".join(f"float[100] y{i}" for i in range(4))
        text = f"g (float[1] x) => ({outputs}) <int64[1] s = {{100}}> {{ {' '.join(parts)} }}"
        assert op_types(load_onnx(parse(text))).count("ConstantOfShape") == 2
