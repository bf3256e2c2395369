# SPDX-License-Identifier: Apache-2.0
"""Operators that neither a kernel nor the fallback has, in terms of others, once shapes and parameters are known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.compiler.graph import attribute, constant_of, shape_of
from sparsec.compiler.importers.finish import finish, lift_weights
from sparsec.compiler.lowering.anchors.resize import ambiguous
from sparsec.compiler.lowering.resampling import resize_matrix

Array = NDArray[Any]
_LARGEST_DETERMINANT = 5
_MOST_ELEMENTS = 2**24
"""Of a constant that a decomposition makes."""


@dataclass(slots=True)
class Body:
    """The nodes that stand for one."""

    nodes: list[ir.Node] = field(default_factory=list)

    def constant(self, array: Array) -> ir.Value:
        """A constant."""
        return self.call("Constant", value=ir.Tensor(np.ascontiguousarray(array), name="value"))

    def integers(self, *numbers: int) -> ir.Value:
        """A list of sizes, axes or positions."""
        return self.constant(np.array(numbers, np.int64))

    def call(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """The first output of a new node."""
        node = ir.node(op_type, inputs, attributes)
        self.nodes.append(node)
        return node.outputs[0]

    def reshape(self, value: ir.Value, *shape: int) -> ir.Value:
        """A value in another shape."""
        return self.call("Reshape", value, self.integers(*shape))

    def transpose(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        """A value with its axes in another order."""
        return self.call("Transpose", value, perm=list(order))

    def along(self, value: ir.Value, shape: Sequence[int], axis: int, matrix: Array) -> ir.Value:
        """Replace an axis of length n by one of length m, with a matrix [n][m]."""
        rest = [i for i in range(len(shape)) if i != axis]
        order = [*rest, axis]
        moved = self.transpose(value, order)
        product = self.call("MatMul", moved, self.constant(matrix))
        return self.transpose(product, [order.index(i) for i in range(len(shape))])


Decomposition = Callable[[ir.Node, Body], ir.Value | None]
"""The value that stands for a node's first output; None for a use that is left as it is."""


def decompose(model: ir.Model, supported: Callable[[ir.Node], bool]) -> ir.Model:
    """Replace operators by others.

    Args:
        model: An imported model.
        supported: Whether there is a kernel for a node, so that it stays.

    Returns:
        Another model that shares the weights; the model itself if nothing was replaced.
    """
    if not any(_candidate(node, supported) for node in model.graph):
        return model
    copy = model.clone()
    replaced = [_replace(copy.graph, node) for node in list(copy.graph) if _candidate(node, supported)]
    if not any(replaced):
        return model
    lift_weights(copy)
    return finish(copy)


def _candidate(node: ir.Node, supported: Callable[[ir.Node], bool]) -> bool:
    known = node.domain == "" and node.op_type in DECOMPOSITIONS and not any(v.name for v in node.outputs[1:])
    static = known and all(v is None or v.shape is not None for v in (*node.inputs, *node.outputs))
    return static and not supported(node)


def _replace(graph: ir.Graph, node: ir.Node) -> bool:
    body = Body()
    result = DECOMPOSITIONS[node.op_type](node, body)
    if result is None:
        return False
    result.name = node.outputs[0].name
    body.nodes[-1].name = node.name
    ir.convenience.replace_nodes_and_values(graph, node, [node], body.nodes, node.outputs, [result])
    return True


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _source(node: ir.Node) -> tuple[ir.Value, tuple[int, ...]]:
    source = node.inputs[0]
    assert source is not None
    return source, shape_of(source)


def _scalar(node: ir.Node, index: int, default: int) -> int | None:
    """An integer that must be known now."""
    value = _input(node, index)
    array = constant_of(value)
    if value is None:
        return default
    return None if array is None or array.size != 1 else int(array.reshape(()))


def _floats(*values: ir.Value | None) -> bool:
    return all(value is None or value.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE) for value in values)


def _dtype(value: ir.Value) -> Any:
    assert value.dtype is not None
    return value.dtype.numpy()


