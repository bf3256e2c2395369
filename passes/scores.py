# SPDX-License-Identifier: Apache-2.0
"""Importance scores of a weight's elements: what a pruning pass keeps the highest of.

- ``magnitude``: the absolute value.
- ``wanda``: times the norm of the input it meets (Sun et al., "A Simple and Effective Pruning Approach for Large
  Language Models", 2023).
- ``ria``: relative to the sums of its row and column, times the root of that norm (Zhang et al., "Plug-and-Play: An
  Efficient Post-training Pruning Method for Large Language Models", 2024).
- ``hessian``: the rise of the layer's squared output error when the element goes and the others make up for it
  (Hassibi and Stork, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", 1993).
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from sparsec.compiler.pattern import Array
from sparsec.compiler.statistics import LayerStatistics
from sparsec.passes.column_sweep import inverse_diagonal

Score = Literal["magnitude", "wanda", "ria", "hessian"]
_RIA_POWER = 0.5
_TINY = 1e-30


def scores(kind: Score, matrix: Array, statistics: LayerStatistics | None = None) -> Array:
    """Score each element of a weight.

    Args:
        kind: One of the module's scores.
        matrix: The weight, float32 ``[out, in]``.
        statistics: Of the layer's input; needed for all but ``magnitude``, with products for ``hessian``.

    Returns:
        float64 ``[out, in]``, at least 0.
    """
    return np.asarray(_SCORES[kind](np.abs(matrix.astype(np.float64)), statistics))


def _magnitude(sizes: Array, statistics: LayerStatistics | None) -> Array:
    return sizes


def _wanda(sizes: Array, statistics: LayerStatistics | None) -> Array:
    assert statistics is not None
    return np.asarray(sizes * statistics.norms)


def _ria(sizes: Array, statistics: LayerStatistics | None) -> Array:
    assert statistics is not None
    rows, columns = sizes.sum(axis=1, keepdims=True), sizes.sum(axis=0, keepdims=True)
    relative = sizes / np.maximum(rows, _TINY) + sizes / np.maximum(columns, _TINY)
    return np.asarray(relative * statistics.norms**_RIA_POWER)


def _hessian(sizes: Array, statistics: LayerStatistics | None) -> Array:
    assert statistics is not None
    return np.asarray(sizes**2 / inverse_diagonal(statistics.hessian))


_SCORES: Mapping[str, Callable[[Array, LayerStatistics | None], Array]] = {
    "magnitude": _magnitude,
    "wanda": _wanda,
    "ria": _ria,
    "hessian": _hessian,
}
