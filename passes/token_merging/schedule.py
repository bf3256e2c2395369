# SPDX-License-Identifier: Apache-2.0
"""How many tokens merge in each block: schedules, what is legal, and the search for a share of the work."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import floor

from sparsec.compiler.tokens import most_mergeable


def schedule(r: int, inflect: float, blocks: int) -> list[int]:
    """Tokens to merge in each block: from r (1 - inflect), rounded down, linearly so that the ends add up to 2 r.

    Args:
        r: The mean over the blocks.
        inflect: -1 (from 2 r to 0) to 1 (from 0 to 2 r).
        blocks: How many blocks there are.

    Returns:
        Whole numbers, rounded down (Bolya et al., 2023, and its published code).
    """
    first = int(r * (1 - inflect))
    step = (2 * r - 2 * first) / max(1, blocks - 1)
    return [int(first + step * number) for number in range(blocks)]


def spread(r: float, inflect: float, blocks: int) -> list[int]:
    """The same line for an `r` between whole numbers; what rounding takes from a block goes to the next one."""
    first, slope = r * (1 - inflect), 2 * r * inflect / max(1, blocks - 1)
    sums = [floor(first * n + slope * n * (n - 1) / 2 + 1e-9) for n in range(blocks + 1)]
    return [after - before for before, after in pairwise(sums)]


def shares(ratio: float, tokens: int, protected: int, blocks: int) -> list[int]:
    """In each block the same share of the tokens that reach it, protected ones apart, rounded down."""
    counts: list[int] = []
    for _ in range(blocks):
        counts.append(int(ratio * max(tokens - protected, 0)))
        tokens -= counts[-1]
    return counts


def capped(counts: Sequence[int], tokens: int, protected: int) -> list[int]:
    """The counts, none larger than what can merge."""
    found: list[int] = []
    for count in counts:
        found.append(min(count, most_mergeable(tokens, protected)))
        tokens -= found[-1]
    return found


def first_excess(counts: Sequence[int], tokens: int, protected: int) -> int | None:
    """The first block in which more tokens are to merge than can; None if there is none."""
    for number, count in enumerate(counts):
        if count > most_mergeable(tokens, protected):
            return number
        tokens -= count
    return None


def least(fits: Callable[[int], bool], most: int) -> int:
    """The least of 1 to `most` that fits, where all above one that fits do too, and `most` does."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
