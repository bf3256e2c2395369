# SPDX-License-Identifier: Apache-2.0
"""The column sweep: fix a weight column by column, and let the columns that are still free make up for each error.

One loop with a pluggable mask and a pluggable quantizer. With a mask alone it is SparseGPT (Frantar and Alistarh,
"SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", 2023), with a quantizer alone GPTQ (Frantar
et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022), with both the start
of GQSA. `refit` then solves for the best values on a mask that is settled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sparsec.compiler.pattern import Array, Mask
from sparsec.compiler.statistics import Doubles

DAMPING = 0.01
"""Share of the mean of the Hessian's diagonal that is added to the diagonal."""
_LEAST = 1e-6
"""The least such share where an input was 0 on all samples."""
_ROUNDING = 1e-6
"""The least rise of the diagonal, a share of the greatest element, where rounding hides what the samples say."""
_FLAT = 1e-14
"""A pivot under this share of the greatest one is not told apart from 0."""
_BLOCK = 128
"""Columns after which the updates are handed on to the rest of the weight."""


@dataclass(frozen=True, slots=True)
class MaskRule:
    """Decides which elements stay, `width` columns at a time.

    Attributes:
        width: Columns that are decided together.
        choose: From scores, float64 ``[out, width or fewer]``, and the first column's number, to the mask of
            those columns. The scores are those of the weights as they are then, earlier errors made up for.
    """

    width: int
    choose: Callable[[Doubles, int], Mask]

    @classmethod
    def settled(cls, mask: Mask) -> "MaskRule":
        """The mask is given."""
        return cls(_BLOCK, lambda scores, start: mask[:, start : start + scores.shape[1]])


class Quantizer(Protocol):
    """Rounds columns to a grid; `group` columns share a grid, which is fitted when their first column is due."""

    @property
    def group(self) -> int:
        """Columns that share a grid; a number over the weight's width for one grid a row."""
        ...

    def fit(self, start: int, weights: Doubles, mask: Mask) -> None:
        """Fit the grid of the columns from `start` on to their current values ``[out, group or fewer]``."""
        ...

    def round(self, column: int, values: Doubles) -> Doubles:
        """The values ``[out]`` of a column, on the grid."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Swept:
    """A weight after the sweep.

    Attributes:
        values: float64 ``[out, in]``, zero outside the mask, on the quantizer's grid if there was one.
        mask: bool ``[out, in]``.
        loss: Estimate of the rise of the squared output error, a mean over input vectors.
    """

    values: Doubles
    mask: Mask
    loss: float


def damped(hessian: Doubles, damping: float = DAMPING) -> Doubles:
    """The Hessian made safe to invert.

    An input that was 0 on all samples has but the damping: its weights count little, are worth what they are, and make
    up for no others. Few samples do not prove that an input is dead. Where samples hardly differ, what they say is less
    than what float32 has rounded away, and the Hessian may not even be definite: it is damped until it is.
    """
    safe = hessian.copy()
    share = damping if (np.diag(hessian) > 0).all() else max(damping, _LEAST)
    safe[np.diag_indices_from(safe)] += share * max(float(np.diag(hessian).mean()), 1e-12)
    rise = _ROUNDING * float(np.abs(safe).max())
    while np.isfinite(rise) and not _is_definite(safe):
        safe[np.diag_indices_from(safe)] += rise
        rise *= 10
    return safe


def _is_definite(matrix: Doubles) -> bool:
    """Whether a symmetric matrix is positive definite, and by more than rounding."""
    try:
        pivots = np.diag(np.linalg.cholesky(matrix)) ** 2
    except np.linalg.LinAlgError:
        return False
    return bool(pivots.min() > _FLAT * pivots.max())


def inverse_diagonal(hessian: Doubles) -> Doubles:
    """Diagonal of the damped Hessian's inverse, float64 ``[in]``."""
    return np.ascontiguousarray(np.diag(np.linalg.inv(damped(hessian))))


