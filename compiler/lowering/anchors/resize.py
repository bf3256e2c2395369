# SPDX-License-Identifier: Apache-2.0
"""Resize, nearest or linear, over the last two axes, by tables of source rows and columns made at compile time."""

from collections.abc import Callable
from math import prod

import numpy as np
import onnx_ir as ir

from sparsec.compiler.graph import attribute, constant_of, shape_of
from sparsec.compiler.lowering.anchors.anchor import Anchor, floats_data, report_plain
from sparsec.compiler.lowering.emitter import Emitter
from sparsec.compiler.lowering.kernel import Array
from sparsec.compiler.lowering.ops import Interpolate
from sparsec.compiler.lowering.regions import Region

_COORDINATES: dict[str, Callable[[Array, float, int, int], Array]] = {
    "half_pixel": lambda x, scale, _n, _m: (x + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda x, scale, _n, m: (x + 0.5) / scale - 0.5 if m > 1 else x * 0,
    "asymmetric": lambda x, scale, _n, _m: x / scale,
    "align_corners": lambda x, _scale, n, m: x * ((n - 1) / (m - 1)) if m > 1 else x * 0,
}
"""Where output element x lies in the input, from scale, input length and output length."""

_NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


_EVEN = 1e-6
"""Relative error of a scale that float32 rounded."""


def accepts(node: ir.Node) -> bool:
    """Sizes known now, only the last two axes change, and none of the rarer options."""
    source, out = node.inputs[0], node.outputs[0]
    if source is None or not floats_data(node) or len(shape_of(source)) < 2:
        return False
    known = all(value is None or constant_of(value) is not None for value in node.inputs[1:])
    rare = any(attribute(node, name, 0) for name in ("antialias", "exclude_outside"))
    stretched = attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch" and not attribute(node, "axes")
    same = shape_of(source)[:-2] == shape_of(out)[:-2]
    modes = attribute(node, "mode", "nearest") in ("nearest", "linear") and _mode(node) in _COORDINATES
    return known and not rare and stretched and same and modes and not ambiguous(node)


def ambiguous(node: ir.Node) -> bool:
    """Whether corners are aligned by scales that give no whole lengths: ONNX and onnxruntime then differ."""
    scales = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
    source = node.inputs[0]
    if scales is None or source is None or _mode(node) != "align_corners":
        return False
    axes = attribute(node, "axes", None) or range(scales.size)
    lengths = [shape_of(source)[axis] * float(scale) for axis, scale in zip(axes, scales.reshape(-1), strict=False)]
    return any(abs(length - round(length)) > _EVEN * length for length in lengths)


def emit(emitter: Emitter, region: Region) -> None:
    """One kernel with four tables."""
    node = region.nodes[0]
    source = node.inputs[0]
    assert source is not None
    shape, out = shape_of(source), shape_of(region.output)
    linear = attribute(node, "mode", "nearest") == "linear"
    op = Interpolate(prod(shape[:-2]), (shape[-2], shape[-1]), (out[-2], out[-1]), linear)
    tables = [table for axis in (-2, -1) for table in _tables(node, shape[axis], out[axis], axis)]
    views = [emitter.read(source), *(emitter.constant(table) for table in tables)]
    price = emitter.run(op, [*views, emitter.make(region.output)], region.name)
    report_plain(emitter, region, "interpolate", price)


def _mode(node: ir.Node) -> str:
    return str(attribute(node, "coordinate_transformation_mode", "half_pixel"))


def _tables(node: ir.Node, length: int, out: int, axis: int) -> tuple[Array, Array]:
    """First source element int32 [out], and the weight of the one behind it float32 [out]."""
    scales = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
    scale = out / length if scales is None or not scales.size else float(scales.reshape(-1)[axis])
    place = _COORDINATES[_mode(node)](np.arange(out, dtype=np.float64), scale, length, out)
    if attribute(node, "mode", "nearest") == "nearest":
        first = _NEAREST[attribute(node, "nearest_mode", "round_prefer_floor")](place)
        return np.clip(first, 0, length - 1).astype(np.int32), np.zeros(out, np.float32)
    inside = np.clip(place, 0, length - 1)
    first = np.floor(inside)
    return first.astype(np.int32), (inside - first).astype(np.float32)


ANCHORS = {"Resize": Anchor(accepts, emit)}
