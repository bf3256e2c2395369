# SPDX-License-Identifier: Apache-2.0
"""Compressibility of a weight, from its values alone: the PQ index, and how many weights it says to keep.

Diao et al., "Pruning Deep Neural Networks from a Sparsity Perspective", 2023: the index and the rule of their
sparsity-informed adaptive pruning (SAP). A vector of equal magnitudes has index 0; the fewer elements hold the norm,
the nearer it comes to 1.
"""

from math import ceil, inf

import numpy as np

from sparsec.compiler.pattern import Array, Mask

P, Q = 0.5, 1.0
"""The norms compared, by default those of the paper."""


def pq_index(weights: Array, mask: Mask | None = None, p: float = P, q: float = Q) -> float:
    """The PQ index: ``1 - d^(1/q - 1/p) |w|_p / |w|_q`` over the d elements that count.

    Args:
        weights: Any shape, finite.
        mask: Of the same shape; True where an element counts. None: all do, zeros among them.
        p: The smaller norm, more than 0.
        q: The larger norm.

    Returns:
        At least 0 and less than 1; 0.0 where no element counts, or all are zero.
    """
    if not 0 < p < q:
        msg = f"found p={p:g} and q={q:g}, expected 0 < p < q"
        raise ValueError(msg)
    sizes = np.abs(weights[mask] if mask is not None else weights.ravel()).astype(np.float64)
    largest = float(sizes.max(initial=0.0))
    if not largest:
        return 0.0
    sizes /= largest
    small, large = (_power_mean(sizes, power) for power in (p, q))
    return max(0.0, 1 - small / large)


def _power_mean(sizes: Array, power: float) -> float:
    mean = float(np.mean(sizes**power))
    return float(mean ** (1 / power))


def kept(count: int, index: float, slack: float = 0.0, p: float = P, q: float = Q) -> int:
    """How many of `count` weights to keep: SAP's lower bound ``d (1 + slack)^(q/(p-q)) (1 - I)^(qp/(q-p))``.

    Args:
        count: Elements the index is over.
        index: Their PQ index.
        slack: The paper's eta: how far the norm may fall, more than -1.
        p: As for `pq_index`.
        q: As for `pq_index`.

    Returns:
        A whole number from 0 to `count`, rounded up.
    """
    slackened: float = (1 + slack) ** (q / (p - q))
    share: float = (1 - index) ** (q * p / (q - p))
    bound = count * slackened * share
    return min(count, ceil(bound - 1e-9 * max(1.0, bound)) if bound < inf else count)