def sweep(
    weights: Array,
    hessian: Doubles,
    rule: MaskRule | None = None,
    quantizer: Quantizer | None = None,
    damping: float = DAMPING,
) -> Swept:
    """Fix the columns of a weight one after the other.

    Args:
        weights: ``[out, in]``.
        hessian: ``(2 / rows) X X^T``, float64 ``[in, in]``.
        rule: Which elements become zero; None keeps all.
        quantizer: Rounds what stays; None keeps it as it is.
        damping: Share of the mean diagonal that is added to the diagonal.
    """
    upper = np.ascontiguousarray(np.linalg.cholesky(np.linalg.inv(damped(hessian, damping))).T)
    return _Sweep(weights.astype(np.float64), upper, rule, quantizer).run()


class _Sweep:
    """The state of one sweep."""

    def __init__(self, weights: Doubles, upper: Doubles, rule: MaskRule | None, quantizer: Quantizer | None) -> None:
        self.weights, self.upper, self.rule, self.quantizer = weights, upper, rule, quantizer
        self.mask = np.ones(weights.shape, bool)
        self.loss = 0.0

    def run(self) -> Swept:
        inputs = self.weights.shape[1]
        for start in range(0, inputs, self._block()):
            self._fix(start, min(start + self._block(), inputs))
        return Swept(self.weights, self.mask, self.loss / 2)

    def _block(self) -> int:
        """A multiple of what is decided together, of about `_BLOCK` columns."""
        unit = int(np.lcm(self.rule.width if self.rule else 1, self._group()))
        return unit * max(1, _BLOCK // unit)

    def _group(self) -> int:
        return min(self.quantizer.group, self.weights.shape[1]) if self.quantizer else 1

    def _fix(self, start: int, end: int) -> None:
        """Fix the columns from `start` to `end`, then hand their errors on to all later ones."""
        errors = np.zeros((len(self.weights), end - start))
        for column in range(start, end):
            self._decide(column, end)
            wanted, scale = self.weights[:, column].copy(), self.upper[column, column]
            fixed = np.where(self.mask[:, column], self._rounded(column, wanted), 0.0)
            error = (wanted - fixed) / scale
            self.weights[:, column + 1 : end] -= np.outer(error, self.upper[column, column + 1 : end])
            self.weights[:, column] = fixed
            errors[:, column - start] = error
        self.loss += float((errors**2).sum())
        self.weights[:, end:] -= errors @ self.upper[start:end, end:]

    def _decide(self, column: int, end: int) -> None:
        """Choose the mask, and fit the grid, where columns from this one on are due."""
        if self.rule and column % self.rule.width == 0:
            due = slice(column, min(column + self.rule.width, end))
            scores = (self.weights[:, due] / np.diag(self.upper)[due]) ** 2
            self.mask[:, due] = self.rule.choose(scores, column)
        if self.quantizer and column % self._group() == 0:
            due = slice(column, min(column + self._group(), end))
            self.quantizer.fit(column, self.weights[:, due], self.mask[:, due])

    def _rounded(self, column: int, values: Doubles) -> Doubles:
        return self.quantizer.round(column, values) if self.quantizer else values


def refit(weights: Array, hessian: Doubles, mask: Mask, damping: float = DAMPING) -> Doubles:
    """The values on a mask that make the layer's squared output error least: exact least squares, row by row.

    Rows with the same mask are solved together.

    Args:
        weights: The original weight ``[out, in]``.
        hessian: ``(2 / rows) X X^T``, float64 ``[in, in]``.
        mask: bool ``[out, in]``; other elements of the result are zero.
        damping: Share of the mean diagonal that is added to the diagonal; it draws values to the original's.

    Returns:
        float64 ``[out, in]``.
    """
    safe = damped(hessian, damping)
    wanted = weights.astype(np.float64)
    products = wanted @ safe
    found = np.zeros_like(wanted)
    kinds, members = np.unique(mask, axis=0, return_inverse=True)
    for number, kept in enumerate(kinds):
        rows = np.flatnonzero(members.ravel() == number)
        if kept.any():
            solved = np.linalg.solve(safe[np.ix_(kept, kept)], products[np.ix_(rows, kept)].T)
            found[np.ix_(rows, kept)] = solved.T
    return found


def output_error(change: Array, hessian: Doubles) -> float:
    """Mean squared change of the layer's output vectors when its weight ``[out, in]`` changes by `change`."""
    return max(0.0, float(np.einsum("oi,ij,oj->", change, hessian / 2, change, optimize=True)))