def _cumulative_product(node: ir.Node, body: Body) -> ir.Value | None:
    """Row i of a triangular mask says which elements make result i."""
    source, shape = _source(node)
    axis = _scalar(node, 1, 0)
    if axis is None or not shape or prod(shape) * shape[axis] > _MOST_ELEMENTS:
        return None
    axis %= len(shape)
    length = shape[axis]
    seen = np.tri(length, k=-attribute(node, "exclusive", 0), dtype=bool)
    seen = seen[::-1, ::-1] if attribute(node, "reverse", 0) else seen
    mask = seen.reshape(length, length, *[1] * (len(shape) - axis - 1))
    spread = body.call("Unsqueeze", source, body.integers(axis))
    chosen = body.call("Where", body.constant(mask), spread, body.constant(np.ones((), _dtype(source))))
    return body.call("ReduceProd", chosen, body.integers(axis + 1), keepdims=0)


def _fourier(length: int, bins: int, parts: int, dtype: Any, *, inverse: bool) -> Array:
    """From [length, parts] to [bins, 2] as a matrix; parts are real, or real and imaginary."""
    angle = 2 * np.pi * np.outer(np.arange(length), np.arange(bins)) / length * (1 if inverse else -1)
    c, s = np.cos(angle), np.sin(angle)
    rows = [np.stack([c, s], -1), np.stack([-s, c], -1)][:parts]
    matrix = np.stack(rows, 1).reshape(length * parts, bins * 2)
    return np.asarray(matrix / length if inverse else matrix, dtype)


def _real_inverse(bins: int, length: int, dtype: Any) -> Array:
    """From the [bins, 2] of a real signal's one-sided spectrum to [length], as a matrix."""
    angle = 2 * np.pi * np.outer(np.arange(bins), np.arange(length)) / length
    twice = np.where((np.arange(bins) == 0) | (2 * np.arange(bins) == length), 1, 2)[:, None] / length
    rows = np.stack([twice * np.cos(angle), -twice * np.sin(angle)], 1)
    return np.asarray(rows.reshape(bins * 2, length), dtype)


def _transform(body: Body, value: ir.Value, shape: Sequence[int], length: int, bins: int, inverse: bool) -> ir.Value:
    """The transform of [..., n, parts] over n, cut or filled with zeros to `length`: [..., bins, 2]."""
    count, parts = shape[-2:]
    used = min(count, bins if inverse else length)
    if used < count:
        value = body.call("Slice", value, body.integers(0), body.integers(used), body.integers(len(shape) - 2))
    dtype = _dtype_of_body(value)
    one_sided = inverse and bins != length
    whole = _real_inverse(bins, length, dtype) if one_sided else _fourier(length, bins, parts, dtype, inverse=inverse)
    flat = body.reshape(value, prod(shape[:-2]), used * parts)
    product = body.call("MatMul", flat, body.constant(whole[: used * parts]))
    return body.reshape(product, *shape[:-2], *((length, 1) if one_sided else (bins, 2)))


def _dtype_of_body(value: ir.Value) -> Any:
    """The type of a value, which nodes that only move things hand on."""
    while value.dtype is None:
        producer = value.producer()
        assert producer is not None
        assert producer.inputs[0] is not None
        value = producer.inputs[0]
    return _dtype(value)


def _dft(node: ir.Node, body: Body) -> ir.Value | None:
    source, shape = _source(node)
    axis = _scalar(node, 2, -2)
    inverse, onesided = bool(attribute(node, "inverse", 0)), bool(attribute(node, "onesided", 0))
    length = None if axis is None else _scalar(node, 1, 2 * shape[axis] - 2 if inverse and onesided else shape[axis])
    if axis is None or length is None or not _floats(source) or (inverse and onesided and shape[-1] != 2):
        return None
    axis %= len(shape)
    bins = length // 2 + 1 if onesided else length
    if length * bins * 4 > _MOST_ELEMENTS or axis == len(shape) - 1:
        return None
    order = [i for i in range(len(shape) - 1) if i != axis] + [axis, len(shape) - 1]
    moved = body.transpose(source, order)
    result = _transform(body, moved, [shape[i] for i in order], length, bins, inverse)
    return body.transpose(result, [order.index(i) for i in range(len(shape))])


