# SPDX-License-Identifier: Apache-2.0
"""Grids of weights: from a matrix to scales, zero points and codes, per output channel or per group of inputs.

A grid spans what its elements need: from the least to the greatest of them and of 0, or less where `Range` trades
clipping for finer steps. Asymmetric, s = (high - low) / (2^b - 1), z = round(-low / s) (as EfficientQAT does, Chen et
al., 2024); symmetric, s = peak / (2^(b-1) - 1), z = 0. A group's scale is rounded to float16 before codes are made.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from sparsec.compiler.encoding import EncodedTensor, Encoding, Floats, Quant, as_half, spread
from sparsec.compiler.layers import Layer
from sparsec.compiler.pattern import Array, Mask, Pattern
from sparsec.compiler.statistics import Doubles

Range = Literal["minmax", "percentile", "mse"]
_SHRINKS = np.linspace(1.0, 0.4, 31)
"""What ``mse`` tries, widest first."""
_TAIL = 1e-3
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True, eq=False)
class Grids:
    """One grid a channel or group.

    Attributes:
        quant: The precision.
        scales: float32 ``[out]``, or ``[out, groups]`` and float16 numbers.
        zeros: uint8 of the same shape where asymmetric; else None.
    """

    quant: Quant
    scales: Floats
    zeros: Array | None

    def codes(self, matrix: Array) -> Array:
        """Nearest codes of a matrix ``[out, in]``, half to even: int8, or uint8 where asymmetric."""
        inputs = matrix.shape[1]
        steps = np.rint(matrix / spread(self.scales, self.quant, inputs)) + self._offsets(inputs)
        codes = np.clip(steps, _least(self.quant), self.quant.highest)
        return np.asarray(codes.astype(np.int8 if self.quant.symmetric else np.uint8))

    def values(self, codes: Array) -> Array:
        """float64 ``[out, in]``: what codes stand for."""
        inputs = codes.shape[1]
        steps = codes.astype(np.float64) - self._offsets(inputs)
        return np.asarray(steps * spread(self.scales, self.quant, inputs))

    def rounded(self, matrix: Array) -> Array:
        """float64 ``[out, in]``: the matrix on its grids."""
        return self.values(self.codes(matrix))

    def _offsets(self, inputs: int) -> Array:
        return np.zeros((1, 1)) if self.zeros is None else spread(self.zeros.astype(np.float64), self.quant, inputs)


def _least(quant: Quant) -> int:
    """Symmetric codes leave out the lowest, so that a weight and its negative are equally well kept."""
    return -quant.highest if quant.symmetric else quant.lowest


def fit(matrix: Array, quant: Quant, mask: Mask | None = None, choice: Range = "minmax") -> Grids:
    """Fit grids to a matrix.

    Args:
        matrix: ``[out, in]``, finite.
        quant: Per channel or per group.
        mask: Elements that are stored; the others are taken to be 0. None for all.
        choice: ``minmax``; ``percentile``: all but one in a thousand elements at either end; ``mse``: the narrower
            span with the least squared error.
    """
    kept = matrix.astype(np.float64) if mask is None else np.where(mask, matrix, 0.0)
    runs = _runs(kept, quant.group or kept.shape[1])
    scales, zeros = _RANGES[choice](runs, quant)
    shape = scales.shape if quant.group else scales.shape[:1]
    return Grids(quant, scales.reshape(shape), None if quant.symmetric else zeros.reshape(shape).astype(np.uint8))


def encode(layer: Layer, grids: Grids, matrix: Array, pattern: Pattern, mask: Mask) -> Encoding:
    """Put a matrix ``[out, in]``, zero outside `mask`, into a layer as codes on their grids; says the encoding."""
    stored = np.where(mask, matrix, 0.0)
    encoding = Encoding(pattern, grids.quant)
    layer.weight.const_value = EncodedTensor(
        layer.weight.name,
        encoding,
        layer.restore(mask),
        layer.axis,
        codes=layer.restore(grids.codes(stored)),
        scales=grids.scales,
        zero_points=grids.zeros,
    )
    return encoding


@dataclass(slots=True, eq=False)
class GridQuantizer:
    """The quantizer of a column sweep: fits each group's grid when its first column is due, on the weights as then.

    Attributes:
        quant: Per channel (one grid a row, fitted at the first column) or per group.
        choice: As in `fit`.
    """

    quant: Quant
    choice: Range = "minmax"
    _fitted: list[Grids] = field(default_factory=list)

    @property
    def group(self) -> int:
        """Columns that share a grid."""
        return self.quant.group or _WHOLE_ROW

    def fit(self, start: int, weights: Doubles, mask: Mask) -> None:
        """Fit the grid of the columns from `start` on."""
        self._fitted.append(fit(weights, self.quant, mask, self.choice))

    def round(self, column: int, values: Doubles) -> Doubles:
        """A column on the grid that was fitted last."""
        return np.asarray(self._fitted[-1].rounded(values[:, None])[:, 0])

    @property
    def grids(self) -> Grids:
        """All grids, once the sweep is over."""
        if not self.quant.group:
            return self._fitted[0]
        zeros = [grids.zeros for grids in self._fitted if grids.zeros is not None]
        scales = np.hstack([grids.scales for grids in self._fitted])
        return Grids(self.quant, scales, np.hstack(zeros) if zeros else None)


_WHOLE_ROW = 1 << 30


def _runs(matrix: Array, group: int) -> Array:
    """``[out, groups, group]``, the last group filled up with zeros, which every grid holds."""
    padded = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % group)))
    return padded.reshape(len(matrix), -1, group)


def _grid(low: Array, high: Array, quant: Quant) -> tuple[Array, Array]:
    """Scales and zero points (float64, whole numbers) of spans that hold 0; a span of width 0 has scale 1."""
    width = np.maximum(-low, high) / quant.highest if quant.symmetric else (high - low) / quant.highest
    floored = np.where(width > 0, np.maximum(width, _TINY), 1.0)
    scales = as_half(floored) if quant.group else floored.astype(np.float32)
    zeros = np.zeros(scales.shape) if quant.symmetric else np.clip(np.rint(-low / scales), 0, quant.highest)
    return scales, zeros


def _minmax(runs: Array, quant: Quant) -> tuple[Array, Array]:
    return _grid(*_ends(runs), quant)


def _ends(runs: Array) -> tuple[Array, Array]:
    return np.minimum(runs.min(axis=-1), 0), np.maximum(runs.max(axis=-1), 0)


def _percentile(runs: Array, quant: Quant) -> tuple[Array, Array]:
    low, high = np.quantile(runs, [_TAIL, 1 - _TAIL], axis=-1)
    return _grid(np.minimum(low, 0), np.maximum(high, 0), quant)


def _mse(runs: Array, quant: Quant) -> tuple[Array, Array]:
    low, high = _ends(runs)
    scales, zeros = _grid(low, high, quant)
    least = np.full(low.shape, np.inf)
    for shrink in _SHRINKS:
        tried = _grid(low * shrink, high * shrink, quant)
        error = _squared_error(runs, *tried, quant)
        better = error < least
        scales, zeros = np.where(better, tried[0], scales), np.where(better, tried[1], zeros)
        least = np.where(better, error, least)
    return scales.astype(np.float32), zeros


def _squared_error(runs: Array, scales: Array, zeros: Array, quant: Quant) -> Array:
    wide, offset = scales[..., None].astype(np.float64), zeros[..., None]
    codes = np.clip(np.rint(runs / wide) + offset, _least(quant), quant.highest)
    return np.asarray((((codes - offset) * wide - runs) ** 2).sum(axis=-1))


_RANGES: Mapping[Range, Callable[[Array, Quant], tuple[Array, Array]]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "mse": _mse,
}
