# SPDX-License-Identifier: Apache-2.0
"""Which rows of a panel each step of a weight needs, and the arrays by which a row-mask kernel walks them. Numpy only.

A run is all steps of one panel that have the same mask, the set of rows that hold something there.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sparsec.compiler.lowering.kernel import Array

MASKS: dict[int, tuple[tuple[int, ...], ...]] = {
    size: tuple(rows for held in range(1, size + 1) for rows in combinations(range(size), held)) for size in range(1, 5)
}
"""The rows of every mask of a panel of so many rows, in the order of the runs."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A sparse weight as a row-mask kernel reads it.

    Attributes:
        values: float32: panel after panel, run after run, step after step the weights of the mask's rows.
        places: int32 [steps kept]: where each step's operand lies, in the same order.
        runs: int32 [panels x masks + 1]: the number of steps before each run.
        firsts: int32 [panels]: the number of values before each panel.
    """

    values: Array
    places: Array
    runs: Array
    firsts: Array


def mask_numbers(elements: Array, size: int) -> Array:
    """The number in `MASKS` of each step of each panel, -1 where it holds nothing: [panel][step].

    Args:
        elements: float32 [row][step].
        size: Rows of a panel; the last panel is filled up by empty rows.
    """
    held = _panels(elements, size) != 0
    bits = (held << np.arange(size)[:, None]).sum(axis=1)
    table = np.full(1 << size, -1)
    for number, rows in enumerate(MASKS[size]):
        table[sum(1 << row for row in rows)] = number
    return np.asarray(table[bits])


def count(elements: Array, size: int) -> Array:
    """How many steps have each mask, over all panels: [mask]."""
    numbers = mask_numbers(elements, size)
    return np.bincount(numbers[numbers >= 0], minlength=len(MASKS[size]))


def pack(elements: Array, size: int, places: Array) -> Packed:
    """Keep what is not zero of [row][step] elements.

    Args:
        elements: float32.
        size: Rows of a panel.
        places: int32 [step]: where the operand of each step lies.
    """
    numbers, panels = mask_numbers(elements, size), _panels(elements, size)
    values, kept, lengths, firsts = [], [], [], [0]
    for panel, mask in zip(panels, numbers, strict=True):
        runs = [np.flatnonzero(mask == number) for number in range(len(MASKS[size]))]
        found = [panel[list(rows)][:, run].T.ravel() for rows, run in zip(MASKS[size], runs, strict=True)]
        values += found
        kept += [places[run] for run in runs]
        lengths += [len(run) for run in runs]
        firsts.append(firsts[-1] + sum(len(part) for part in found))
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return Packed(
        _never_empty(np.concatenate(values), "float32"),
        _never_empty(np.concatenate(kept), "int32"),
        ends.astype(np.int32),
        np.asarray(firsts[:-1], np.int32),
    )


def _panels(elements: Array, size: int) -> Array:
    """[panel][row][step], the last one filled up by zeros."""
    rows, steps = elements.shape
    padded = np.zeros((-(-rows // size) * size, steps), elements.dtype)
    padded[:rows] = elements
    return padded.reshape(-1, size, steps)


def _never_empty(array: Array, dtype: str) -> Array:
    return np.ascontiguousarray(array if array.size else np.zeros(1), dtype)
