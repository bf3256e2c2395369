# SPDX-License-Identifier: Apache-2.0
"""A layer's constant weight as kernels want it: [out, in...], float32, int8 codes or groups, and its zeros' pattern."""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from sparsec.compiler.encoding import EncodedTensor, Quant, classify
from sparsec.compiler.graph import constant_of
from sparsec.compiler.lowering.groups import groups_of, join
from sparsec.compiler.lowering.kernel import Array

INT8 = Quant(8, "channel")
"""What kernels compute with; fewer bits per channel are the same codes in a narrower range."""

_ROUNDED = 0.8
"""Share of codes that are not zero, from which on scattered zeros are taken for rounding."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant weight; arrays have the output channels as their first axis.

    Attributes:
        values: float32.
        codes: int8 and None where the weight is not quantized to int8 per output channel.
        scales: float32 [out], with the codes.
        pattern: Text form of the pattern asked for, or found in the zeros.
        density: Share of elements that are not zero.
        widened: Text form of a precision that no kernel reads, so that its values are stored as float32; else empty.
        groups: uint32 [out, in], see `groups.join`, where the inputs are one axis of groups of at most 4 bits; else
            None. `widened` then names the precision, for a kernel that reads the values.
        group: Their size; 0 without.
    """

    values: Array
    codes: Array | None
    scales: Array | None
    pattern: str
    density: float
    widened: str = ""
    groups: Array | None = None
    group: int = 0

    @property
    def code_sums(self) -> Array:
        """int64 [out]: each output channel's sum of codes."""
        assert self.codes is not None
        sums: Array = self.codes.reshape(len(self.codes), -1).sum(axis=1, dtype=np.int64)
        return sums

    def in_float(self) -> "Weight":
        """The same weight for a float32 kernel."""
        return replace(self, codes=None, scales=None, groups=None)

    def in_groups(self) -> "Weight":
        """The same weight for a kernel that reads groups."""
        return replace(self, widened="")


def weight_of(value: ir.Value, axis: int) -> Weight:
    """The weight behind an initializer whose output channels are at `axis`."""
    tensor, array = value.const_value, constant_of(value)
    assert array is not None, value.name
    values = _leading(array.astype(np.float32), axis)
    quant = tensor.encoding.quant if isinstance(tensor, EncodedTensor) else None
    codes = scales = None
    if isinstance(tensor, EncodedTensor) and _is_integer(quant) and tensor.axis == axis:
        assert tensor.codes is not None
        codes, scales = _leading(tensor.codes, axis), tensor.scales
    weight = Weight(values, codes, scales, *_pattern(tensor, values), _widened(quant))
    found = (
        groups_of(tensor) if isinstance(tensor, EncodedTensor) and tensor.axis == axis and values.ndim == 2 else None
    )
    if found is None or quant is None:
        return weight
    return replace(weight, groups=join(found), group=quant.group)


def _widened(quant: Quant | None) -> str:
    return "" if quant is None or _is_integer(quant) else str(quant)


def _is_integer(quant: Quant | None) -> bool:
    """Whether integer kernels compute with the codes: a scale an output channel, zero point 0."""
    return quant is not None and quant.granularity == "channel" and quant.symmetric


def _pattern(tensor: object, values: Array) -> tuple[str, float]:
    """Asked for, or found in the zeros.

    Groups of few bits have many zeros by rounding, and codes of eight some; those are none to exploit.
    """
    density = float(np.count_nonzero(values)) / max(1, values.size)
    encoding = tensor.encoding if isinstance(tensor, EncodedTensor) else None
    if encoding is not None and (str(encoding.pattern) != "dense" or encoding.quant not in (None, INT8)):
        return str(encoding.pattern), density
    found = str(classify(values.reshape(len(values), -1))[0])
    rounded = encoding is not None and found == "unstructured" and density > _ROUNDED
    return "dense" if rounded else found, density


def _leading(array: Array, axis: int) -> Array:
    moved: Array = np.ascontiguousarray(np.moveaxis(array, axis, 0))
    return moved
