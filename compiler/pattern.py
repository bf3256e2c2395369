# SPDX-License-Identifier: Apache-2.0
"""Pattern: which zeros are legal in a weight matrix ``[out, in]``, with text forms and discovery."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsec.compiler.errors import RecipeError

Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]

POINTER_BITS = 32
"""One row (or block row) pointer of a compressed matrix."""
INDEX_BITS = 16
"""One column index of a stored element or block."""
NARROW_INDEX_BITS = 8
"""One column index where a row has few enough blocks: `NARROW_COLUMNS`."""
NARROW_COLUMNS = 256
"""The most block columns that a narrow index reaches."""


class Pattern(ABC):
    """Which zeros are legal in a weight matrix ``[out, in]``."""

    __slots__ = ()

    @abstractmethod
    def check(self, mask: Mask) -> bool:
        """Whether `mask` (True: stored), bool ``[out, in]``, is legal."""

    @abstractmethod
    def project(self, scores: Array, density: float) -> Mask:
        """The legal mask that keeps the highest scores.

        Args:
            scores: Importance of each element, ``[out, in]``, at least 0, finite.
            density: Share of the units (elements or blocks) to keep, in (0, 1].

        Returns:
            bool ``[out, in]``; exactly ``round(density * units)`` units are True, at least one. Between
            equal scores the first in row order wins, so equal input gives an equal mask.

        Raises:
            RecipeError: If the density is out of range or one that the pattern cannot have.
        """

    @abstractmethod
    def cover(self, nonzero: Mask) -> Mask:
        """The smallest mask that holds all of `nonzero`; it is legal wherever a legal one exists."""

    @abstractmethod
    def index_bits(self, mask: Mask) -> int:
        """Bits spent on saying where the stored elements are."""

    def stored(self, mask: Mask) -> int:
        """Elements stored, padding included."""
        return int(np.count_nonzero(mask))


@dataclass(frozen=True, slots=True)
class Dense(Pattern):
    """Every element is stored."""

    def __str__(self) -> str:
        return "dense"

    def check(self, mask: Mask) -> bool:
        """See `Pattern.check`."""
        return bool(mask.all())

    def project(self, scores: Array, density: float) -> Mask:
        """See `Pattern.project`; the density has to be 1."""
        _only_density(self, density, 1.0)
        return np.ones(scores.shape, bool)

    def cover(self, nonzero: Mask) -> Mask:
        """See `Pattern.cover`."""
        return np.ones(nonzero.shape, bool)

    def index_bits(self, mask: Mask) -> int:
        """No index: 0."""
        return 0


@dataclass(frozen=True, slots=True)
class Unstructured(Pattern):
    """Any element may be zero."""

    def __str__(self) -> str:
        return "unstructured"

    def check(self, mask: Mask) -> bool:
        """See `Pattern.check`."""
        return True

    def project(self, scores: Array, density: float) -> Mask:
        """See `Pattern.project`; a unit is one element of the whole matrix."""
        return _top(scores, density)

    def cover(self, nonzero: Mask) -> Mask:
        """See `Pattern.cover`."""
        return nonzero.copy()

    def index_bits(self, mask: Mask) -> int:
        """A column index per element and a pointer per row."""
        return int(np.count_nonzero(mask)) * INDEX_BITS + len(mask) * POINTER_BITS


@dataclass(frozen=True, slots=True)
class NM(Pattern):
    """At most `n` units stored in each run of `m`; a shorter last run also holds at most `n`.

    A unit is `width` neighbouring inputs: 1, or 2 for the pair-wise form of 4-bit sparse matrix units, where
    ``nm(2:4x2)`` stores two pairs of each four.

    Raises:
        RecipeError: Unless 1 <= n < m and the width is at least 1.
    """

    n: int
    m: int
    width: int = 1

    def __post_init__(self) -> None:
        if not (1 <= self.n < self.m and self.width >= 1):
            msg = f"Pattern '{self}': expected 1 <= n < m{'' if self.width >= 1 else ', width at least 1'}."
            raise RecipeError(msg)

    def __str__(self) -> str:
        return f"nm({self.n}:{self.m}{f'x{self.width}' if self.width != 1 else ''})"

    def check(self, mask: Mask) -> bool:
        """See `Pattern.check`."""
        units = np.asarray(self._units(mask).any(axis=-1))
        whole = np.array_equal(self._spread(units, mask.shape[1]), mask)
        return bool(whole and (_runs(units, self.m).sum(axis=-1) <= self.n).all())

    def project(self, scores: Array, density: float) -> Mask:
        """See `Pattern.project`; the density has to be n / m, and a last run shorter than n stays whole."""
        _only_density(self, density, self.n / self.m)
        units = self._units(scores).sum(axis=-1)
        runs = _runs(units, self.m, fill=-1.0)
        order = np.argsort(-runs, axis=-1, kind="stable")
        kept = np.zeros(runs.shape, bool)
        np.put_along_axis(kept, order[..., : self.n], True, axis=-1)
        return self._spread(kept.reshape(len(scores), -1)[:, : units.shape[1]], scores.shape[1])

    def cover(self, nonzero: Mask) -> Mask:
        """See `Pattern.cover`."""
        return self._spread(np.asarray(self._units(nonzero).any(axis=-1)), nonzero.shape[1])

    def index_bits(self, mask: Mask) -> int:
        """A position inside its run for each stored unit."""
        return self.stored(mask) // self.width * math.ceil(math.log2(self.m))

    def stored(self, mask: Mask) -> int:
        """`n` units a run, used or not."""
        return int(len(mask) * math.ceil(mask.shape[1] / (self.m * self.width)) * self.n * self.width)

    def _units(self, matrix: Array) -> Array:
        return _runs(matrix, self.width)

    def _spread(self, units: Mask, inputs: int) -> Mask:
        return np.ascontiguousarray(units.repeat(self.width, axis=1)[:, :inputs])


@dataclass(frozen=True, slots=True)
class Block(Pattern):
    """Blocks of `rows` x `cols` are stored whole or not at all.

    Blocks start at element (0, 0). Where the sides do not divide the matrix, the last block of a row or
    column is cut by the edge: it counts as one unit and is stored padded with zeros.

    Raises:
        RecipeError: If a side is under 1.
    """

    rows: int
    cols: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            msg = f"Pattern '{self}': expected sides of at least 1."
            raise RecipeError(msg)

    def __str__(self) -> str:
        return f"block({self.rows}x{self.cols})"

    def check(self, mask: Mask) -> bool:
        """See `Pattern.check`."""
        return bool(np.array_equal(self.cover(mask), mask))

    def project(self, scores: Array, density: float) -> Mask:
        """See `Pattern.project`; a unit is a block, its score the sum over its elements."""
        kept = _top(self._tiles(scores).sum(axis=(1, 3)), density)
        return self._spread(kept, scores.shape)

    def cover(self, nonzero: Mask) -> Mask:
        """See `Pattern.cover`."""
        return self._spread(self.blocks(nonzero), nonzero.shape)

    def blocks(self, mask: Mask) -> Mask:
        """Which blocks hold a True: bool ``[ceil(out / rows), ceil(in / cols)]``."""
        return np.asarray(self._tiles(mask).any(axis=(1, 3)))

    def index_bits(self, mask: Mask) -> int:
        """A column index per block, narrow where it reaches, and a pointer per block row."""
        blocks = self.blocks(mask)
        index = NARROW_INDEX_BITS if blocks.shape[1] <= NARROW_COLUMNS else INDEX_BITS
        return int(np.count_nonzero(blocks)) * index + len(blocks) * POINTER_BITS

    def stored(self, mask: Mask) -> int:
        """Elements of the stored blocks, the padding of cut blocks included."""
        return int(np.count_nonzero(self.blocks(mask))) * self.rows * self.cols

    def _tiles(self, matrix: Array) -> Array:
        """The matrix padded with zeros, as ``[block rows, rows, block columns, cols]``."""
        out, inputs = matrix.shape
        padded = np.pad(matrix, ((0, -out % self.rows), (0, -inputs % self.cols)))
        return padded.reshape(padded.shape[0] // self.rows, self.rows, -1, self.cols)

    def _spread(self, blocks: Mask, shape: tuple[int, ...]) -> Mask:
        """One bool a block -> one bool an element of a matrix of `shape`."""
        mask = blocks.repeat(self.rows, axis=0).repeat(self.cols, axis=1)
        return mask[: shape[0], : shape[1]]


_PATTERNS: Mapping[str, tuple[type[Pattern], str]] = {
    r"dense": (Dense, "dense"),
    r"unstructured": (Unstructured, "unstructured"),
    r"nm\((\d{1,4}):(\d{1,4})\)": (NM, "nm(2:4)"),
    r"nm\((\d{1,4}):(\d{1,4})x(\d{1,2})\)": (NM, "nm(2:4x2)"),
    r"block\((\d{1,4})x(\d{1,4})\)": (Block, "block(4x4)"),
}


def parse_pattern(text: str) -> Pattern:
    """Read a pattern's text form, such as ``block(4x4)``; the inverse of ``str(pattern)``.

    Raises:
        RecipeError: If the text is none.
    """
    for form, (pattern, _) in _PATTERNS.items():
        if match := re.fullmatch(form, text.strip()):
            return pattern(*map(int, match.groups()))
    examples = ", ".join(f"'{example}'" for _, example in _PATTERNS.values())
    msg = f"Pattern '{text}' is not known; expected a form such as {examples}."
    raise RecipeError(msg)


_LADDER: tuple[tuple[Pattern, float], ...] = (
    (Block(4, 4), 1.0),
    (Block(4, 1), 1.1),
    (Block(1, 4), 1.2),
    (NM(1, 4), 1.3),
    (NM(2, 4), 1.3),
    (Unstructured(), 1.6),
)
"""Candidates of `classify` with the relative time of one stored element: what a coarser unit saves."""
DENSE_FROM = 0.95
"""A pattern that stores more than this share of a weight is not worth its indices."""


def classify(matrix: Array) -> tuple[Pattern, float]:
    """Name the most useful pattern of the zeros that are already in a weight.

    Args:
        matrix: The weight as ``[out, in]``, any numeric type.

    Returns:
        The pattern that makes the least work by `_LADDER`, and the weight's density: the share of its
        elements that are not zero.
    """
    nonzero = matrix != 0
    density = float(nonzero.mean()) if matrix.size else 1.0
    best: tuple[float, Pattern] = (math.inf, Dense())
    for pattern, price in _LADDER if density <= DENSE_FROM else ():
        mask = pattern.cover(nonzero)
        share = pattern.stored(mask) / matrix.size
        if pattern.check(mask) and share <= DENSE_FROM:
            best = min(best, (share * price, pattern), key=lambda entry: entry[0])
    return best[1], density


def _top(scores: Array, density: float) -> Mask:
    """The `density` highest scores, at least one; the first in row order among equals."""
    if not 0 < density <= 1:
        msg = f"Density {density}: expected more than 0 and at most 1."
        raise RecipeError(msg)
    keep = max(1, round(density * scores.size))
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores.ravel(), kind="stable")[:keep]] = True
    return mask.reshape(scores.shape)


def _runs(matrix: Array, m: int, fill: float = 0) -> Array:
    """Rows cut into runs of `m`, the last one filled up: ``[out, ceil(in / m), m]``."""
    padded = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % m)), constant_values=fill)
    return padded.reshape(len(matrix), -1, m)


def _only_density(pattern: Pattern, density: float, only: float) -> None:
    if not math.isclose(density, only):
        msg = f"Pattern '{pattern}' has density {only:g}; found density={density:g}."
        raise RecipeError(msg)
