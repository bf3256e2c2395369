# SPDX-License-Identifier: Apache-2.0
"""Quant, Encoding and EncodedTensor: a weight's pattern and precision, and the weight under them.

A pattern speaks of a weight seen as a matrix ``[out, in]``; for a convolution ``in`` is
``in_channels / group * kh * kw``. `docs/encodings.md` describes the formats and their text forms.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from sparsec.compiler.errors import PassError, RecipeError
from sparsec.compiler.pattern import (
    NM,
    Array,
    Block,
    Dense,
    Mask,
    Pattern,
    Unstructured,
    classify,
    parse_pattern,
)

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8] | npt.NDArray[np.uint8]
HALF_BITS = 16
"""A group's scale: a float32 number that float16 holds too, and is stored in."""
_LEAST_HALF, _GREATEST_HALF = float(np.finfo(np.float16).smallest_subnormal), float(np.finfo(np.float16).max)
_DENSE = Dense()

__all__ = [
    "NM",
    "Block",
    "Dense",
    "EncodedTensor",
    "Encoding",
    "Mask",
    "Pattern",
    "Quant",
    "Unstructured",
    "as_half",
    "as_matrix",
    "classify",
    "from_matrix",
    "parse_pattern",
    "spread",
]


@dataclass(frozen=True, slots=True)
class Quant:
    """Integer precision of a weight.

    Attributes:
        bits: 2 to 8.
        granularity: What shares a scale: ``tensor``, ``channel`` (an output channel) or ``group`` (`group`
            inputs of an output channel).
        symmetric: Whether the zero point is 0 and codes are signed; else codes run from 0 to 2^bits - 1 and each
            scale has a zero point among them.
        group: Inputs in a group; 0 unless the granularity is ``group``. A last, shorter group is a group too.

    Raises:
        RecipeError: If an attribute is out of range.
    """

    bits: int = 8
    granularity: str = "channel"
    symmetric: bool = True
    group: int = 0

    def __post_init__(self) -> None:
        known = self.granularity in ("tensor", "channel", "group")
        grouped = (self.granularity == "group") == (self.group > 0)
        if not (known and grouped and 2 <= self.bits <= 8):
            msg = (
                f"Quantization of {self.bits} bits, granularity '{self.granularity}', group {self.group}: expected "
                "2 to 8 bits, granularity 'tensor', 'channel', or 'group' with a group of at least 1."
            )
            raise RecipeError(msg)

    def __str__(self) -> str:
        sharing = self.granularity + (str(self.group) if self.group else "")
        return f"int{self.bits}({sharing}{'' if self.symmetric else ',asymmetric'})"

    @property
    def lowest(self) -> int:
        """Least code."""
        return -(1 << (self.bits - 1)) if self.symmetric else 0

    @property
    def highest(self) -> int:
        """Greatest code."""
        return self.lowest + (1 << self.bits) - 1

    @property
    def scale_bits(self) -> int:
        """Bits of one scale and, where asymmetric, its zero point."""
        return (HALF_BITS if self.group else 32) + (0 if self.symmetric else self.bits)

    @classmethod
    def parse(cls, text: str) -> "Quant":
        """Read ``int8(channel)``, ``int4(group16)``, ``int8(tensor,asymmetric)``.

        Raises:
            RecipeError: If the text is none.
        """
        match = re.fullmatch(r"int(\d)\((tensor|channel|group)(\d{0,4})(,asymmetric)?\)", text.strip())
        if not match:
            msg = f"Quantization '{text}' is not known; expected a form such as 'int8(channel)', 'int4(group16)'."
            raise RecipeError(msg)
        return cls(int(match[1]), match[2], match[4] is None, int(match[3] or 0))


@dataclass(frozen=True, slots=True)
class Encoding:
    """A pattern and a precision; `quant` None means float32."""

    pattern: Pattern = _DENSE
    quant: Quant | None = None

    def __str__(self) -> str:
        return str(self.pattern) + (f" x {self.quant}" if self.quant else "")

    @classmethod
    def parse(cls, text: str) -> "Encoding":
        """Read ``block(4x4) x int8(channel)``; the inverse of ``str(encoding)``.

        Raises:
            RecipeError: If the text is none.
        """
        pattern, separator, quant = text.partition(" x ")
        return cls(parse_pattern(pattern), Quant.parse(quant) if separator else None)


