# SPDX-License-Identifier: Apache-2.0
"""Products, convolutions, pools, normalizations and resampling in torch, as the ONNX specification defines them."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsec.compiler.errors import UnsupportedError
from sparsec.compiler.executor.convolution import convolve
from sparsec.compiler.graph import attribute
from sparsec.compiler.layers import layer_name
from sparsec.compiler.lowering.resampling import resize_matrix

Function = Callable[..., Any]


def _gemm(node: ir.Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.t() if attribute(node, "transA", 0) else a
    b = b.t() if attribute(node, "transB", 0) else b
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    product = a @ b if alpha == 1 else alpha * (a @ b)
    return product if c is None else product + (c if beta == 1 else beta * c)


def _spatial(node: ir.Node, name: str, rank: int, default: int) -> list[int]:
    return [int(side) for side in attribute(node, name, None) or [default] * rank]


def _pads(node: ir.Node, x: Tensor, kernel: Sequence[int]) -> list[tuple[int, int]]:
    """Elements added before and after each spatial axis."""
    rank, mode = len(kernel), attribute(node, "auto_pad", "NOTSET")
    if mode == "NOTSET":
        given = _spatial(node, "pads", 2 * rank, 0)
        return [(given[axis], given[axis + rank]) for axis in range(rank)]
    if mode == "VALID":
        return [(0, 0)] * rank
    strides, dilations = _spatial(node, "strides", rank, 1), _spatial(node, "dilations", rank, 1)
    sizes = zip(x.shape[-rank:], kernel, strides, dilations, strict=True)
    totals = [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in sizes]
    small = [(total // 2, total - total // 2) for total in totals]
    return small if mode == "SAME_UPPER" else [(after, before) for before, after in small]


def _padded(x: Tensor, pads: list[tuple[int, int]], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """Uneven padding is done here, even padding is left to the operator."""
    if all(before == after for before, after in pads):
        return x, [before for before, _ in pads]
    return F.pad(x, [side for pair in reversed(pads) for side in pair], value=value), [0] * len(pads)


_CONVOLUTIONS: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: convolve, 3: F.conv3d}
_TRANSPOSED: Mapping[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOLS: Mapping[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _rank(node: ir.Node, rank: int) -> int:
    if rank not in _CONVOLUTIONS:
        msg = f"Operator {node.op_type} of node '{layer_name(node)}': {rank} spatial axes; torch takes 1 to 3."
        raise UnsupportedError(msg)
    return rank


def _convolution(node: ir.Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = _rank(node, x.dim() - 2)
    x, padding = _padded(x, _pads(node, x, list(weight.shape[2:])))
    strides, dilations = _spatial(node, "strides", rank, 1), _spatial(node, "dilations", rank, 1)
    return _CONVOLUTIONS[rank](x, weight, bias, strides, padding, dilations, attribute(node, "group", 1))


def _transposed(node: ir.Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """All of the transposed convolution, then cut: uneven padding, output padding and output shape alike."""
    rank = _rank(node, x.dim() - 2)
    strides, dilations = _spatial(node, "strides", rank, 1), _spatial(node, "dilations", rank, 1)
    extra, groups = _spatial(node, "output_padding", rank, 0), attribute(node, "group", 1)
    if attribute(node, "output_shape", None) or attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        msg = f"Operator ConvTranspose of node '{layer_name(node)}': torch takes explicit pads, no output_shape."
        raise UnsupportedError(msg)
    pads = _pads(node, x, list(weight.shape[2:]))
    if all(before == after for before, after in pads):
        even = [before for before, _ in pads]
        return _TRANSPOSED[rank](x, weight, bias, strides, even, extra, groups, dilations)
    whole = _TRANSPOSED[rank](x, weight, bias, strides, 0, extra, groups, dilations)
    return F.pad(whole, [-side for pair in reversed(pads) for side in pair])


def _max_pool(node: ir.Node, x: Tensor) -> Tensor:
    kernel = [int(side) for side in attribute(node, "kernel_shape")]
    rank, strides = _rank(node, len(kernel)), _spatial(node, "strides", len(kernel), 1)
    _no_ceiling(node)
    pads = _pads(node, x, kernel)
    x = F.pad(x, [side for pair in reversed(pads) for side in pair], value=-torch.inf) if any(map(any, pads)) else x
    return _MAX_POOLS[rank](x, kernel, strides, 0, _spatial(node, "dilations", rank, 1))


def _average_pool(node: ir.Node, x: Tensor) -> Tensor:
    kernel = [int(side) for side in attribute(node, "kernel_shape")]
    rank, strides = _rank(node, len(kernel)), _spatial(node, "strides", len(kernel), 1)
    _no_ceiling(node)
    pads, groups = _pads(node, x, kernel), x.shape[1]
    flat = [side for pair in reversed(pads) for side in pair]
    ones, dilations = torch.ones(1, 1, *kernel), _spatial(node, "dilations", rank, 1)
    options = (None, strides, [0] * rank, dilations)
    total = _CONVOLUTIONS[rank](F.pad(x, flat), ones.expand(groups, 1, *kernel), *options, groups)
    if attribute(node, "count_include_pad", 0):
        return total / prod(kernel)
    inside = F.pad(torch.ones(1, 1, *x.shape[2:]), flat)
    return total / _CONVOLUTIONS[rank](inside, ones, *options, 1)


def _no_ceiling(node: ir.Node) -> None:
    if attribute(node, "ceil_mode", 0):
        msg = f"Operator {node.op_type} of node '{layer_name(node)}': ceil_mode=1; torch runs only 0 here."
        raise UnsupportedError(msg)


def _global_average(node: ir.Node, x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


def _global_max(node: ir.Node, x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


def _channelled(x: Tensor, vector: Tensor) -> Tensor:
    """A vector over channels, axis 1, for broadcasting."""
    return vector.reshape(-1, *[1] * (x.dim() - 2))


def _batch_norm(node: ir.Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    factor = scale / torch.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return (x - _channelled(x, mean)) * _channelled(x, factor) + _channelled(x, bias)


def _instance_norm(node: ir.Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    axes = tuple(range(2, x.dim()))
    mean, variance = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
    normal = (x - mean) / torch.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return normal * _channelled(x, scale) + _channelled(x, bias)


def _layer_norm(node: ir.Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = attribute(node, "axis", -1) % x.dim()
    shape = list(x.shape[axis:])
    same = list(scale.shape) == shape and (bias is None or list(bias.shape) == shape)
    if same:
        return F.layer_norm(x, shape, scale, bias, attribute(node, "epsilon", 1e-5))
    normal = F.layer_norm(x, shape, None, None, attribute(node, "epsilon", 1e-5)) * scale
    return normal if bias is None else normal + bias


def _rms_norm(node: ir.Node, x: Tensor, scale: Tensor) -> Tensor:
    axes = tuple(range(attribute(node, "axis", -1) % x.dim(), x.dim()))
    return x * torch.rsqrt((x * x).mean(axes, keepdim=True) + attribute(node, "epsilon", 1e-5)) * scale


def _resize(
    node: ir.Node, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    """Axis by axis, each a product with the matrix of `resize_matrix`."""
    plain = attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
    if not plain or attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        msg = f"Operator Resize of node '{layer_name(node)}': torch takes neither regions nor a kept aspect ratio."
        raise UnsupportedError(msg)
    axes = attribute(node, "axes", None) or range(x.dim())
    given = scales if scales is not None and scales.numel() else None
    for place, axis in enumerate(axes):
        scale = None if given is None else float(given[place])
        length = x.shape[axis]
        out = int(length * scale) if scale is not None else int(sizes[place]) if sizes is not None else length
        if out != length or (scale is not None and scale != 1):
            x = torch.movedim(torch.movedim(x, axis, -1) @ _matrix(node, length, out, scale), -1, axis)
    return x


@lru_cache(maxsize=64)
def _matrix(node: ir.Node, length: int, out: int, scale: float | None) -> Tensor:
    matrix = resize_matrix(node, length, out, scale, None)
    if matrix is None:
        msg = f"Operator Resize of node '{layer_name(node)}': from {length} to {out} elements is no matrix."
        raise UnsupportedError(msg)
    return torch.tensor(matrix, dtype=torch.float32)


LAYERS: Mapping[str, Function] = {
    "MatMul": lambda node, a, b: a @ b,
    "Gemm": _gemm,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "SimplifiedLayerNormalization": _rms_norm,
    "Resize": _resize,
    "Einsum": lambda node, *inputs: torch.einsum(attribute(node, "equation"), *inputs),
}
"""Operator -> ``function(node, *inputs)``."""
