# SPDX-License-Identifier: Apache-2.0
"""Elementwise operators, comparisons and reductions in torch, as the ONNX operator specification defines them."""

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsec.compiler.executor.types import torch_type
from sparsec.compiler.graph import attribute

Function = Callable[..., Any]


def _plain(function: Callable[..., Tensor]) -> Function:
    """An operator without attributes."""
    return lambda node, *inputs: function(*inputs)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _mod(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if attribute(node, "fmod", 0) else torch.remainder(a, b)


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    """By a constant exponent where there is one: its gradient is defined where the base is negative or 0."""
    if exponent.numel() == 1 and not exponent.requires_grad:
        power = float(exponent)
        return base * base if power == 2 else torch.pow(base, power).to(base.dtype)
    return torch.pow(base, exponent).to(base.dtype)


def _clip(node: ir.Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Gradients pass inside the bounds only; bounds that are trained get those of the elements they cut."""
    if any(bound is not None and bound.requires_grad for bound in (low, high)):
        x = x if low is None else torch.maximum(x, low)
        return x if high is None else torch.minimum(x, high)
    ends = [None if bound is None else bound.item() for bound in (low, high)]
    return x if ends == [None, None] else torch.clamp(x, *ends)


def _cast(node: ir.Node, x: Tensor) -> Tensor:
    return x.to(torch_type(ir.DataType(attribute(node, "to"))))


def _hard_sigmoid(node: ir.Node, x: Tensor) -> Tensor:
    return torch.clamp(x * attribute(node, "alpha", 0.2) + attribute(node, "beta", 0.5), 0, 1)


def _gelu(node: ir.Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=attribute(node, "approximate", "none"))


def _swish(node: ir.Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(x * attribute(node, "alpha", 1.0))


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _all(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """An operator of any number of operands, from one of two."""

    def run(node: ir.Node, first: Tensor, *rest: Tensor) -> Tensor:
        for other in rest:
            first = function(first, other)
        return first

    return run


def _mean(node: ir.Node, *inputs: Tensor) -> Tensor:
    total: Tensor = _all(torch.add)(node, *inputs)
    return total / len(inputs)


def _axes(node: ir.Node, x: Tensor, axes: Tensor | None) -> list[int]:
    """The axes to reduce: all where none are given."""
    given = attribute(node, "axes", ()) if axes is None else axes.tolist()
    return [int(axis) % x.dim() for axis in given] or list(range(x.dim()))


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Function:
    """A Reduce operator from ``function(x, axes, keepdims)``."""

    def run(node: ir.Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        none = (axes is None or not axes.numel()) and not attribute(node, "axes", ())
        if none and attribute(node, "noop_with_empty_axes", 0):
            return x
        return function(x, _axes(node, x, axes), bool(attribute(node, "keepdims", 1)))

    return run


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keep)
    return x


def _norm(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sqrt(torch.sum(x * x, axes, keep))


def _arg(function: Callable[[Tensor, int, bool], Tensor]) -> Function:
    """ArgMax and ArgMin: the first among equals, unless the node asks for the last."""

    def run(node: ir.Node, x: Tensor) -> Tensor:
        axis, keep = attribute(node, "axis", 0) % x.dim(), bool(attribute(node, "keepdims", 1))
        last = bool(attribute(node, "select_last_index", 0))
        place = function(x.flip(axis) if last else x, axis, keep)
        return torch.sub(x.shape[axis] - 1, place) if last else place

    return run


def _softmax(node: ir.Node, x: Tensor) -> Tensor:
    return torch.softmax(x, attribute(node, "axis", -1))


def _log_softmax(node: ir.Node, x: Tensor) -> Tensor:
    return torch.log_softmax(x, attribute(node, "axis", -1))


def _cumulative_sum(node: ir.Node, x: Tensor, axis: Tensor) -> Tensor:
    place, back = int(axis), bool(attribute(node, "reverse", 0))
    total = torch.cumsum(x.flip(place) if back else x, place)
    if attribute(node, "exclusive", 0):
        total = total - (x.flip(place) if back else x)
    return total.flip(place) if back else total


ARITHMETIC: Mapping[str, Function] = {
    "Add": _plain(torch.add),
    "Sub": _plain(torch.sub),
    "Mul": _plain(torch.mul),
    "Div": _plain(_divide),
    "Mod": _mod,
    "Pow": _plain(_power),
    "Neg": _plain(torch.neg),
    "Abs": _plain(torch.abs),
    "Sign": _plain(torch.sign),
    "Exp": _plain(torch.exp),
    "Log": _plain(torch.log),
    "Sqrt": _plain(torch.sqrt),
    "Reciprocal": _plain(torch.reciprocal),
    "Erf": _plain(torch.erf),
    "Sin": _plain(torch.sin),
    "Cos": _plain(torch.cos),
    "Tanh": _plain(torch.tanh),
    "Floor": _plain(torch.floor),
    "Ceil": _plain(torch.ceil),
    "Sigmoid": _plain(torch.sigmoid),
    "Relu": _plain(torch.relu),
    "PRelu": _plain(_prelu),
    "LeakyRelu": lambda node, x: F.leaky_relu(x, attribute(node, "alpha", 0.01)),
    "Elu": lambda node, x: F.elu(x, attribute(node, "alpha", 1.0)),
    "Softplus": _plain(F.softplus),
    "HardSwish": _plain(lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1)),
    "HardSigmoid": _hard_sigmoid,
    "Mish": _plain(F.mish),
    "Gelu": _gelu,
    "Swish": _swish,
    "Softmax": _softmax,
    "LogSoftmax": _log_softmax,
    "Clip": _clip,
    "Cast": _cast,
    "CastLike": lambda node, x, like: x.to(like.dtype),
    "Identity": lambda node, x: x,
    "Min": _all(torch.minimum),
    "Max": _all(torch.maximum),
    "Sum": _all(torch.add),
    "Mean": _mean,
    "Equal": _plain(torch.eq),
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "And": _plain(torch.logical_and),
    "Or": _plain(torch.logical_or),
    "Xor": _plain(torch.logical_xor),
    "Not": _plain(torch.logical_not),
    "IsNaN": _plain(torch.isnan),
    "Where": _plain(torch.where),
    "CumSum": _cumulative_sum,
    "ReduceSum": _reduction(lambda x, axes, keep: torch.sum(x, axes, keep)),
    "ReduceMean": _reduction(lambda x, axes, keep: torch.mean(x, axes, keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: torch.amax(x, axes, keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: torch.amin(x, axes, keep)),
    "ReduceProd": _reduction(_product),
    "ReduceL1": _reduction(lambda x, axes, keep: torch.sum(x.abs(), axes, keep)),
    "ReduceL2": _reduction(_norm),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: torch.sum(x * x, axes, keep)),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: torch.logsumexp(x, axes, keep)),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
}
"""Operator -> ``function(node, *inputs)``."""
