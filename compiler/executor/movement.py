# SPDX-License-Identifier: Apache-2.0
"""Operators that move, select or make elements, in torch, as the ONNX operator specification defines them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from sparsec.compiler.errors import UnsupportedError
from sparsec.compiler.executor.types import as_torch
from sparsec.compiler.graph import attribute
from sparsec.compiler.layers import layer_name

Function = Callable[..., Any]
_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _reshape(node: ir.Node, x: Tensor, shape: Tensor) -> Tensor:
    sides = [int(side) for side in shape.tolist()]
    if not attribute(node, "allowzero", 0):
        sides = [x.shape[axis] if side == 0 else side for axis, side in enumerate(sides)]
    return x.reshape(sides)


def _flatten(node: ir.Node, x: Tensor) -> Tensor:
    axis = attribute(node, "axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    rows = 1
    for side in x.shape[:axis]:
        rows *= side
    return x.reshape(rows, -1)


def _transpose(node: ir.Node, x: Tensor) -> Tensor:
    return x.permute(tuple(attribute(node, "perm", None) or reversed(range(x.dim()))))


def _unsqueeze(node: ir.Node, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + axes.numel()
    for axis in sorted(int(axis) % rank for axis in axes.reshape(-1).tolist()):
        x = x.unsqueeze(axis)
    return x


def _squeeze(node: ir.Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = [axis for axis, side in enumerate(x.shape) if side == 1] if axes is None else axes.reshape(-1).tolist()
    for axis in sorted((int(axis) % x.dim() for axis in given), reverse=True):
        x = x.squeeze(axis)
    return x


def _expand(node: ir.Node, x: Tensor, shape: Tensor) -> Tensor:
    sides = [int(side) for side in shape.tolist()]
    same = [1] * (x.dim() - len(sides)) + sides
    missing = [1] * (len(sides) - x.dim()) + list(x.shape)
    return x.expand([found if side == 1 else side for side, found in zip(same, missing, strict=True)])


def _tile(node: ir.Node, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(tuple(int(count) for count in repeats.tolist()))


def _concat(node: ir.Node, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, attribute(node, "axis"))


def _split(node: ir.Node, x: Tensor, sizes: Tensor | None = None) -> Sequence[Tensor]:
    axis = attribute(node, "axis", 0)
    if sizes is not None:
        return torch.split(x, [int(size) for size in sizes.tolist()], axis)
    return torch.split(x, -(-x.shape[axis] // len(node.outputs)), axis)


def _slice(
    node: ir.Node, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    count = starts.numel()
    places = range(count) if axes is None else [int(axis) % x.dim() for axis in axes.tolist()]
    strides = [1] * count if steps is None else steps.tolist()
    for axis, start, end, step in zip(places, starts.tolist(), ends.tolist(), strides, strict=True):
        chosen = range(x.shape[axis])[slice(start, end if step > 0 or end >= -x.shape[axis] else None, step)]
        if step == 1:
            x = x.narrow(axis, chosen.start if len(chosen) else 0, len(chosen))
        else:
            x = x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64))
    return x


def _wrapped(indices: Tensor, length: int) -> Tensor:
    """Negative indices count from the end."""
    return torch.where(indices < 0, indices + length, indices).to(torch.int64)


def _gather(node: ir.Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = attribute(node, "axis", 0) % x.dim()
    flat = _wrapped(indices, x.shape[axis]).reshape(-1)
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _gather_elements(node: ir.Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = attribute(node, "axis", 0) % x.dim()
    return x.gather(axis, _wrapped(indices, x.shape[axis]))


def _scatter_elements(node: ir.Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis, how = attribute(node, "axis", 0) % x.dim(), attribute(node, "reduction", "none")
    places = _wrapped(indices, x.shape[axis])
    if how == "none":
        return x.scatter(axis, places, updates)
    if how == "add":
        return x.scatter_add(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _REDUCTIONS[how], include_self=True)


def _places(x: Tensor, indices: Tensor) -> tuple[tuple[Tensor, ...], int]:
    """Index tensors of an ...ND operator without batch axes."""
    depth = indices.shape[-1]
    return tuple(_wrapped(indices[..., axis], x.shape[axis]) for axis in range(depth)), depth


def _gather_nd(node: ir.Node, x: Tensor, indices: Tensor) -> Tensor:
    _refuse(node, "batch_dims", attribute(node, "batch_dims", 0), 0)
    return x[_places(x, indices)[0]]


def _scatter_nd(node: ir.Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    how = attribute(node, "reduction", "none")
    _refuse(node, "reduction", how if how not in ("none", "add") else "none", "none")
    return torch.index_put(x, _places(x, indices)[0], updates, accumulate=how == "add")


def _top_k(node: ir.Node, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The lower index comes first among equals, as in onnxruntime."""
    axis = attribute(node, "axis", -1)
    values, places = torch.sort(x, dim=axis, descending=bool(attribute(node, "largest", 1)), stable=True)
    count = int(k.reshape(-1)[0])
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


