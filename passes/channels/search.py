# SPDX-License-Identifier: Apache-2.0
"""Searches an order of units in which groups of neighbours keep more under a pattern.

Units are dealt to groups of equal size. Then, over and over, one unit of each group is taken out and all of them are
put back where together they are worth most: a linear assignment, which leaves no swap of two of them that would gain
(Zhang et al., "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models", 2024, for n:m and
the start by strata; Ji et al., "Tetris: Tile-matching the Tremendous Irregular Sparsity", 2018, for the idea of
reordering towards blocks).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsec.compiler.pattern import Array

Floats = npt.NDArray[np.float32]
SWEEPS = 12
"""At most so many times is each place of the groups gone through."""
ENOUGH = 5e-4
"""A sweep that gains a smaller share than this is the last."""
MOST_COLUMNS = 4096
"""More columns than this are sampled."""


@dataclass(frozen=True, slots=True, eq=False)
class Objective(ABC):
    """What an order is worth, up to a constant.

    Attributes:
        profiles: float32 ``[units, columns]``, at least 0: what a unit brings, where.
        width: Units in a group.
    """

    profiles: Floats
    width: int

    @abstractmethod
    def limits(self, rest: npt.NDArray[np.int64]) -> Floats:
        """What one more unit has to exceed to count, given the others of its group.

        A unit is then worth ``max(profile, limit)``, summed over columns.

        Args:
            rest: int64 ``[groups, width - 1]``, units.

        Returns:
            float32 ``[groups, columns]``.
        """

    @abstractmethod
    def worth(self, groups: npt.NDArray[np.int64]) -> float:
        """What a dealing of the units is worth, int64 ``[groups, width]``."""

    @abstractmethod
    def starts(self) -> list[npt.NDArray[np.int64]]:
        """Orders to start from besides the present one; units beyond the last whole group stay where they are."""

    def sampled(self, seed: int) -> "Objective":
        """The same on at most `MOST_COLUMNS` columns."""
        return self

    @property
    def grouped(self) -> int:
        """Units in whole groups."""
        return len(self.profiles) // self.width * self.width


@dataclass(frozen=True, slots=True, eq=False)
class Runs(Objective):
    """Of each group and column, the `keep` highest count: n:m along the input axis.

    Attributes:
        keep: The n of n:m.
    """

    keep: int = 2

    def limits(self, rest: npt.NDArray[np.int64]) -> Floats:
        """The lowest of what is kept: a higher one takes its place."""
        values = self.profiles[rest]
        kth = values.shape[1] - self.keep
        return np.ascontiguousarray(np.partition(values, kth, axis=1)[:, kth])

    def worth(self, groups: npt.NDArray[np.int64]) -> float:
        """The sum of what is kept."""
        values = self.profiles[groups]
        kth = values.shape[1] - self.keep
        return float(np.partition(values, kth, axis=1)[:, kth:].sum(dtype=np.float64))

    def starts(self) -> list[npt.NDArray[np.int64]]:
        """Strata of units of like weight, dealt out back and forth, so that each group has one of each."""
        order = np.argsort(-self.profiles[: self.grouped].sum(axis=1), kind="stable")
        strata = order.reshape(self.width, -1).copy()
        strata[1::2] = strata[1::2, ::-1]
        return [strata.T.ravel()]

    def sampled(self, seed: int) -> "Runs":
        """See `Objective.sampled`."""
        return Runs(_columns(self.profiles, seed)[0], self.width, self.keep)


@dataclass(frozen=True, slots=True, eq=False)
class Blocks(Objective):
    """A group's sum counts in each column where it exceeds the threshold above which blocks are kept.

    Attributes:
        thresholds: float32 ``[columns]``.
    """

    thresholds: Floats

    def limits(self, rest: npt.NDArray[np.int64]) -> Floats:
        """What is missing to the threshold."""
        return np.asarray(self.thresholds - self.profiles[rest].sum(axis=1))

    def worth(self, groups: npt.NDArray[np.int64]) -> float:
        """The sum of what exceeds the thresholds."""
        excess = self.profiles[groups].sum(axis=1) - self.thresholds
        return float(np.maximum(excess, 0).sum(dtype=np.float64))

    def starts(self) -> list[npt.NDArray[np.int64]]:
        """Greedy: the strongest unit that is left, with those whose strong columns are most like its own."""
        strong = (self.profiles[: self.grouped] > self.thresholds / self.width).astype(np.float32)
        alike = strong @ strong.T
        free = np.ones(len(strong), bool)
        order: list[int] = []
        for unit in np.argsort(-self.profiles[: self.grouped].sum(axis=1), kind="stable"):
            if free[unit]:
                free[unit] = False
                near = np.argsort(np.where(free, -alike[unit], np.inf), kind="stable")[: self.width - 1]
                free[near] = False
                order += [int(unit), *map(int, near)]
        return [np.array(order, np.int64)]

    def sampled(self, seed: int) -> "Blocks":
        """See `Objective.sampled`."""
        profiles, chosen = _columns(self.profiles, seed)
        return Blocks(profiles, self.width, self.thresholds[chosen])


def search(objective: Objective, seed: int) -> npt.NDArray[np.int64] | None:
    """A good order of the units, int64 ``[units]``; None where no order can matter.

    Deterministic for a seed. It is not sure to be better than the present one: measure.
    """
    whole, units = objective.grouped, len(objective.profiles)
    if whole <= objective.width or objective.width < 2:
        return None
    sample = objective.sampled(seed)
    starts = (np.arange(whole), *sample.starts())
    best = max(starts, key=lambda order: sample.worth(order.reshape(-1, sample.width)))
    return np.concatenate([_improved(sample, best, seed), np.arange(whole, units)])


def _improved(objective: Objective, order: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    from scipy.optimize import linear_sum_assignment

    groups, random = order.reshape(-1, objective.width).copy(), np.random.RandomState(seed)
    for _ in range(SWEEPS):
        gain = total = 0.0
        for place in range(objective.width):
            groups = np.take_along_axis(groups, _shuffled(groups.shape, random), axis=1)
            worth = _worth(objective, groups[:, :place], groups[:, place], groups[:, place + 1 :])
            rows, columns = linear_sum_assignment(worth, maximize=True)
            now, best = float(np.trace(worth)), float(worth[rows, columns].sum())
            gain, total = gain + max(0.0, best - now), max(total, best)
            if best > now:
                groups[:, place] = groups[columns, place]
        if gain <= ENOUGH * total:
            break
    return groups.ravel()


def _shuffled(shape: tuple[int, ...], random: np.random.RandomState) -> Array:
    """An order of the places inside each group."""
    return np.asarray(random.random_sample(shape).argsort(axis=1))


def _worth(objective: Objective, left: Array, units: Array, right: Array) -> Array:
    """What each unit is worth in each group, float64 ``[groups, units]``."""
    limits = objective.limits(np.concatenate([left, right], axis=1))
    profiles = objective.profiles[units]
    return np.stack([np.maximum(profiles, limit).sum(axis=1, dtype=np.float64) for limit in limits])


def _columns(profiles: Floats, seed: int) -> tuple[Floats, Array]:
    count = profiles.shape[1]
    if count <= MOST_COLUMNS:
        return profiles, np.arange(count)
    chosen = np.sort(np.random.RandomState(seed).choice(count, MOST_COLUMNS, replace=False))
    return np.ascontiguousarray(profiles[:, chosen]), chosen