def _stft(node: ir.Node, body: Body) -> ir.Value | None:
    source, shape = _source(node)
    window = _input(node, 2)
    step = _scalar(node, 1, 1)
    length = _scalar(node, 3, shape_of(window)[0] if window is not None else 0)
    if not step or not length or not _floats(source) or length * length * 4 > _MOST_ELEMENTS:
        return None
    frames = (shape[1] - length) // step + 1
    places = np.arange(frames)[:, None] * step + np.arange(length)
    cut = body.call("Gather", source, body.constant(places.astype(np.int64)), axis=1)
    full = [shape[0], frames, length, shape[2] if len(shape) > 2 else 1]
    cut = body.reshape(cut, *full)
    if window is not None:
        cut = body.call("Mul", cut, body.reshape(window, length, 1))
    bins = length // 2 + 1 if attribute(node, "onesided", 1) else length
    return _transform(body, cut, full, length, bins, inverse=False)


def _col2im(node: ir.Node, body: Body) -> ir.Value | None:
    """Add each column's elements where they came from; what came from the padding goes to a place that is cut off."""
    source, shape = _source(node)
    image, block = (constant_of(_input(node, index)) for index in (1, 2))
    if image is None or block is None or not _floats(source):
        return None
    size, kernel = [int(n) for n in image], [int(n) for n in block]
    places = _places(node, size, kernel)
    rows = shape[0] * shape[1] // prod(kernel)
    flat = body.reshape(source, rows, places.size)
    indices = np.broadcast_to(places.reshape(1, -1), (rows, places.size)).astype(np.int64)
    empty = body.constant(np.zeros((rows, prod(size) + 1), _dtype(source)))
    added = body.call("ScatterElements", empty, body.constant(indices), flat, axis=1, reduction="add")
    cut = body.call("Slice", added, body.integers(0), body.integers(prod(size)), body.integers(1))
    return body.reshape(cut, *shape_of(node.outputs[0]))


