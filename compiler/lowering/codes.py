# SPDX-License-Identifier: Apache-2.0
"""Which quantized activations the integer kernels may read: per-tensor uint8 codes that never exceed 127.

Seven bits make the four-element dot product of every instruction set exact (see `docs/encodings.md`). Anything else
between QuantizeLinear and DequantizeLinear is computed as ONNX says, one node at a time.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.compiler.graph import attribute, dtype_of, scalar_of, source_of

TOP = 127
"""The largest code of an activation."""

_BOUNDED = ("Sigmoid", "HardSigmoid", "Softmax")


@dataclass(frozen=True, slots=True)
class Codes:
    """A value of seven-bit codes; it stands for (code - zero) * scale."""

    value: ir.Value
    scale: float
    zero: int


def quantizer(node: ir.Node | None) -> Codes | None:
    """The codes a QuantizeLinear node computes, if they are of the kind described in the module."""
    if node is None or source_of(node.outputs[0], "QuantizeLinear") is None:
        return None
    scale, zero = _parameters(node)
    if scale is None or zero is None or dtype_of(node.outputs[0]) != "uint8":
        return None
    bound = _upper_bound(node.inputs[0])
    fits = bound is not None and np.rint(np.float32(bound) / np.float32(scale)) + zero <= TOP
    return Codes(node.outputs[0], scale, zero) if fits else None


def codes_behind(value: ir.Value | None) -> Codes | None:
    """The codes that a DequantizeLinear turns into this value, if the integer kernels may read them."""
    node = source_of(value, "DequantizeLinear")
    codes = None if node is None or node.inputs[0] is None else quantizer(node.inputs[0].producer())
    if codes is None or node is None:
        return None
    scale, zero = _parameters(node)
    return codes if (scale, zero) == (codes.scale, codes.zero) else None


def _parameters(node: ir.Node) -> tuple[float | None, int | None]:
    scale, zero = scalar_of(node.inputs[1]), scalar_of(node.inputs[2]) if len(node.inputs) > 2 else 0.0
    return scale, None if zero is None else int(zero)


def _upper_bound(value: ir.Value | None) -> float | None:
    clip = source_of(value, "Clip")
    if clip is not None:
        return attribute(clip, "max") or (scalar_of(clip.inputs[2]) if len(clip.inputs) > 2 else None)
    return 1.0 if source_of(value, *_BOUNDED) is not None else None