def _pad(node: ir.Node, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    mode = attribute(node, "mode", "constant")
    _refuse(node, "mode", mode, "constant")
    chosen = range(x.dim()) if axes is None else [int(axis) % x.dim() for axis in axes.tolist()]
    ends = [(0, 0)] * x.dim()
    for place, axis in enumerate(chosen):
        ends[axis] = (int(pads[place]), int(pads[place + len(chosen)]))
    flat = [side for pair in reversed(ends) for side in pair]
    return torch.nn.functional.pad(x, flat, value=0.0 if value is None else float(value))


def _shape(node: ir.Node, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[attribute(node, "start", 0) : attribute(node, "end", None)], dtype=torch.int64)


def _constant(node: ir.Node) -> Tensor:
    (found,) = node.attributes.values()
    return as_torch(found.value) if isinstance(found.value, ir.TensorProtocol) else torch.tensor(found.value)


def _filled(node: ir.Node, shape: Tensor) -> Tensor:
    given = attribute(node, "value", None)
    value = torch.zeros(1) if given is None else as_torch(given)
    return value.reshape(()).expand([int(side) for side in shape.tolist()])


def _range(node: ir.Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _triangle(node: ir.Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    offset = 0 if k is None else int(k)
    return torch.triu(x, offset) if attribute(node, "upper", 1) else torch.tril(x, offset)


def _one_hot(node: ir.Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    axis, count = attribute(node, "axis", -1), int(depth.reshape(-1)[0])
    places = _wrapped(indices, count).unsqueeze(axis)
    classes = torch.arange(count).reshape([-1] + [1] * (indices.dim() - (axis % (indices.dim() + 1))))
    return torch.where(places == classes, values[1], values[0])


def _depth_to_space(node: ir.Node, x: Tensor) -> Tensor:
    size, (n, c, h, w) = attribute(node, "blocksize"), x.shape
    if attribute(node, "mode", "DCR") == "DCR":
        parts = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // size**2, size, size, h, w).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // size**2, h * size, w * size)


def _refuse(node: ir.Node, name: str, found: object, only: object) -> None:
    if found != only:
        msg = f"Operator {node.op_type} of node '{layer_name(node)}': {name}={found}; torch runs only {only} here."
        raise UnsupportedError(msg)


MOVEMENT: Mapping[str, Function] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Expand": _expand,
    "Tile": _tile,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TopK": _top_k,
    "Pad": _pad,
    "Shape": _shape,
    "Size": lambda node, x: torch.tensor(x.numel()),
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Range": _range,
    "Trilu": _triangle,
    "OneHot": _one_hot,
    "DepthToSpace": _depth_to_space,
    "Dropout": lambda node, x, *rest: x,
}
"""Operator -> ``function(node, *inputs)``."""
