# SPDX-License-Identifier: Apache-2.0
"""Optimal Brain Compression for blocks: take away one block after the other, each time the one that is missed least.

Frantar and Alistarh, "Optimal Brain Compression: A Framework for Accurate Post-Training Quantization and Pruning",
2022. The rows of a block share their mask, so a panel of rows has one inverse Hessian. Removing block b from it costs
``sum over rows of w_b (H^-1)_bb^-1 w_b``, exactly, if the rest of the row makes up for it; then ``H^-1`` is updated for
what is left. Panels are traced alone, and the layer's budget is spent on the cheapest next steps of all of them.

What a panel has taken from the inverse is kept as a product of low rank, of which a step reads one block of rows; the
inverse itself is common to all panels and stays as it is.
"""

import heapq
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from sparsec.compiler.pattern import Array, Block, Mask
from sparsec.compiler.statistics import Doubles
from sparsec.passes.column_sweep import DAMPING, damped

_LEAST = 0.25
"""No panel goes under this share of the density asked for."""
_EVERY = 16
"""One panel of so many is traced first, to see how dear the steps become that the budget reaches."""
_MARGIN = 1.5
"""How far beyond that the others are traced."""
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
    if scope == "row":
        most = blocks - max(1, round(density * blocks))
        chosen = [trace(panel, inverse, pattern.cols, most) for panel in rows]
    else:
        most = blocks - max(1, round(density * blocks * _LEAST))
        budget = panels * blocks - max(1, round(density * panels * blocks))
        traces = traces_within(rows, inverse, pattern.cols, most, budget)
        chosen = [steps[:count] for steps, count in zip(traces, spend(traces, budget), strict=True)]
    kept = np.ones((panels, blocks), bool)
    for panel, steps in enumerate(chosen):
        kept[panel, [block for block, _ in steps]] = False
    spread = kept.repeat(pattern.rows, axis=0).repeat(pattern.cols, axis=1)
    return np.ascontiguousarray(spread[:out, :inputs])


def _padded(weights: Array, hessian: Doubles, inputs: int) -> tuple[Doubles, Doubles]:
    """The weight with columns of zeros up to a whole number of blocks, which nothing is correlated with."""
    more = inputs - weights.shape[1]
    wide = np.pad(hessian, (0, more))
    wide[np.arange(inputs - more, inputs), np.arange(inputs - more, inputs)] = np.diag(hessian).mean()
    return np.pad(weights, ((0, 0), (0, more))).astype(np.float64), wide


def traces_within(panels: Sequence[Array], inverse: Doubles, cols: int, most: int, budget: int) -> list[Trace]:
    """Traces of all panels, at least as far as `spend` goes with that budget.

    It takes a step when all steps before it and it are under some cost, the same for all panels. What that is, a sample
    of the panels tells; where the traces end too early for the budget, they are made anew without a limit.
    """
    sample = [trace(panel, inverse, cols, most) for panel in panels[::_EVERY]]
    limit = _MARGIN * _dearest(sample, -(-budget * len(sample) // len(panels)))
    traces = [trace(panel, inverse, cols, most, limit) for panel in panels]
    if sum(_steps_under(limit, steps) for steps in traces) >= budget:
        return traces
    return [trace(panel, inverse, cols, most) for panel in panels]


def _dearest(traces: Sequence[Trace], budget: int) -> float:
    """The greatest cost among the steps that the budget pays for."""
    taken = [steps[:count] for steps, count in zip(traces, spend(traces, budget), strict=True)]
    return max((cost for steps in taken for _, cost in steps), default=0.0)


def _steps_under(limit: float, steps: Trace) -> int:
    """How many steps there are before the first that costs more than the limit."""
    return sum(cost <= limit for cost in accumulate((cost for _, cost in steps), max))


def trace(panel: Array, inverse: Doubles, cols: int, most: int, limit: float = np.inf) -> Trace:
    """The order in which blocks of `cols` columns leave a panel of rows, and what each costs.

    Args:
        panel: Weights ``[rows, in]``.
        inverse: Of the Hessian, ``[in, in]``.
        cols: Columns of a block.
        most: At most so many leave.
        limit: The first one that costs more is the last.
    """
    weights, left, found = panel.astype(np.float64), _Left(inverse, cols, most), Trace()
    while len(found) < most and not (found and found[-1][1] > limit):
        small = np.linalg.inv(left.diagonal)
        cut = weights.reshape(len(weights), -1, cols)
        costs = np.where(left.gone, np.inf, np.einsum("rbi,bij,rbj->b", cut, small, cut))
        block = int(costs.argmin())
        found.append((block, float(costs[block])))
        here = slice(block * cols, block * cols + cols)
        weights -= weights[:, here] @ small[block] @ left.remove(block)
        weights[:, here] = 0
    return found


class _Left:
    """An inverse Hessian, and what the blocks that left have taken from it.

    Attributes:
        diagonal: The diagonal blocks of what is left, ``[blocks, cols, cols]``; unit matrices where one is gone.
        gone: The blocks that left, ``[blocks]``.
    """

    def __init__(self, inverse: Doubles, cols: int, most: int) -> None:
        blocks = np.arange(len(inverse) // cols)
        self._inverse, self._cols = inverse, cols
        self._taken, self._rank = np.empty((most * cols, len(inverse))), 0
        self.diagonal = inverse.reshape(len(blocks), cols, len(blocks), cols)[blocks, :, blocks, :].copy()
        self.gone = np.zeros(len(blocks), bool)

    def remove(self, block: int) -> Doubles:
        """Take a block out; its rows of the inverse as they were, ``[cols, in]``."""
        cols, here = self._cols, slice(block * self._cols, block * self._cols + self._cols)
        taken = self._taken[: self._rank]
        rows = self._inverse[here] - taken[:, here].T @ taken
        rows.reshape(cols, -1, cols)[:, self.gone] = 0
        self._take(np.linalg.inv(np.linalg.cholesky(self.diagonal[block])) @ rows)
        self.diagonal[block], self.gone[block] = np.eye(cols), True
        return rows

    def _take(self, factor: Doubles) -> None:
        """Subtract ``factor^T factor``."""
        self._taken[self._rank : self._rank + self._cols] = factor
        self._rank += self._cols
        cut = factor.reshape(self._cols, -1, self._cols)
        self.diagonal -= np.einsum("abi,abj->bij", cut, cut)


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
