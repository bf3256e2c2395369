# SPDX-License-Identifier: Apache-2.0
"""One rule an operator: how the axes of what it writes follow from the axes of what it reads.

A rule is right if removing or permuting units of an axis in all tensors that share it leaves the node computing the
same for the others. What a rule does not understand it leaves to `follow`, which fixes everything the node touches.
"""

from collections.abc import Callable, Collection, Mapping
from math import prod

import onnx_ir as ir

from sparsec.compiler.couplings import contractions
from sparsec.compiler.couplings.axes import ONE, Axis, Product, Sum, new_axis, regroup, size_of
from sparsec.compiler.couplings.trace import Trace, fixed, mixed, title
from sparsec.compiler.graph import attribute, constant_of, shape_of

Rule = Callable[[Trace, ir.Node], bool]
"""Follows a node; False if it does not understand this use of the operator."""


def follow(trace: Trace, node: ir.Node) -> None:
    """Follow one node by its operator's rule; without one, everything it touches is fixed."""
    empty = any(0 in shape_of(v) for v in (*node.inputs, *node.outputs) if v is not None and v.shape is not None)
    rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") and not empty else None
    if rule is None or not rule(trace, node):
        trace.fix_all(node, f"{title(node)} reads or writes it, which is not followed")


def _elementwise(trace: Trace, node: ir.Node) -> bool:
    shape = shape_of(node.outputs[0])
    result: list[Axis] = [ONE] * len(shape)
    for index in range(len(node.inputs)):
        axes = trace.of(node, index)
        for place, axis in enumerate(axes, len(shape) - len(axes)):
            result[place] = trace.unify(result[place], axis, node)
    trace.give(node.outputs[0], result)
    return _only_first(trace, node)


def _only_first(trace: Trace, node: ir.Node) -> bool:
    """Whether no output but the first is used; a mask or statistic that nobody reads changes nothing."""
    return not any(output.uses() or output.is_graph_output() for output in node.outputs[1:])


def _batch_normalization(trace: Trace, node: ir.Node) -> bool:
    axes = list(trace.of(node, 0))
    for index in range(1, 5):
        axes[1] = trace.unify(axes[1], trace.of(node, index)[0], node)
    trace.give(node.outputs[0], axes)
    return not attribute(node, "training_mode", 0) and _only_first(trace, node)


def _instance_normalization(trace: Trace, node: ir.Node) -> bool:
    axes = list(trace.of(node, 0))
    for index in (1, 2):
        axes[1] = trace.unify(axes[1], trace.of(node, index)[0], node)
    trace.give(node.outputs[0], [*axes[:2], *(mixed(axis, node, "normalizes over it") for axis in axes[2:])])
    return True


def _layer_normalization(trace: Trace, node: ir.Node) -> bool:
    axes = list(trace.of(node, 0))
    first = _positive(attribute(node, "axis", -1), len(axes))
    for index in range(1, len(node.inputs)):
        parameter = trace.of(node, index)
        for place, axis in enumerate(parameter, len(axes) - len(parameter)):
            axes[place] = trace.unify(axes[place], axis, node)
    for axis in axes[first:]:
        mixed(axis, node, "normalizes over it")
    trace.give(node.outputs[0], axes)
    return _only_first(trace, node)


def _along(what: str, default: int) -> Rule:
    """An operator that mixes the elements along its attribute `axis`, whatever their order."""

    def rule(trace: Trace, node: ir.Node) -> bool:
        axes = list(trace.of(node, 0))
        mixed(axes[_positive(attribute(node, "axis", default), len(axes))], node, what)
        trace.give(node.outputs[0], axes)
        return True

    return rule


