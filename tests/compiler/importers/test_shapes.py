# SPDX-License-Identifier: Apache-2.0
"""Pinning of dynamic dimensions, and static shapes everywhere."""

from collections.abc import Callable, Mapping, Sequence

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from sparsec.compiler.errors import ModelError, UnsupportedError
from sparsec.compiler.importers.onnx import load_onnx

Parse = Callable[..., onnx.ModelProto]
ADD = "g (float[batch,3,h,w] x, float[batch,3,h,w] z) => (float[batch,3,h,w] y) { y = Add(x, z) }"


def shapes_of(model: ir.Model) -> list[list[int]]:
    values = [*model.graph.inputs, *model.graph.outputs]
    return [[int(dim) for dim in value.shape.numpy()] for value in values if value.shape is not None]


def test_leading_dimension_defaults_to_one_and_says_so(parse: Parse) -> None:
    said: list[str] = []
    model = load_onnx(parse("g (float[n,3] x) => (float[n,3] y) { y = Abs(x) }"), reporter=said.append)
    assert shapes_of(model) == [[1, 3], [1, 3]]
    assert said == ["Input 'x': the leading dimension is dynamic; it is set to 1."]


def test_static_inputs_say_nothing(parse: Parse) -> None:
    said: list[str] = []
    load_onnx(parse("g (float[2,3] x) => (float[2,3] y) { y = Abs(x) }"), reporter=said.append)
    assert said == []


def test_other_dynamic_dimension_needs_a_shape(parse: Parse) -> None:
    with pytest.raises(ModelError) as caught:
        load_onnx(parse(ADD))
    assert str(caught.value) == (
        "Input 'x', dimension 2 (batchx3xhxw) is dynamic; a compiled model has static shapes. "
        "Give them, as in '--shape x=1x3x224x224'."
    )


def test_a_name_pinned_once_holds_everywhere(parse: Parse) -> None:
    model = load_onnx(parse(ADD), {"x": [2, 3, 8, 9]})
    assert shapes_of(model) == [[2, 3, 8, 9]] * 3


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ({"q": [1]}, r"input 'q': the model has no such input. Its inputs are 'x', 'z'"),
        ({"x": [1, 3, 8]}, r"'x' has 4 dimensions .*, but the shape given for it has 3 \(1x3x8\)"),
        ({"x": [1, 4, 8, 8]}, "'x', dimension 1 is 3 in the model, but 4 in the shape given"),
        ({"x": [1, 3, 0, 8]}, "dimension 2: the size given is 0; it must be at least 1"),
        ({"x": [1, 3, 8, -1]}, "dimension 3: the size given is -1"),
        ({"x": [1, 3, 8, 8], "z": [2, 3, 8, 8]}, "'z', dimension 0: 2 was asked for, but dimension 'batch' is 1"),
    ],
)
def test_contradicting_shapes(parse: Parse, shapes: Mapping[str, Sequence[int]], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        load_onnx(parse(ADD), shapes)


def test_input_without_shape() -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelError, match="'x' has no shape in the model"):
        load_onnx(model)
    assert shapes_of(load_onnx(model, {"x": [4, 5]})) == [[4, 5], [4, 5]]


def test_negative_dimension_in_a_file_means_dynamic(parse: Parse) -> None:
    model = parse("g (float[2,3] x) => (float[2,3] y) { y = Abs(x) }")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert shapes_of(load_onnx(model))[0] == [1, 3]


def test_what_the_file_says_about_values_in_between_is_not_believed(parse: Parse) -> None:
    text = "g (float[2,3] x) => (float[7,8] y) <float[a,b] t> { t = Abs(x) y = Neg(t) }"
    assert shapes_of(load_onnx(parse(text))) == [[2, 3], [2, 3]]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "g (float[4] x) => (int64[1,n] y) { y = NonZero(x) }",
            "'NonZero', node 'y', output 'y': .* depends",
        ),
        ("g (float[4] x, bool[4] c) => (float[n] y) { y = Compress(x, c) }", "Operator 'Compress'"),
        (
            "g (float[4] x, int64 n, bool s) => (float[m,4] y) "
            "{ y = Loop <body = b (int64 i, bool c) => (bool d, float[4] z) { d = Identity(c) z = Abs(x) }> (n, s) }",
            "'Loop', node 'y', output 'y': its shape is unknown; loops",
        ),
        ("g (float[4] x, int64[1] s) => (float[n] y) { y = Reshape(x, s) }", "Operator 'Reshape'"),
    ],
)
def test_data_dependent_shape_names_the_operator(parse: Parse, text: str, match: str) -> None:
    with pytest.raises(UnsupportedError, match=match):
        load_onnx(parse(text))


def test_the_source_is_left_alone(parse: Parse) -> None:
    model = parse(ADD)
    before = model.SerializeToString(deterministic=True)
    load_onnx(model, {"x": [1, 3, 4, 4]})
    assert model.SerializeToString(deterministic=True) == before
    source = ir.from_proto(model)
    before = ir.to_proto(source).SerializeToString(deterministic=True)
    load_onnx(source, {"x": [1, 3, 4, 4]})
    assert ir.to_proto(source).SerializeToString(deterministic=True) == before


def test_lstm_without_its_first_output(parse: Parse, import_same: Callable[..., ir.Model]) -> None:
    text = """g (float[3,1,2] x, float[1,8,2] w, float[1,8,2] r) => (float[1,1,2] h, float[1,1,2] c)
    { , h, c = LSTM <hidden_size = 2> (x, w, r) }"""
    assert shapes_of(import_same(parse(text)))[-2:] == [[1, 1, 2], [1, 1, 2]]


@pytest.mark.parametrize("size", [2**28, 2**29, 2**40, 2**62])
def test_huge_input_costs_nothing(parse: Parse, size: int) -> None:
    """Inference by value would make an object of each element."""
    model = parse(f"g (float[{size}] x) => (float[{size}] y) {{ y = Add(x, x) }}")
    if size < 2**29:
        assert shapes_of(load_onnx(model)) == [[size], [size]]
    else:
        with pytest.raises(ModelError, match=f"'x' of shape {size} is larger than"):
            load_onnx(model)