class EncodedTensor(ir.TensorProtocol):
    """A compressed weight that stands where any ONNX initializer stands.

    Implements `onnx_ir.TensorProtocol` as a float32 tensor, so every consumer that asks for `numpy()` gets
    the dense values that the compressed weight stands for. Immutable but for its name.

    Attributes:
        name: Name of the initializer.
        encoding: Pattern and precision.
        axis: The axis of output channels in the stored shape (0 for Conv, 1 for MatMul's ``[in, out]``).
        mask: bool, the tensor's shape; True where an element is stored. Zero everywhere else.
        codes: int8 (uint8 where asymmetric), the tensor's shape; None when the encoding is float32.
        scales: float32 ``[1]`` per tensor, ``[out]`` per channel, ``[out, groups]`` per group; None without codes.
            A group's is a float16 number (see `as_half`).
        zero_points: uint8, the scales' shape, where asymmetric: the code that stands for 0; else None.
    """

    def __init__(
        self,
        name: str | None,
        encoding: Encoding,
        mask: Mask,
        axis: int,
        *,
        values: Floats | None = None,
        codes: Codes | None = None,
        scales: Floats | None = None,
        zero_points: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Hold either `values` (float32) or `codes` with `scales` and `zero_points`, as `encoding.quant` says.

        Raises:
            PassError: If the arrays contradict the encoding, the mask or each other.
        """
        self.name = name
        self.encoding = encoding
        self.axis = axis
        self.mask: Mask = _frozen(mask)
        self.codes: Codes | None = None if codes is None else _frozen(codes)
        self.scales: Floats | None = None if scales is None else _frozen(scales)
        self.zero_points: npt.NDArray[np.uint8] | None = None if zero_points is None else _frozen(zero_points)
        self._values: Floats | None = None if values is None else _frozen(values)
        self.shape: ir.Shape = ir.Shape(mask.shape)
        self.dtype = ir.DataType.FLOAT
        self.doc_string: str | None = None
        self.metadata_props: dict[str, str] = {}
        self.meta: dict[str, Any] = {}
        self._validate()

    def __repr__(self) -> str:
        return f"EncodedTensor('{self.name}', {self.shape}, {self.encoding}, density={self.density:.3f})"

    @property
    def raw(self) -> Array:
        """Codes, or float32 values where there are none."""
        array = self._values if self.codes is None else self.codes
        assert array is not None
        return array

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(self.mask.size)

    @property
    def nbytes(self) -> int:
        """Bytes of the dense float32 form, as `onnx_ir` expects; see `bits_per_weight` for what is stored."""
        return self.size * 4

    @property
    def density(self) -> float:
        """Share of the elements that the mask stores."""
        return float(self.mask.mean()) if self.size else 1.0

    @property
    def storage_bits(self) -> int:
        """Bits stored: values with padding, indices, scales and zero points; none for a group that stores nothing."""
        quant, mask = self.encoding.quant, self.matrix(self.mask)
        values = self.encoding.pattern.stored(mask) * (quant.bits if quant else 32)
        return values + self.encoding.pattern.index_bits(mask) + self.stored_scales * (quant.scale_bits if quant else 0)

    @property
    def stored_scales(self) -> int:
        """Number of scales stored: all, or those of groups with a stored element."""
        quant, mask = self.encoding.quant, self.matrix(self.mask)
        if self.scales is None or quant is None or not quant.group:
            return 0 if self.scales is None else int(self.scales.size)
        return int(np.count_nonzero(Block(1, quant.group).blocks(mask)))

    @property
    def bits_per_weight(self) -> float:
        """`storage_bits` over the number of elements."""
        return self.storage_bits / max(1, self.size)

    def matrix(self, array: Array | None = None) -> Array:
        """An array of the tensor's shape (default: `numpy()`) as ``[out, in]``."""
        return as_matrix(self.numpy() if array is None else array, self.axis)

    def numpy(self) -> Floats:
        """The dense values, float32: ``(codes - zero_points) * scales`` where quantized. Not writable."""
        if self._values is not None:
            return self._values
        assert self.scales is not None
        steps = self._steps()
        wide = spread(self.scales, self.encoding.quant, steps.shape[1])
        return _frozen(from_matrix(steps.astype(np.float32) * wide, self.mask.shape, self.axis))

    def _steps(self) -> Array:
        """int16 ``[out, in]``: codes less their zero points."""
        assert self.codes is not None
        codes, zeros = self.matrix(self.codes).astype(np.int16), self.zero_points
        return codes if zeros is None else np.asarray(codes - spread(zeros, self.encoding.quant, codes.shape[1]))

    def tobytes(self) -> bytes:
        """The dense values in little endian, as ONNX stores them."""
        return self.numpy().astype("<f4", copy=False).tobytes()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The dense values, for `numpy.asarray`."""
        return np.array(self.numpy(), dtype=dtype) if copy else np.asarray(self.numpy(), dtype=dtype)

    def __dlpack__(self, *, stream: Any = None) -> Any:
        """The dense values through DLPack."""
        return self.numpy().copy().__dlpack__(stream=stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        """The host's memory."""
        return self.numpy().__dlpack_device__()

    def _validate(self) -> None:
        for wrong, check in _CHECKS.items():
            if not check(self):
                msg = f"Encoded tensor '{self.name}' of shape {self.shape}, encoding '{self.encoding}': {wrong}."
                raise PassError(msg)


def as_matrix(array: Array, axis: int) -> Array:
    """A weight as ``[out, in]``, `axis` being that of the output channels; `from_matrix` is its inverse."""
    moved = np.moveaxis(array, axis, 0)
    return moved.reshape(moved.shape[0], math.prod(moved.shape[1:]))


def from_matrix(matrix: Array, shape: tuple[int, ...], axis: int) -> Array:
    """Put ``[out, in]`` back into the stored `shape`."""
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(matrix.reshape(moved), 0, axis))


