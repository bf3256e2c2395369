# SPDX-License-Identifier: Apache-2.0
"""Operators along one axis or over windows, in float32: softmax, layer normalization, reductions, pooling."""

from math import prod

import numpy as np
import onnx_ir as ir

from sparsec.compiler.graph import attribute, constant_of, shape_of
from sparsec.compiler.lowering.anchors.anchor import Anchor, floats, floats_data, report_plain
from sparsec.compiler.lowering.emitter import Emitter
from sparsec.compiler.lowering.ops import LayerNorm, Op, Pool, Reduce, Softmax
from sparsec.compiler.lowering.regions import Region


def _emit(emitter: Emitter, region: Region, op: Op, *parameters: ir.Value | None) -> None:
    """One call on the node's first input, then the parameters."""
    values = [value for value in (region.nodes[0].inputs[0], *parameters) if value is not None]
    views = [emitter.read(value) for value in values]
    price = emitter.run(op, [*views, emitter.make(region.output)], region.name)
    report_plain(emitter, region, type(op).__name__.lower(), price)


def _last_axis(node: ir.Node, default: int = -1) -> bool:
    rank = len(shape_of(node.outputs[0]))
    return attribute(node, "axis", default) % max(1, rank) == rank - 1 and rank > 0


def _softmax_accepts(node: ir.Node) -> bool:
    return floats(node) and _last_axis(node)


def _softmax(emitter: Emitter, region: Region) -> None:
    shape = shape_of(region.output)
    _emit(emitter, region, Softmax(prod(shape[:-1]), shape[-1], region.nodes[0].op_type == "LogSoftmax"))


def _layer_norm_accepts(node: ir.Node) -> bool:
    vectors = [constant_of(value) for value in node.inputs[1:]]
    sizes = all(vector is not None and vector.size == shape_of(node.outputs[0])[-1] for vector in vectors)
    return floats(node) and _last_axis(node) and sizes and len(node.outputs) == 1


def _layer_norm(emitter: Emitter, region: Region) -> None:
    node, shape = region.nodes[0], shape_of(region.output)
    op = LayerNorm(prod(shape[:-1]), shape[-1], float(np.float32(attribute(node, "epsilon", 1e-5))))
    scale = constant_of(node.inputs[1])
    shift = constant_of(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(shape[-1], np.float32)
    assert scale is not None
    assert shift is not None
    assert node.inputs[0] is not None
    views = [emitter.read(node.inputs[0]), emitter.constant(scale.reshape(-1)), emitter.constant(shift.reshape(-1))]
    price = emitter.run(op, [*views, emitter.make(region.output)], region.name)
    report_plain(emitter, region, "layernorm", price)


def _axes(node: ir.Node) -> list[int] | None:
    """The reduced axes, ascending; None if they are not known now."""
    assert node.inputs[0] is not None
    rank = len(shape_of(node.inputs[0]))
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = constant_of(given)
    if given is not None and axes is None:
        return None
    found = attribute(node, "axes") if axes is None else axes.tolist()
    if not found:
        return [] if attribute(node, "noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in found)


def _reduce_accepts(node: ir.Node) -> bool:
    """Adjacent axes only: they are one axis for the kernel."""
    axes = _axes(node)
    return bool(axes) and floats_data(node) and axes == list(range(axes[0], axes[-1] + 1))  # type: ignore[index]


def _reduce(emitter: Emitter, region: Region) -> None:
    node = region.nodes[0]
    axes = _axes(node)
    assert axes
    _emit(emitter, region, _reduction(node, node.op_type.removeprefix("Reduce").lower(), axes))


def _global_accepts(node: ir.Node) -> bool:
    return floats(node) and len(shape_of(node.outputs[0])) > 2


def _global(emitter: Emitter, region: Region) -> None:
    node = region.nodes[0]
    kind = {"GlobalAveragePool": "mean", "GlobalMaxPool": "max"}[node.op_type]
    _emit(emitter, region, _reduction(node, kind, list(range(2, len(shape_of(region.output))))))


def _reduction(node: ir.Node, kind: str, axes: list[int]) -> Reduce:
    assert node.inputs[0] is not None
    shape = shape_of(node.inputs[0])
    return Reduce(kind, prod(shape[: axes[0]]), prod(shape[axes[0] : axes[-1] + 1]), prod(shape[axes[-1] + 1 :]))


def _pool_accepts(node: ir.Node) -> bool:
    assert node.inputs[0] is not None
    plain = len(node.outputs) == 1 and attribute(node, "storage_order", 0) == 0
    return floats(node) and plain and len(shape_of(node.inputs[0])) in (3, 4) and not _hollow(node)


def _hollow(node: ir.Node) -> bool:
    """Whether ceil mode or padding leaves windows that see nothing but padding."""
    pads, strides = attribute(node, "pads"), attribute(node, "strides")
    kernel = attribute(node, "kernel_shape")
    count = len(kernel)
    pads, strides = pads or [0] * 2 * count, strides or [1] * count
    assert node.inputs[0] is not None
    sizes, outs = shape_of(node.inputs[0])[2:], shape_of(node.outputs[0])[2:]
    last_start = [(out - 1) * stride - pad for out, stride, pad in zip(outs, strides, pads[:count], strict=True)]
    return any(start >= size for start, size in zip(last_start, sizes, strict=True)) or any(
        pad >= extent for pad, extent in zip(pads, kernel * 2, strict=True)
    )


def _pool(emitter: Emitter, region: Region) -> None:
    node = region.nodes[0]
    assert node.inputs[0] is not None
    batch, channels, *size = shape_of(node.inputs[0])
    kernel = attribute(node, "kernel_shape")
    ones = [1] * len(size)
    pads = attribute(node, "pads") or [0] * 2 * len(size)
    op = Pool(
        kind={"MaxPool": "max", "AveragePool": "average"}[node.op_type],
        channels=batch * channels,
        size=_pair(size),
        out_size=_pair(list(shape_of(region.output)[2:])),
        kernel=_pair(kernel),
        stride=_pair(attribute(node, "strides") or ones),
        dilation=_pair(attribute(node, "dilations") or ones),
        pads=(0, pads[0], 0, pads[1]) if len(size) == 1 else tuple(pads),
        count_pad=bool(attribute(node, "count_include_pad", 0)),
    )
    _emit(emitter, region, op)


def _pair(numbers: list[int]) -> tuple[int, int]:
    return (1, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


ANCHORS = {
    "Softmax": Anchor(_softmax_accepts, _softmax),
    "LogSoftmax": Anchor(_softmax_accepts, _softmax),
    "LayerNormalization": Anchor(_layer_norm_accepts, _layer_norm),
    "GlobalAveragePool": Anchor(_global_accepts, _global),
    "GlobalMaxPool": Anchor(_global_accepts, _global),
    "MaxPool": Anchor(_pool_accepts, _pool),
    "AveragePool": Anchor(_pool_accepts, _pool),
} | {f"Reduce{kind}": Anchor(_reduce_accepts, _reduce) for kind in ("Sum", "Mean", "Max", "Min")}
