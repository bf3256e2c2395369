# SPDX-License-Identifier: Apache-2.0
"""What it costs to load a kernel's operand: cache lines touched, and whether the first-level cache keeps them.

A panel of filters passes over the operand of one tile of positions; the next panel passes over the same again. Where
that operand outgrows the first-level cache, each pass fetches it anew from the second. And a vector that does not
start at a multiple of its own length lies in two lines now and then, for which a load takes twice as long.

The names of the profile's numbers used here:

- ``first_cache_kb``: thousands of bytes (1024) that the first-level data cache holds;
- ``line_us``: microseconds to fetch one line of 64 bytes from the second-level cache.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sparsec.backends.kernels.plan import Plan
from sparsec.backends.kernels.positions import Geometry, Tile
from sparsec.compiler.lowering.kernel import Profile

_LINE = 16
"""32-bit elements of a cache line."""
_KEPT, _LOST = 0.75, 1.25
"""Shares of the first-level cache up to which everything stays, and from which nothing does."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """The operand loads of one kernel.

    Attributes:
        lines: Cache lines that a vector of the operand touches, on average; at least 1.
        vector_lines: Lines' worth of elements in a vector.
        nbytes: Of the operand under one tile of positions.
    """

    lines: float
    vector_lines: float
    nbytes: int

    def fetch_us(self, vectors: float, profile: Profile) -> float:
        """Microseconds of one step's share of what comes from the second-level cache: so many vectors."""
        filled = self.nbytes / (1024 * profile["first_cache_kb"])
        missing = min(1.0, max(0.0, (filled - _KEPT) / (_LOST - _KEPT)))
        return missing * vectors * self.vector_lines * profile["line_us"]


CLOSE = Traffic(1.0, 0.0, 0)
"""Of a kernel whose vectors are in the first-level cache, each in one line."""


def traffic(plan: Plan) -> Traffic:
    """What the kernel of a plan loads."""
    lanes = plan.tile.lanes
    crossing = float(np.mean(plan.places % lanes != 0)) * lanes / _LINE
    return Traffic(1 + crossing, lanes / _LINE, 4 * plan.depth * _touched(plan.walk, plan.tile))


@lru_cache(maxsize=1024)
def _touched(walk: Geometry, tile: Tile) -> int:
    """Elements of one channel under a tile of positions."""
    rows, columns = np.arange(tile.rows) * walk.pitch, np.arange(tile.vectors * tile.lanes)
    return int(np.unique(np.add.outer(np.add.outer(rows, columns).ravel(), walk.taps)).size)