def _places(node: ir.Node, size: list[int], kernel: list[int]) -> Array:
    """Where each element of a column belongs in the flat image, [kernel elements][columns]; the size if nowhere."""
    rank = len(size)
    ones, zeros = [1] * rank, [0] * 2 * rank
    strides, dilations = (attribute(node, name, ones) for name in ("strides", "dilations"))
    pads = attribute(node, "pads", zeros)
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    counts = [(size[i] + pads[i] + pads[rank + i] - reach[i]) // strides[i] + 1 for i in range(rank)]
    grids = np.indices((*kernel, *counts))
    at = [grids[i] * dilations[i] + grids[rank + i] * strides[i] - pads[i] for i in range(rank)]
    inside = np.all([(a >= 0) & (a < n) for a, n in zip(at, size, strict=True)], axis=0)
    flat = np.ravel_multi_index([np.clip(a, 0, n - 1) for a, n in zip(at, size, strict=True)], size)
    return np.where(inside, flat, prod(size)).reshape(prod(kernel), -1)


def _reverse_sequence(node: ir.Node, body: Body) -> ir.Value | None:
    """Element t of a sequence of length n comes from n - 1 - t, or stays where it is."""
    source, shape = _source(node)
    lengths = node.inputs[1]
    assert lengths is not None
    time, batch = attribute(node, "time_axis", 0), attribute(node, "batch_axis", 1)
    steps = body.constant(
        np.arange(shape[time], dtype=np.int64).reshape([-1 if i == time else 1 for i in range(len(shape))])
    )
    ends = body.reshape(lengths, *[shape[batch] if i == batch else 1 for i in range(len(shape))])
    turned = body.call("Sub", body.call("Sub", ends, body.integers(1)), steps)
    places = body.call("Where", body.call("Less", steps, ends), turned, steps)
    return body.call("GatherElements", source, body.call("Expand", places, body.integers(*shape)), axis=time)


def _boolean_reduction(op_type: str) -> Decomposition:
    def rule(node: ir.Node, body: Body) -> ir.Value | None:
        source, _ = _source(node)
        if source.dtype != ir.DataType.BOOL:
            return None
        numbers = body.call("Cast", source, to=int(ir.DataType.INT32))
        options = {
            name: attribute(node, name)
            for name in ("keepdims", "noop_with_empty_axes")
            if attribute(node, name) is not None
        }
        reduced = body.call(op_type, numbers, *node.inputs[1:], **options)
        return body.call("Cast", reduced, to=int(ir.DataType.BOOL))

    return rule


def _resize(node: ir.Node, body: Body) -> ir.Value | None:
    """One matrix product for each axis that changes."""
    source, shape = _source(node)
    out = shape_of(node.outputs[0])
    known = all(value is None or constant_of(value) is not None for value in node.inputs[1:])
    outside = attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    if not known or not _floats(source) or ambiguous(node):
        return None
    axes = [axis % len(shape) for axis in attribute(node, "axes", None) or range(len(shape))]
    region, scales = (constant_of(_input(node, index)) for index in (1, 2))
    value, current = source, list(shape)
    for place, axis in enumerate(axes):
        scale = None if scales is None or not scales.size else float(scales.reshape(-1)[place])
        if scale is None and attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
            scale = _kept_scale(node, [shape[a] for a in axes])
        ends = None if not outside or region is None else (float(region[place]), float(region[place + len(axes)]))
        matrix = resize_matrix(node, shape[axis], out[axis], scale, ends)
        if matrix is None:
            return None
        if shape[axis] != out[axis] or not np.array_equal(matrix, np.eye(shape[axis])):
            value = body.along(value, current, axis, matrix.astype(_dtype(source)))
            current[axis] = out[axis]
    return body.call("Identity", value) if value is source else value


def _kept_scale(node: ir.Node, lengths: list[int]) -> float:
    sizes = constant_of(_input(node, 3))
    assert sizes is not None
    pick = min if attribute(node, "keep_aspect_ratio_policy") == "not_larger" else max
    return float(pick(size / length for size, length in zip(sizes.reshape(-1), lengths, strict=True)))


def _eye_like(node: ir.Node, body: Body) -> ir.Value | None:
    rows, columns = shape_of(node.outputs[0])
    ones = np.eye(rows, columns, k=int(attribute(node, "k", 0)), dtype=_dtype(node.outputs[0]))
    return body.call("Identity", body.constant(ones))


def _determinant(node: ir.Node, body: Body) -> ir.Value | None:
    """By Leibniz: the sum over all permutations, each an element of every row and column."""
    source, shape = _source(node)
    n = shape[-1]
    if not 1 <= n <= _LARGEST_DETERMINANT or not _floats(source):
        return None
    orders = np.array(list(permutations(range(n))), np.int64)
    signs = np.array([round(np.linalg.det(np.eye(n)[order])) for order in orders], _dtype(source))
    flat = body.reshape(source, *shape[:-2], n * n)
    terms = body.call("Gather", flat, body.constant(orders + np.arange(n) * n), axis=len(shape) - 2)
    products = body.call("ReduceProd", terms, body.integers(len(shape) - 1), keepdims=0)
    signed = body.call("Mul", products, body.constant(signs))
    return body.call("ReduceSum", signed, body.integers(len(shape) - 2), keepdims=0)


def _mel_weights(node: ir.Node, body: Body) -> ir.Value | None:
    """A constant, after its definition in ONNX's specification: triangles between neighbouring mel frequencies."""
    given = [constant_of(value) for value in node.inputs]
    if any(array is None for array in given):
        return None
    bands, length, rate, low, high = (array.reshape(()).item() for array in given if array is not None)
    mels = [2595 * np.log10(1 + f / 700) for f in (low, high)]
    steps = mels[0] + np.arange(bands + 2) * ((mels[1] - mels[0]) / (bands + 2))
    bins = ((length + 1) * (700 * (10 ** (steps / 2595) - 1)) // rate).astype(int)
    weights = np.zeros((length // 2 + 1, bands), _dtype(node.outputs[0]))
    for band, (first, top, last) in enumerate(zip(bins, bins[1:], bins[2:], strict=False)):
        rising, falling = np.arange(first, top + 1), np.arange(top, last)
        weights[rising, band] = (rising - first) / (top - first) if top > first else 1
        weights[falling, band] = (last - falling) / max(last - top, 1)
    return body.call("Identity", body.constant(weights))


def _tensor_scatter(node: ir.Node, body: Body) -> ir.Value | None:
    """Write the update behind each sequence's place, which is known now."""
    source, shape = _source(node)
    update = node.inputs[1]
    assert update is not None
    given = _input(node, 2)
    starts = np.zeros(shape[0], np.int64) if given is None else constant_of(given)
    axis = attribute(node, "axis", -2) % len(shape)
    if starts is None:
        return None
    places = np.indices(shape_of(update))[axis] + starts.reshape(-1, *[1] * (len(shape) - 1))
    if attribute(node, "mode", "linear") == "circular":
        places %= shape[axis]
    if places.max(initial=0) >= shape[axis]:
        return None
    return body.call("ScatterElements", source, body.constant(places.astype(np.int64)), update, axis=axis)


def _blocks(node: ir.Node) -> tuple[Array, Array | None] | None:
    """Scale and zero point of each element, if the node has blocks and constants for them."""
    source, shape = _source(node)
    size = attribute(node, "block_size", 0)
    if not size:
        return None
    axis = attribute(node, "axis", 1) % len(shape)
    scale, zero = (constant_of(_input(node, index)) for index in (1, 2))
    numbers = source.dtype in (*_CODES, ir.DataType.FLOAT)
    if scale is None or not numbers or (_input(node, 2) is not None and zero is None):
        return None

    def spread(array: Array) -> Array:
        return np.repeat(array, size, axis)[tuple(slice(n) for n in shape)].astype(np.float32)

    return spread(scale), None if zero is None else spread(zero)


_CODES = {ir.DataType.UINT8: (0, 255), ir.DataType.INT8: (-128, 127), ir.DataType.UINT16: (0, 65535),
          ir.DataType.INT16: (-32768, 32767)}  # fmt: skip


def _dequantize(node: ir.Node, body: Body) -> ir.Value | None:
    blocks = _blocks(node)
    if blocks is None or node.outputs[0].dtype != ir.DataType.FLOAT:
        return None
    scale, zero = blocks
    value = body.call("Cast", node.inputs[0], to=int(ir.DataType.FLOAT))
    value = value if zero is None else body.call("Sub", value, body.constant(zero))
    return body.call("Mul", value, body.constant(scale))


def _quantize(node: ir.Node, body: Body) -> ir.Value | None:
    blocks, kind = _blocks(node), node.outputs[0].dtype
    if blocks is None or kind not in _CODES or _source(node)[0].dtype != ir.DataType.FLOAT:
        return None
    scale, zero = blocks
    value = body.call("Round", body.call("Div", node.inputs[0], body.constant(scale)))
    value = value if zero is None else body.call("Add", value, body.constant(zero))
    low, high = (body.constant(np.array(limit, np.float32)) for limit in _CODES[kind])
    return body.call("Cast", body.call("Clip", value, low, high), to=int(kind))


DECOMPOSITIONS: Mapping[str, Decomposition] = {
    "Col2Im": _col2im,
    "CumProd": _cumulative_product,
    "DFT": _dft,
    "DequantizeLinear": _dequantize,
    "Det": _determinant,
    "EyeLike": _eye_like,
    "MelWeightMatrix": _mel_weights,
    "QuantizeLinear": _quantize,
    "ReduceMax": _boolean_reduction("ReduceMax"),
    "ReduceMin": _boolean_reduction("ReduceMin"),
    "Resize": _resize,
    "ReverseSequence": _reverse_sequence,
    "STFT": _stft,
    "TensorScatter": _tensor_scatter,
}
"""By operator of the standard domain."""
