# SPDX-License-Identifier: Apache-2.0
"""Optimal Brain Compression for blocks: take away one block after the other, each time the one that is missed least.

Frantar and Alistarh, "Optimal Brain Compression: A Framework for Accurate Post-Training Quantization and Pruning",
2022. The rows of a block share their mask, so a panel of rows has one inverse Hessian. Removing block b from it costs
``sum over rows of w_b (H^-1)_bb^-1 w_b``, exactly, if the rest of the row makes up for it; then ``H^-1`` is updated for
what is left. Panels are traced alone, and the layer's budget is spent on the cheapest next steps of all of them.
"""

import heapq
from collections.abc import Sequence

import numpy as np

from sparsec.compiler.pattern import Array, Block, Mask
from sparsec.compiler.statistics import Doubles
from sparsec.passes.column_sweep import DAMPING, damped

_LEAST = 0.25
"""No panel goes under this share of the density asked for."""
_COMPACT = 0.8
"""The inverse is cut down to what is left once that is less than this share of it."""
Trace = list[tuple[int, float]]
"""Blocks in the order in which they go, each with its cost."""


def greedy_mask(
    weights: Array,
    hessian: Doubles,
    pattern: Block,
    density: float,
    scope: str = "layer",
    damping: float = DAMPING,
) -> Mask:
    """Choose which blocks of a weight stay.

    Args:
        weights: ``[out, in]``.
        hessian: ``(2 / rows) X X^T``, float64 ``[in, in]``.
        pattern: The blocks.
        density: Share of the blocks that stays.
        scope: Who shares the budget: the whole ``layer``, or each ``row`` of blocks.
        damping: Share of the mean diagonal that is added to the Hessian's diagonal.

    Returns:
        bool ``[out, in]``.
    """
    out, inputs = weights.shape
    panels, blocks = -(-out // pattern.rows), -(-inputs // pattern.cols)
    wide, square = _padded(weights, hessian, blocks * pattern.cols)
    inverse = np.asarray(np.linalg.inv(damped(square, damping)), np.float64)
    rows = [wide[at : at + pattern.rows] for at in range(0, out, pattern.rows)]
    most = blocks - max(1, round(density * blocks * (1 if scope == "row" else _LEAST)))
    traces = [trace(panel, inverse, pattern.cols, most) for panel in rows]
    budget = panels * blocks - max(1, round(density * panels * blocks))
    counts = [most] * panels if scope == "row" else spend(traces, budget)
    kept = np.ones((panels, blocks), bool)
    for panel, (steps, count) in enumerate(zip(traces, counts, strict=True)):
        kept[panel, [block for block, _ in steps[:count]]] = False
    spread = kept.repeat(pattern.rows, axis=0).repeat(pattern.cols, axis=1)
    return np.ascontiguousarray(spread[:out, :inputs])


def _padded(weights: Array, hessian: Doubles, inputs: int) -> tuple[Doubles, Doubles]:
    """The weight with columns of zeros up to a whole number of blocks, which nothing is correlated with."""
    more = inputs - weights.shape[1]
    wide = np.pad(hessian, (0, more))
    wide[np.arange(inputs - more, inputs), np.arange(inputs - more, inputs)] = np.diag(hessian).mean()
    return np.pad(weights, ((0, 0), (0, more))).astype(np.float64), wide


def trace(panel: Array, inverse: Doubles, cols: int, most: int) -> Trace:
    """The order in which at most `most` blocks of `cols` columns leave a panel of rows, and what each costs."""
    weights, inverse = panel.astype(np.float64), inverse.astype(np.float64)
    left = np.arange(weights.shape[1] // cols)
    gone = np.zeros(len(left), bool)
    found: Trace = []
    while len(found) < most:
        if (~gone).mean() < _COMPACT:
            weights, inverse, left = _compacted(weights, inverse, left, gone, cols)
            gone = np.zeros(len(left), bool)
        costs, small = _costs(weights, inverse, cols)
        costs[gone] = np.inf
        block = int(costs.argmin())
        found.append((int(left[block]), float(costs[block])))
        _remove(weights, inverse, slice(block * cols, block * cols + cols), small[block])
        gone[block] = True
    return found


def spend(traces: Sequence[Trace], budget: int) -> list[int]:
    """How many steps of each trace to take, `budget` in all, always the cheapest next one."""
    taken = [0] * len(traces)
    heap = [(steps[0][1], row) for row, steps in enumerate(traces) if steps]
    heapq.heapify(heap)
    for _ in range(min(budget, sum(map(len, traces)))):
        _, row = heapq.heappop(heap)
        taken[row] += 1
        if taken[row] < len(traces[row]):
            heapq.heappush(heap, (traces[row][taken[row]][1], row))
    return taken


def _costs(weights: Doubles, inverse: Doubles, cols: int) -> tuple[Doubles, Doubles]:
    """What each block's removal costs, and the inverses of the diagonal blocks ``[blocks, cols, cols]``."""
    blocks = weights.shape[1] // cols
    diagonal = inverse.reshape(blocks, cols, blocks, cols)[np.arange(blocks), :, np.arange(blocks), :]
    with np.errstate(all="ignore"):
        small = _inverses(diagonal)
    cut = weights.reshape(len(weights), blocks, cols)
    return np.einsum("rbi,bij,rbj->b", cut, small, cut), small


def _inverses(diagonal: Doubles) -> Doubles:
    """Inverses of small symmetric matrices; blocks that are gone are zero, and stand for the unit matrix."""
    lost = ~diagonal.any(axis=(1, 2))
    safe = diagonal.copy()
    safe[lost] = np.eye(diagonal.shape[1])
    return np.asarray(np.linalg.inv(safe))


def _remove(weights: Doubles, inverse: Doubles, block: slice, small: Doubles) -> None:
    """Take a block out of rows and inverse; both are changed in place, and become zero there."""
    across = small @ inverse[block]
    weights -= weights[:, block] @ across
    inverse -= inverse[:, block] @ across
    weights[:, block] = 0
    inverse[block] = 0
    inverse[:, block] = 0


def _compacted(
    weights: Doubles, inverse: Doubles, left: Array, gone: Mask, cols: int
) -> tuple[Doubles, Doubles, Array]:
    kept = np.flatnonzero((~gone).repeat(cols))
    return weights[:, kept], np.ascontiguousarray(inverse[np.ix_(kept, kept)]), left[~gone]