def _reduce(trace: Trace, node: ir.Node) -> bool:
    axes = list(trace.of(node, 0))
    given = constant_of(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes", ())
    if given is None:
        return False
    empty = () if attribute(node, "noop_with_empty_axes", 0) else range(len(axes))
    reduced = {_positive(int(axis), len(axes)) for axis in given} if len(given) else set(empty)
    for place in reduced:
        mixed(axes[place], node, "sums it up")
    keep = attribute(node, "keepdims", 1)
    result = [ONE if place in reduced else axis for place, axis in enumerate(axes) if keep or place not in reduced]
    trace.give(node.outputs[0], result)
    return True


def _pool(trace: Trace, node: ir.Node) -> bool:
    axes, shape = trace.of(node, 0), shape_of(node.outputs[0])
    for axis in axes[2:]:
        fixed(axis, node, "slides over it")
    trace.give(node.outputs[0], [*axes[:2], *(new_axis(side, f"{title(node)} slides over it") for side in shape[2:])])
    return _only_first(trace, node)


def _transpose(trace: Trace, node: ir.Node) -> bool:
    axes = trace.of(node, 0)
    order = attribute(node, "perm") or range(len(axes))[::-1]
    trace.give(node.outputs[0], [axes[place] for place in order])
    return True


def _reshape(trace: Trace, node: ir.Node) -> bool:
    """Reshape, Flatten, Squeeze, Unsqueeze: the elements stay in their order."""
    shape = list(shape_of(node.outputs[0]))
    reason = f"{title(node)} cuts it otherwise"
    trace.give(node.outputs[0], regroup(list(trace.of(node, 0)), shape, reason))
    return True


def _concat(trace: Trace, node: ir.Node) -> bool:
    inputs = [trace.of(node, index) for index in range(len(node.inputs))]
    result = list(inputs[0])
    place = _positive(attribute(node, "axis"), len(result))
    for axes in inputs[1:]:
        result = [one if n == place else trace.unify(one, axes[n], node) for n, one in enumerate(result)]
    result[place] = Sum(tuple(axes[place] for axes in inputs))
    trace.give(node.outputs[0], result)
    return True


def _split(trace: Trace, node: ir.Node) -> bool:
    axes = trace.of(node, 0)
    place, start = _positive(attribute(node, "axis", 0), len(axes)), 0
    for output in node.outputs:
        end = start + shape_of(output)[place]
        trace.give(output, [trace.cut(a, start, end, node)[1] if n == place else a for n, a in enumerate(axes)])
        start = end
    return True


def _slice(trace: Trace, node: ir.Node) -> bool:
    axes, given = trace.of(node, 0), [constant_of(value) for value in node.inputs[1:]]
    if any(array is None for array in given):
        return False
    starts, ends, *rest = (array.tolist() for array in given if array is not None)
    places = rest[0] if rest else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    result = list(axes)
    for start, end, place, step in zip(starts, ends, places, steps, strict=True):
        at = _positive(place, len(axes))
        size = size_of(axes[at])
        first, last, _ = slice(start, end, step).indices(size)
        if (first, last, step) == (0, size, 1):
            continue
        if step != 1:
            fixed(axes[at], node, f"takes each {step}th of it")
            result[at] = new_axis(shape_of(node.outputs[0])[at], f"{title(node)} takes each {step}th of another")
            continue
        before, result[at] = trace.cut(axes[at], first, last, node)
        trace.slices.setdefault(node, {})[at] = before, result[at]
    trace.give(node.outputs[0], result)
    return True


def _gather(trace: Trace, node: ir.Node) -> bool:
    data, indices = trace.of(node, 0), trace.of(node, 1)
    place = _positive(attribute(node, "axis", 0), len(data))
    fixed(data[place], node, "picks from it")
    trace.give(node.outputs[0], [*data[:place], *indices, *data[place + 1 :]])
    return True


def _expand(trace: Trace, node: ir.Node) -> bool:
    axes, shape = trace.of(node, 0), shape_of(node.outputs[0])
    padded = [*([ONE] * (len(shape) - len(axes))), *axes]
    repeated = f"{title(node)} repeats one unit along it"
    result = [new_axis(s, repeated) if size_of(a) != s else a for a, s in zip(padded, shape, strict=True)]
    trace.give(node.outputs[0], result)
    return True


def _resize(trace: Trace, node: ir.Node) -> bool:
    """Resize: an axis with scale 1 is left as it is."""
    scales = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
    rank = len(shape_of(node.outputs[0]))
    places = [_positive(place, rank) for place in attribute(node, "axes") or range(rank)]
    if scales is None or not scales.size:
        return _sized(trace, node, "resizes") and not _crops(node)
    scaled = {place for place, scale in zip(places, scales.tolist(), strict=True) if scale != 1}
    return _sized(trace, node, "resizes", scaled) and not _crops(node)


def _crops(node: ir.Node) -> bool:
    mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
    return mode in ("tf_crop_and_resize", b"tf_crop_and_resize")


def _tile(trace: Trace, node: ir.Node) -> bool:
    return _sized(trace, node, "repeats")


def _sized(trace: Trace, node: ir.Node, what: str, places: Collection[int] = ()) -> bool:
    """Axes whose size stays are left as they are; the others, and those at `places`, cannot be followed."""
    axes, shape = trace.of(node, 0), shape_of(node.outputs[0])
    result = []
    for place, (axis, side) in enumerate(zip(axes, shape, strict=True)):
        same = size_of(axis) == side and place not in places
        result.append(axis if same else new_axis(side, f"{title(node)} {what} it"))
        if not same:
            fixed(axis, node, f"{what} it")
    trace.give(node.outputs[0], result)
    return True


def _pad(trace: Trace, node: ir.Node) -> bool:
    """Axes with no padding are left as they are; equal amounts on and off would keep the size, so amounts count."""
    axes, pads = trace.of(node, 0), constant_of(node.inputs[1])
    given = constant_of(node.inputs[3]) if len(node.inputs) > 3 else range(len(axes))
    if pads is None or given is None:
        return False
    places = [_positive(int(place), len(axes)) for place in given]
    amounts = dict(zip(places, zip(pads[: len(places)], pads[len(places) :], strict=True), strict=True))
    shape = shape_of(node.outputs[0])
    result = list(axes)
    for place in (n for n, amount in amounts.items() if any(amount)):
        fixed(axes[place], node, "pads it")
        result[place] = new_axis(shape[place], f"{title(node)} pads it")
    trace.give(node.outputs[0], result)
    return True


def _blocks(trace: Trace, node: ir.Node) -> bool:
    """DepthToSpace: channels are blocks x blocks x depth, or depth first in mode CRD."""
    batch, channels, *space = trace.of(node, 0)
    side = attribute(node, "blocksize")
    block = new_axis(side * side, f"{title(node)} spreads it over space")
    depth = new_axis(size_of(channels) // (side * side))
    crd = attribute(node, "mode", b"DCR") in (b"CRD", "CRD")
    trace.unify(channels, Product((depth, block) if crd else (block, depth)), node)
    reason = f"{title(node)} spreads channels over it"
    for axis in space:
        fixed(axis, node, "spreads channels over it")
    trace.give(node.outputs[0], [batch, depth, *(new_axis(size_of(axis) * side, reason) for axis in space)])
    return True


def _quantized(trace: Trace, node: ir.Node) -> bool:
    """QuantizeLinear and DequantizeLinear: scale and zero point have one element, or one a channel."""
    axes = list(trace.of(node, 0))
    place = _positive(attribute(node, "axis", 1), len(axes)) if axes else 0
    for index in range(1, len(node.inputs)):
        parameter = trace.of(node, index)
        if len(parameter) > 1 or attribute(node, "block_size", 0):
            return False
        if parameter and prod(map(size_of, parameter)) > 1:
            axes[place] = trace.unify(axes[place], parameter[0], node)
    trace.give(node.outputs[0], axes)
    return True


def _positive(axis: int, rank: int) -> int:
    return axis + rank if axis < 0 else axis


def _table(rule: Rule, *op_types: str) -> dict[str, Rule]:
    return dict.fromkeys(op_types, rule)


RULES: Mapping[str, Rule] = {
    **_table(_elementwise, "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil"),
    **_table(_elementwise, "Celu", "Clip", "Cos", "Cosh", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor"),
    **_table(_elementwise, "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf"),
    **_table(_elementwise, "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod"),
    **_table(_elementwise, "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu"),
    **_table(_elementwise, "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum"),
    **_table(_elementwise, "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor"),
    **_table(_batch_normalization, "BatchNormalization"),
    **_table(_instance_normalization, "InstanceNormalization"),
    **_table(_layer_normalization, "LayerNormalization", "RMSNormalization"),
    **_table(_along("normalizes over it", -1), "Softmax", "LogSoftmax", "LpNormalization"),
    **_table(_reduce, "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    **_table(_reduce, "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
    **_table(_pool, "AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"),
    **_table(_transpose, "Transpose"),
    **_table(_reshape, "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
    **_table(_concat, "Concat"),
    **_table(_split, "Split"),
    **_table(_slice, "Slice"),
    **_table(_gather, "Gather"),
    **_table(_expand, "Expand"),
    **_table(_resize, "Resize"),
    **_table(_tile, "Tile"),
    **_table(_pad, "Pad"),
    **_table(_blocks, "DepthToSpace"),
    **_table(_quantized, "QuantizeLinear", "DequantizeLinear"),
    **_table(contractions.conv, "Conv"),
    **_table(contractions.conv_transpose, "ConvTranspose"),
    **_table(contractions.gemm, "Gemm"),
    **_table(contractions.matmul, "MatMul"),
}
"""Operator -> rule."""
