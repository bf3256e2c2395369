# SPDX-License-Identifier: Apache-2.0
"""`auto_pad` and `output_shape` become explicit pads with the same results."""

from collections.abc import Callable

import onnx
import onnx_ir as ir
import pytest

from sparsec.compiler.errors import UnsupportedError
from sparsec.compiler.importers.onnx import load_onnx

Parse = Callable[..., onnx.ModelProto]
Import = Callable[..., ir.Model]
WINDOWS = {
    "Conv": "(float[1,2,5,7] x, float[3,2,3,2] w) => (float[A,B,C,D] y) { y = Conv <strides = [2,3], %s> (x, w) }",
    "Conv 1x1": "(float[1,2,5,7] x, float[3,2,1,1] w) => (float[A,B,C,D] y) { y = Conv <strides = [3,3], %s> (x, w) }",
    "Conv 1d": "(float[1,2,7] x, float[3,2,4] w) => (float[A,B,C] y) { y = Conv <strides = [2], %s> (x, w) }",
    "ConvTranspose": "(float[1,2,4,4] x, float[2,3,3,3] w) => (float[A,B,C,D] y) "
    "{ y = ConvTranspose <strides = [2,2], %s> (x, w) }",
    "MaxPool": "(float[1,2,5,7] x) => (float[A,B,C,D] y) "
    "{ y = MaxPool <kernel_shape = [3,2], strides = [2,2], %s> (x) }",
    "AveragePool": "(float[1,2,5,7] x) => (float[A,B,C,D] y) "
    "{ y = AveragePool <kernel_shape = [3,3], strides = [2,2], count_include_pad = 1, %s> (x) }",
    "LpPool": "(float[1,2,5,7] x) => (float[A,B,C,D] y) { y = LpPool <kernel_shape = [3,3], strides = [2,2], %s> (x) }",
}


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize("window", sorted(WINDOWS))
def test_auto_pad(parse: Parse, import_same: Import, window: str, mode: str) -> None:
    model = import_same(parse("g " + WINDOWS[window] % f'auto_pad = "{mode}"', 18))
    node = model.graph[0]
    assert ("pads" in node.attributes) == (mode != "NOTSET")


@pytest.mark.parametrize("mode", ["", ', auto_pad = "SAME_UPPER"', ', auto_pad = "SAME_LOWER"'])
@pytest.mark.parametrize("size", [7, 8, 9, 10])
def test_output_shape(parse: Parse, import_same: Import, size: int, mode: str) -> None:
    model = import_same(parse("g " + WINDOWS["ConvTranspose"] % f"output_shape = [{size},{size}]{mode}", 18))
    assert "output_shape" not in model.graph[0].attributes


def test_odd_pad_goes_to_the_end_for_same_upper(parse: Parse) -> None:
    text = "g (float[1,1,4,4] x, float[1,1,2,2] w) => (float[A,B,C,D] y) "
    upper = load_onnx(parse(text + '{ y = Conv <auto_pad = "SAME_UPPER"> (x, w) }')).graph[0]
    lower = load_onnx(parse(text + '{ y = Conv <auto_pad = "SAME_LOWER"> (x, w) }')).graph[0]
    assert list(upper.attributes["pads"].as_ints()) == [0, 0, 1, 1]
    assert list(lower.attributes["pads"].as_ints()) == [1, 1, 0, 0]


def test_valid_that_rounds_up_is_refused(parse: Parse) -> None:
    text = "g (float[1,1,6,6] x) => (float[A,B,C,D] y) "
    text += '{ y = MaxPool <kernel_shape = [3,3], strides = [2,2], auto_pad = "VALID", ceil_mode = 1> (x) }'
    with pytest.raises(UnsupportedError, match="'MaxPool', node 'y': 'auto_pad' VALID and 'ceil_mode' contradict"):
        load_onnx(parse(text))
