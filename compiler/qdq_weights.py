# SPDX-License-Identifier: Apache-2.0
"""Reads a DequantizeLinear over constants as the encoded weight, or the float32 bias, that it stands for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from sparsec.compiler.encoding import EncodedTensor, Encoding, Quant, as_half, as_matrix, classify, from_matrix, spread
from sparsec.compiler.errors import RecipeError
from sparsec.compiler.graph import attribute, constant_of, only_consumer, source_of
from sparsec.compiler.layers import weight_axis
from sparsec.compiler.pattern import Array, Pattern

METADATA = "sparsec.encoding"
"""Key of the DequantizeLinear node's metadata that holds the encoding's text form."""
_BITS: Mapping[str, int] = {"int8": 8, "uint8": 8, "int4": 4, "uint4": 4}


def with_reshape(node: ir.Node) -> tuple[ir.Node, ...]:
    """A DequantizeLinear and, where it has written a matrix for a convolution, the Reshape behind it."""
    after = only_consumer(node.outputs[0])
    if after is None or source_of(after.outputs[0], "Reshape") is None or after.inputs[0] is not node.outputs[0]:
        return (node,)
    shape = constant_of(after.inputs[1])
    whole = shape is not None and bool((shape > 0).all()) and not after.outputs[0].is_graph_output()
    return (node, after) if whole and METADATA in node.metadata_props else (node,)


def read_bias(node: ir.Node) -> ir.TensorProtocol | None:
    """An int32 bias as float32."""
    codes, scales, zero = _arrays(node)
    if codes.dtype != np.int32 or codes.ndim > 1 or zero.any() or scales.dtype != np.float32:
        return None
    return ir.tensor(codes.astype(np.float32) * scales)


def read_weight(nodes: Sequence[ir.Node]) -> EncodedTensor | None:
    """The weight behind a DequantizeLinear (see `with_reshape`) that only layers read; None if it is none.

    Scales are per channel, repeated where one serves the whole tensor, or per group; only groups may be asymmetric.
    """
    node, shape = nodes[0], _shape(nodes)
    axes = {weight_axis(user) if index == 1 else None for user, index in nodes[-1].outputs[0].uses()}
    axis = axes.pop() if len(axes) == 1 else None
    codes, scales, _ = _arrays(node)
    fits = str(codes.dtype) in _BITS and codes.ndim >= 2 and scales.dtype == np.float32 and (scales > 0).all()
    if axis is None or not fits:
        return None
    found = (_in_groups if attribute(node, "block_size", 0) else _in_channels)(node, axis)
    return None if found is None else found.tensor(_named(node), shape, axis)


@dataclass(frozen=True, slots=True)
class _Found:
    """A weight as a matrix.

    Attributes:
        quant: Its precision.
        codes: int16 ``[out, in]``.
        scales: ``[out]`` or ``[out, groups]``.
        zeros: As the scales, where asymmetric; else None.
    """

    quant: Quant
    codes: Array
    scales: Array
    zeros: Array | None

    def tensor(self, named: Encoding | None, shape: tuple[int, ...], axis: int) -> EncodedTensor:
        zeros = 0 if self.zeros is None else spread(self.zeros, self.quant, self.codes.shape[1])
        nonzero = self.codes != zeros
        pattern = named.pattern if named is not None and _fits(named.pattern, nonzero) else classify(nonzero)[0]
        mask = from_matrix(pattern.cover(nonzero), shape, axis)
        codes = from_matrix(self.codes.astype(np.int8 if self.quant.symmetric else np.uint8), shape, axis)
        points = None if self.zeros is None else self.zeros.astype(np.uint8)
        encoding = Encoding(pattern, self._precision(named))
        return EncodedTensor(None, encoding, mask, axis, codes=codes, scales=self.scales, zero_points=points)

    def _precision(self, named: Encoding | None) -> Quant:
        """With the bits that the metadata names, if the codes fit into them."""
        if named is None or named.quant is None or named.quant.bits >= self.quant.bits:
            return self.quant
        narrow = replace(self.quant, bits=named.quant.bits)
        arrays = [self.codes] if self.zeros is None else [self.codes, self.zeros]
        fits = all(((array >= narrow.lowest) & (array <= narrow.highest)).all() for array in arrays)
        return narrow if fits else self.quant


def _in_channels(node: ir.Node, axis: int) -> _Found | None:
    """With a scale per output channel, or one for all; symmetric."""
    (codes, scales, _), along = _arrays(node), attribute(node, "axis", 1)
    bits, matrix, _, symmetric = _steps(node, axis)
    whole = scales.size == 1 or (along % codes.ndim == axis and scales.shape == (codes.shape[axis],))
    if not (whole and symmetric):
        return None
    return _Found(Quant(bits), matrix, np.broadcast_to(scales.reshape(-1), codes.shape[axis]), None)


def _in_groups(node: ir.Node, axis: int) -> _Found | None:
    """With a float16 scale, and by choice a zero point, for each run of inputs."""
    (codes, scales, _), along = _arrays(node), attribute(node, "axis", 1)
    if codes.ndim > 2 or along % codes.ndim != 1 - axis or not np.array_equal(scales, as_half(scales)):
        return None
    bits, matrix, zeros, symmetric = _steps(node, axis)
    quant = Quant(bits, "group", symmetric, int(attribute(node, "block_size")))
    return _Found(quant, matrix, as_matrix(scales, axis), None if symmetric else as_matrix(zeros, axis))


def _steps(node: ir.Node, axis: int) -> tuple[int, Array, Array, bool]:
    """Bits, codes int16 ``[out, in]`` and zero points, signed where that makes them symmetric, else unsigned."""
    plain, _, zeros = _arrays(node)
    bits, unsigned = _BITS[str(plain.dtype)], str(plain.dtype).startswith("u")
    middle = 1 << (bits - 1)
    symmetric = bool((zeros.astype(np.int16) == (middle if unsigned else 0)).all())
    lift = {(True, True): -middle, (False, False): middle}.get((symmetric, unsigned), 0)
    return bits, as_matrix(plain.astype(np.int16), axis) + lift, zeros.astype(np.int16) + lift, symmetric


def _arrays(node: ir.Node) -> tuple[Array, Array, Array]:
    """Codes, scales and zero points of a DequantizeLinear over constants."""
    codes, scales, *zero = [v.const_value.numpy() for v in node.inputs if v is not None and v.const_value is not None]
    return codes, scales, zero[0] if zero else np.zeros_like(scales, dtype=codes.dtype)


def _shape(nodes: Sequence[ir.Node]) -> tuple[int, ...]:
    """The stored shape: the Reshape's, or that of the codes."""
    if len(nodes) == 1:
        return tuple(_arrays(nodes[0])[0].shape)
    constant = constant_of(nodes[1].inputs[1])
    assert constant is not None
    return tuple(int(side) for side in constant)


def _named(node: ir.Node) -> Encoding | None:
    """The encoding that the node's metadata names."""
    text = node.metadata_props.get(METADATA)
    try:
        return Encoding.parse(text) if text else None
    except RecipeError:
        return None


def _fits(pattern: Pattern, nonzero: Array) -> bool:
    return pattern.check(pattern.cover(nonzero))