def _scale_shape(tensor: EncodedTensor) -> tuple[int, ...]:
    quant, out = tensor.encoding.quant, tensor.mask.shape[tensor.axis]
    assert quant is not None
    shapes: dict[str, tuple[int, ...]] = {"tensor": (1,), "channel": (out,)}
    inputs = tensor.mask.size // max(1, out)
    return shapes.get(quant.granularity) or (out, -(-inputs // quant.group))


def _scales_fit(tensor: EncodedTensor) -> bool:
    scales = tensor.scales
    return scales is None or (
        scales.dtype == np.float32 and scales.shape == _scale_shape(tensor) and bool((scales > 0).all())
    )


def _halves(tensor: EncodedTensor) -> bool:
    quant, scales = tensor.encoding.quant, tensor.scales
    return scales is None or quant is None or not quant.group or np.array_equal(scales, as_half(scales))


def _zero_points_fit(tensor: EncodedTensor) -> bool:
    quant, zeros = tensor.encoding.quant, tensor.zero_points
    if quant is None or quant.symmetric or zeros is None:
        return zeros is None and (quant is None or quant.symmetric)
    return zeros.dtype == np.uint8 and zeros.shape == _scale_shape(tensor) and bool((zeros <= quant.highest).all())


def _codes_fit(tensor: EncodedTensor) -> bool:
    quant, codes = tensor.encoding.quant, tensor.codes
    return quant is None or codes is None or bool(((codes >= quant.lowest) & (codes <= quant.highest)).all())


def _type_fits(tensor: EncodedTensor) -> bool:
    quant = tensor.encoding.quant
    wanted = np.float32 if quant is None else np.int8 if quant.symmetric else np.uint8
    return tensor.mask.dtype == bool and tensor.raw.dtype == wanted


def _zero_outside(tensor: EncodedTensor) -> bool:
    values = tensor.matrix(tensor.raw) if tensor.codes is None else tensor._steps()
    return not values[~tensor.matrix(tensor.mask)].any()


_CHECKS: Mapping[str, Callable[[EncodedTensor], bool]] = {
    "a matrix of at least rank 2 is expected": lambda t: t.mask.ndim >= 2 and 0 <= t.axis < t.mask.ndim,
    "codes and scales are expected when it is quantized, values when it is not": lambda t: (
        (t.codes is None) == (t.scales is None) == (t.encoding.quant is None) == (t._values is not None)
    ),
    "values must be float32, codes int8 (uint8 where asymmetric), the mask bool": _type_fits,
    "the mask's shape differs from the values'": lambda t: t.raw.shape == t.mask.shape,
    "the scales must be positive float32, one for each channel, group or tensor": _scales_fit,
    "the scales of groups must be float16 numbers": _halves,
    "zero points are expected where it is asymmetric: uint8 codes, one for each scale": _zero_points_fit,
    "a code is out of range": _codes_fit,
    "the mask is not legal for its pattern": lambda t: t.encoding.pattern.check(t.matrix(t.mask)),
    "an element outside the mask is not zero": _zero_outside,
}


def as_half(scales: Array) -> Floats:
    """Scales as a group stores them: float32 numbers that float16 holds, over 0 and finite."""
    return np.clip(scales, _LEAST_HALF, _GREATEST_HALF).astype(np.float16).astype(np.float32)


def spread(shared: Array, quant: Quant | None, inputs: int) -> Array:
    """Scales or zero points as they apply to a matrix: ``[1 or out, 1 or in]``.

    Args:
        shared: ``[1]`` per tensor, ``[out]`` per channel, ``[out, groups]`` per group.
        quant: Says which of these it is.
        inputs: Columns of the matrix.
    """
    if quant is not None and quant.group:
        return np.asarray(shared.repeat(quant.group, axis=1)[:, :inputs])
    return shared.reshape(-1, 1)


def _frozen(array: Array) -> Array:
    view = np.ascontiguousarray(array).view()
    view.setflags(write=False)
    return view
