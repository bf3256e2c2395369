# SPDX-License-Identifier: Apache-2.0
"""Rules of the operators that sum over an axis of two operands: convolutions and products of matrices."""

import onnx_ir as ir

from sparsec.compiler.couplings.axes import ONE, Axis, Product, new_axis, size_of
from sparsec.compiler.couplings.trace import Trace, fixed, title
from sparsec.compiler.graph import attribute, constant_of, shape_of


def conv(trace: Trace, node: ir.Node) -> bool:
    """Weight ``[groups * out, in, *kernel]``, data ``[batch, groups * in, *space]``."""
    groups, data, weight = attribute(node, "group", 1), trace.of(node, 0), trace.of(node, 1)
    group = new_axis(groups)
    outputs = new_axis(size_of(weight[0]) // groups)
    trace.unify(data[1], Product((group, weight[1])), node)
    trace.unify(weight[0], Product((group, outputs)), node)
    return _convolved(trace, node, group, (weight[1], outputs, weight[0]))


def conv_transpose(trace: Trace, node: ir.Node) -> bool:
    """Weight ``[groups * in, out, *kernel]``, data ``[batch, groups * in, *space]``."""
    groups, data, weight = attribute(node, "group", 1), trace.of(node, 0), trace.of(node, 1)
    group = new_axis(groups)
    inputs = new_axis(size_of(weight[0]) // groups)
    trace.unify(weight[0], Product((group, inputs)), node)
    trace.unify(data[1], weight[0], node)
    return _convolved(trace, node, group, (inputs, weight[1], Product((group, weight[1]))))


def _convolved(trace: Trace, node: ir.Node, group: Axis, sides: tuple[Axis, Axis, Axis]) -> bool:
    """What both have in common: groups, bias, and space, which is fixed."""
    inputs, outputs, channels = sides
    data, weight, bias = (trace.of(node, index) for index in range(3))
    for axis in (*data[2:], *weight[2:]):
        fixed(axis, node, "slides over it")
    if bias:
        trace.unify(channels, bias[0], node)
    trace.groups[node] = group
    layer = constant_of(node.inputs[1]) is not None
    trace.use("group" if layer else "free", node, group)
    trace.use("input" if layer else "inner", node, inputs)
    trace.use("output" if layer else "free", node, outputs)
    space = (new_axis(side, f"{title(node)} slides over it") for side in shape_of(node.outputs[0])[2:])
    trace.give(node.outputs[0], [data[0], channels, *space])
    return True


def gemm(trace: Trace, node: ir.Node) -> bool:
    """``[rows, in] x [in, out] + bias``, either operand transposed."""
    data, weight, bias = (trace.of(node, index) for index in range(3))
    rows, inputs = data[::-1] if attribute(node, "transA", 0) else data
    stored, outputs = weight[::-1] if attribute(node, "transB", 0) else weight
    trace.unify(inputs, stored, node)
    result = [rows, outputs]
    for place, axis in enumerate(bias, 2 - len(bias)):
        if size_of(axis) != 1:
            trace.unify(result[place], axis, node)
    _record(trace, node, stored, outputs)
    trace.give(node.outputs[0], result)
    return True


def matmul(trace: Trace, node: ir.Node) -> bool:
    """``[*batch, rows, in] x [*batch, in, out]``; a vector is a matrix of one row or column."""
    left, right = trace.of(node, 0), trace.of(node, 1)
    one = [ONE, *left] if len(left) == 1 else left
    two = [*right, ONE] if len(right) == 1 else right
    trace.unify(one[-1], two[-2], node)
    batch: list[Axis] = [ONE] * (max(len(one), len(two)) - 2)
    for axes in (one[:-2], two[:-2]):
        for place, axis in enumerate(axes, len(batch) - len(axes)):
            batch[place] = trace.unify(batch[place], axis, node)
    _record(trace, node, two[-2], two[-1], (one[-2], *batch))
    rows = [] if len(left) == 1 else [one[-2]]
    columns = [] if len(right) == 1 else [two[-1]]
    trace.give(node.outputs[0], [*batch, *rows, *columns])
    return True


def _record(trace: Trace, node: ir.Node, inputs: Axis, outputs: Axis, others: tuple[Axis, ...] = ()) -> None:
    """Say how the axes are used: as a layer's, or as those of a product of two activations."""
    first, second = node.inputs[0], node.inputs[1]
    assert second is not None
    layer = constant_of(second) is not None and constant_of(first) is None and len(shape_of(second)) < 3
    trace.use("input" if layer else "inner", node, inputs)
    trace.use("output" if layer else "free", node, outputs)
    for number, axis in enumerate(others if not layer else ()):
        trace.use("batch" if number else "free", node, axis)
