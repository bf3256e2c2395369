# SPDX-License-Identifier: Apache-2.0
"""`auto_pad` and the `output_shape` of a transposed convolution, said as explicit pads."""

from collections.abc import Sequence

import onnx_ir as ir

from sparsec.compiler.errors import ModelError, UnsupportedError

_WINDOWED = frozenset(("Conv", "ConvInteger", "QLinearConv", "MaxPool", "AveragePool", "LpPool", "ConvTranspose"))
_WEIGHT_INPUT = {"Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "QLinearConv": 3}


def make_padding_explicit(model: ir.Model) -> None:
    """Replace `auto_pad` by the pads it stands for, in place.

    Formulas: the operators' pages in ONNX's specification.

    Args:
        model: a model with static shapes.

    Raises:
        ModelError: `auto_pad` is no known word.
        UnsupportedError: VALID is asked for, and rounding up; ONNX and onnxruntime differ about what that is.
    """
    for node in model.graph:
        if node.domain == "" and node.op_type in _WINDOWED:
            _pad(node)


def _pad(node: ir.Node) -> None:
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    fixed = node.op_type == "ConvTranspose" and "output_shape" in node.attributes
    _check_mode(node, mode)
    node.attributes.pop("auto_pad", None)
    if mode == "NOTSET" and not fixed:
        return
    totals = _transposed_totals(node) if node.op_type == "ConvTranspose" else _totals(node)
    if mode == "VALID" and not fixed:
        totals = [0] * len(totals)
    _set_pads(node, [max(total, 0) for total in totals], upper=mode == "SAME_UPPER")


def _check_mode(node: ir.Node, mode: str) -> None:
    if mode not in ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"):
        msg = f"Operator {node.op_type!r}, node {node.name!r}: 'auto_pad' is {mode!r}, which ONNX does not know."
        raise ModelError(msg)
    if mode == "VALID" and node.attributes.get_int("ceil_mode", 0) == 1:
        msg = f"Operator {node.op_type!r}, node {node.name!r}: 'auto_pad' VALID and 'ceil_mode' contradict each other."
        raise UnsupportedError(msg)


def _windows(node: ir.Node) -> list[tuple[int, int, int, int]]:
    """Input size, output size, stride and reach of the window, for each spatial dimension."""
    kernel = _kernel(node)
    strides = node.attributes.get_ints("strides", [1] * len(kernel))
    dilations = node.attributes.get_ints("dilations", [1] * len(kernel))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    return list(zip(_spatial(node.inputs[0]), _spatial(node.outputs[0]), strides, reach, strict=True))


def _totals(node: ir.Node) -> list[int]:
    return [(outputs - 1) * stride + reach - inputs for inputs, outputs, stride, reach in _windows(node)]


def _transposed_totals(node: ir.Node) -> list[int]:
    """Pads of a ConvTranspose; where its windows do not reach the output's end, output_padding grows instead."""
    windows = _windows(node)
    extra = node.attributes.get_ints("output_padding", [0] * len(windows))
    totals = [s * (i - 1) + e + reach - o for e, (i, o, s, reach) in zip(extra, windows, strict=True)]
    node.attributes.pop("output_shape", None)
    if min(totals, default=0) < 0:
        grown = [e + max(-total, 0) for e, total in zip(extra, totals, strict=True)]
        node.attributes["output_padding"] = ir.AttrInt64s("output_padding", grown)
    return totals


def _set_pads(node: ir.Node, totals: Sequence[int], *, upper: bool) -> None:
    """Halve each total; the odd one goes to the end for SAME_UPPER, to the beginning otherwise."""
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    pads = [*small, *large] if upper else [*large, *small]
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    if "ceil_mode" in node.attributes:
        node.attributes.pop("ceil_mode")  # the pads make the division exact


def _spatial(value: ir.Value | None) -> list[int]:
    return [] if value is None or value.shape is None else [int(dim) for dim in value.shape.numpy()[2:]]


def _kernel(node: ir.Node) -> Sequence[int]:
    if "kernel_shape" in node.attributes:
        return node.attributes["kernel_shape"].as_ints()
    return _spatial(node.inputs[_WEIGHT_INPUT[node.op_type]])
