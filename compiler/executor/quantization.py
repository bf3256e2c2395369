# SPDX-License-Identifier: Apache-2.0
"""Rounding to codes with straight-through gradients: forward exact as in ONNX, backward as if nothing were rounded.

The gradient of a scale is that of learned step sizes: Esser et al., "Learned Step Size Quantization", 2020,
equation 3. Codes travel as float32 numbers, which hold them exactly.
"""

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from sparsec.compiler.graph import attribute

Function = Callable[..., Any]
_ENDS = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.uint16: (0, 65535), torch.int16: (-32768, 32767)}


class FakeQuantize(torch.autograd.Function):
    """``clamp(round(x / scale), low, high) * scale`` with one scale, in few passes over memory."""

    @staticmethod
    def forward(x: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
        """Codes relative to the zero point are rounded half to even."""
        return (x / scale).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the gradients need."""
        x, scale, ctx.low, ctx.high = inputs
        ctx.save_for_backward(x, scale, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """To x where it lies on the grid, to the scale by learned step sizes."""
        x, scale, output = ctx.saved_tensors
        # x rounds onto the grid if it is less than half a step beyond its ends
        ends = [float((end + half) * scale) for end, half in ((ctx.low, -0.5), (ctx.high, 0.5))]
        passed = torch.ops.aten.hardtanh_backward(gradient, x, *ends)
        wanted = ctx.needs_input_grad[1]
        moved = ((gradient * output).sum() - (passed * x).sum()) / scale if wanted else None
        return passed, None if moved is None else moved.reshape(scale.shape), None, None

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        """A batch of values shares its scale."""
        assert dims[1] is None, "one scale for a batch of samples is expected"
        return _apply(*inputs), dims[0]


_apply: Callable[..., Tensor] = FakeQuantize.apply


def straight_round(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes as through the identity. Exact: the difference has no rounding."""
    return x + (x.round() - x).detach()


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    low: Tensor | None = None,
    high: Tensor | None = None,
) -> Tensor:
    """Clip to `low`..`high`, QuantizeLinear and DequantizeLinear with one scale, in one.

    Args:
        x: float32, or bfloat16 out of a product in that precision.
        scale: float32 scalar; may be trained.
        zero: Integer scalar, whose type limits the codes; None for uint8 and 0.
        low: Lower bound of the Clip before; None where there is none.
        high: Upper bound.
    """
    offset = 0 if zero is None else int(zero)
    ends = _ENDS[torch.uint8 if zero is None else zero.dtype]
    step = scale.detach()
    least, most = ends[0] - offset, ends[1] - offset
    # dividing and rounding are monotone, so bounds on x are bounds on its codes
    least = least if low is None else max(least, int((low.detach() / step).round()))
    most = most if high is None else min(most, int((high.detach() / step).round()))
    return _apply(x.float(), scale, float(least), float(most))


def _spread(node: ir.Node, x: Tensor, vector: Tensor) -> Tensor:
    """A scale or zero point of any granularity, for broadcasting over x."""
    if vector.dim() == 0 or (vector.numel() == 1 and vector.dim() <= 1):
        return vector.reshape(())
    axis, block = attribute(node, "axis", 1) % x.dim(), attribute(node, "block_size", 0)
    if block:
        return vector.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return vector.reshape([-1 if place == axis else 1 for place in range(x.dim())])


def _quantize(node: ir.Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    offset = torch.zeros((), dtype=torch.uint8) if zero is None else zero
    low, high = _ENDS[offset.dtype]
    codes = straight_round(x.float() / _spread(node, x, scale)) + _spread(node, x, offset).float()
    return codes.clamp(low, high)


def _dequantize(node: ir.Node, codes: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    shifted = codes.float() if zero is None else codes.float() - _spread(node, codes, zero).float()
    return shifted * _spread(node, codes, scale)


QUANTIZATION: Mapping[str, Function] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Round": lambda node, x: straight_round(x),
}
"""Operator -> ``function(node, *inputs)``."""
