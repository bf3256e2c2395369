# SPDX-License-Identifier: Apache-2.0
"""Which blocks of a weight hold something, and the arrays by which a sparse kernel finds them. Numpy only."""

from dataclasses import dataclass

import numpy as np

from sparsec.compiler.lowering.kernel import Array
from sparsec.compiler.pattern import Block, parse_pattern


@dataclass(frozen=True, slots=True)
class Grid:
    """Blocks of `rows` x `steps` over a weight of 32-bit elements [row][step]."""

    rows: int
    steps: int

    def cut(self, elements: Array) -> Array:
        """All blocks as [panel][block][step][row], the last ones filled up by zeros."""
        rows, steps = elements.shape
        padded = np.zeros((-(-rows // self.rows) * self.rows, -(-steps // self.steps) * self.steps), elements.dtype)
        padded[:rows, :steps] = elements
        return padded.reshape(len(padded) // self.rows, self.rows, -1, self.steps).transpose(0, 2, 3, 1)

    def count(self, elements: Array) -> int:
        """Blocks that hold a nonzero."""
        return int(self.cut(elements).any(axis=(2, 3)).sum())


@dataclass(frozen=True, slots=True)
class Packed:
    """A block-sparse weight as a kernel reads it.

    Attributes:
        values: 32-bit elements [block][step][row] of the blocks that hold a nonzero, panel after panel.
        places: int32: where each block's operand starts.
        ends: int32 [panels + 1]: the number of blocks before each panel.
    """

    values: Array
    places: Array
    ends: Array


def pack(elements: Array, grid: Grid, places: Array, unroll: int = 1) -> Packed:
    """Keep the blocks of [row][step] elements that hold a nonzero.

    Args:
        elements: float32, or int32 words of four codes.
        grid: The blocks.
        places: int32 [step]: where the operand of each step lies.
        unroll: Each panel's number of blocks is made a multiple of this by blocks of zeros.
    """
    blocks = grid.cut(elements)
    held = np.asarray(blocks.any(axis=(2, 3)))
    kept = [_padded(np.flatnonzero(panel), unroll) for panel in held]
    ends = np.concatenate([[0], np.cumsum([len(chosen) for chosen in kept])]).astype(np.int32)
    values = [blocks[p][np.maximum(chosen, 0)] * (chosen >= 0)[:, None, None] for p, chosen in enumerate(kept)]
    starts = [places[np.maximum(chosen, 0) * grid.steps] for chosen in kept]
    return Packed(_never_empty(np.concatenate(values)), _never_empty(np.concatenate(starts).astype(np.int32)), ends)


def _padded(chosen: Array, unroll: int) -> Array:
    """Indices, and -1 up to a multiple."""
    return np.concatenate([chosen, np.full(-len(chosen) % unroll, -1)]).astype(np.int64)


def _never_empty(array: Array) -> Array:
    flat = np.ascontiguousarray(array).ravel()
    return flat if flat.size else np.zeros(1, array.dtype)


def grids(pattern: str, dtype: str, taps: int, depth: int) -> list[Grid]:
    """Blocks that suit a pattern of zeros; empty for a dense one.

    A step is one float32 weight, or a word of four channels; blocks span several only in a 1x1 convolution, where
    steps are neighbouring channels.

    Args:
        pattern: Text form.
        dtype: Of the activations.
        taps: Of the convolution.
        depth: Channels, or words of four.
    """
    parsed = parse_pattern(pattern)
    if str(parsed) == "dense":
        return []
    rows, cols = (parsed.rows, parsed.cols) if isinstance(parsed, Block) else (1, 1)
    steps = cols // 4 if dtype == "uint8" else cols
    fitting = max(
        (s for s in (4, 2, 1) if steps % s == 0 and depth % s == 0 and taps == 1 and s <= max(steps, 1)), default=1
    )
    sizes = {r for r in (8, 4, 2, 1) if rows % r == 0} if rows > 1 else {1, 4}
    return [Grid(r, fitting) for r in sorted(sizes, reverse=True)[:2]]
