# SPDX-License-Identifier: Apache-2.0
"""The order of channels that `permute_channels` has reached: every layer's scores in it, and what led there."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from sparsec.compiler.couplings import CoupledGroup, Couplings, Edit, Site
from sparsec.compiler.couplings.axes import Atom, select
from sparsec.compiler.encoding import NM, Block
from sparsec.compiler.layers import Layer
from sparsec.compiler.pass_manager import Reporter
from sparsec.compiler.pattern import Array
from sparsec.passes.channels.search import Blocks, Objective, Runs, search

ROUNDS = 6
"""At most so many times is each coupled group tried; it ends when no order of any is better."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What an order is judged by.

    Attributes:
        pattern: The pattern that comes later.
        share: The share of a layer's units that it keeps.
        min_gain: An order is taken if it raises the kept score by more than this share.
    """

    pattern: Block | NM
    share: float
    min_gain: float


@dataclass(frozen=True, slots=True, eq=False)
class Role:
    """A layer whose score depends on a group's order: the units are its outputs or its inputs."""

    layer: Layer
    site: Site
    output: bool


@dataclass(slots=True, eq=False)
class Ordering:
    """The search over a model: every layer's scores in the order reached so far, and the edits that led there."""

    aim: Aim
    couplings: Couplings
    scores: dict[Layer, Array]
    seed: int
    edits: dict[Atom, Edit] = field(default_factory=dict)

    def roles(self, group: CoupledGroup) -> list[Role]:
        """Where the group's order can matter to the pattern."""
        pattern = self.aim.pattern
        rows, cols = (1, pattern.m) if isinstance(pattern, NM) else (pattern.rows, pattern.cols)
        found = []
        for layer in self.scores:
            for site in group.sites if layer.weight.name in {site.tensor for site in group.sites} else ():
                output = site.axis == layer.axis
                if site.tensor == layer.weight.name and (rows if output else cols) > 1:
                    found.append(Role(layer, site, output))
        return found

    def kept(self, group: CoupledGroup, edits: Mapping[Atom, Edit] | None = None) -> tuple[float, float]:
        """The score that the group's layers keep under the pattern, and all of it; after `edits` if given."""
        found = {role.layer: self._ordered(role.layer, edits or {}) for role in self.roles(group)}
        whole = sum(float(matrix.sum()) for matrix in found.values())
        masks = ((matrix, self.aim.pattern.project(matrix, self.aim.share)) for matrix in found.values())
        return sum(float(matrix[mask].sum()) for matrix, mask in masks), max(whole, 1e-30)

    def improve(self, groups: list[CoupledGroup], reporter: Reporter) -> set[str]:
        """Take better orders until there are none; names of the groups that gained."""
        gained: set[str] = set()
        due = set(range(len(groups)))
        for _ in range(ROUNDS):
            changed = []
            for done, number in enumerate(sorted(due)):
                if self._improve(groups[number], self.seed + number):
                    changed.append(number)
                reporter("permute channels", done + 1, len(due))
            gained |= {groups[number].name for number in changed}
            due = {n for n, group in enumerate(groups) if n in changed or self._depends(group, groups, changed)}
            if not changed:
                break
        return gained

    def _depends(self, group: CoupledGroup, groups: list[CoupledGroup], changed: Iterable[int]) -> bool:
        """Whether what a group can gain may have changed: where blocks group both axes, with its layers' others."""
        pattern = self.aim.pattern
        if isinstance(pattern, NM) or min(pattern.rows, pattern.cols) == 1:
            return False
        layers = {role.layer for role in self.roles(group)}
        return any(layers & {role.layer for role in self.roles(groups[other])} for other in changed)

    def _improve(self, group: CoupledGroup, seed: int) -> bool:
        """Find a better order of one group and take it; whether there was one."""
        edit = self._candidate(group, seed)
        if edit is None:
            return False
        present, found = self.kept(group)[0], self.kept(group, {group.atom: edit})[0]
        if found <= present * (1 + self.aim.min_gain):
            return False
        self._take(group, edit)
        return True

    def _take(self, group: CoupledGroup, edit: Edit) -> None:
        for layer in {role.layer for role in self._all_roles(group)}:
            self.scores[layer] = self._ordered(layer, {group.atom: edit})
        before = self.edits.get(group.atom)
        index = edit.index if before is None else np.take_along_axis(before.index, edit.index, axis=-1)
        self.edits[group.atom] = Edit(index, edit.parent)

    def _all_roles(self, group: CoupledGroup) -> Iterator[Role]:
        """Every layer with scores that holds the units, whether the pattern minds their order or not."""
        for layer in self.scores:
            for site in group.sites:
                if site.tensor == layer.weight.name:
                    yield Role(layer, site, site.axis == layer.axis)

    def _ordered(self, layer: Layer, edits: Mapping[Atom, Edit]) -> Array:
        """A layer's scores after edits, ``[out, in]``."""
        if not edits:
            return self.scores[layer]
        axes = self.couplings.axes(layer.weight)
        rows, inputs = select(axes[layer.axis], edits), select(axes[1 - layer.axis], edits)
        columns = (inputs[:, None] * layer.taps + np.arange(layer.taps)).ravel()
        return np.asarray(self.scores[layer][rows[:, None], columns])

    def _candidate(self, group: CoupledGroup, seed: int) -> Edit | None:
        """An order that may be better: the same for all repetitions, or one for each unit of the parent."""
        roles = [role for role in self.roles(group) if role.site.span == 1 and (role.output or role.layer.taps == 1)]
        parent = group.parent
        units = range(1 if parent is None else parent.size)
        objectives = [self._objective(group, roles, unit) for unit in units]
        orders = [search(objective, seed) for objective in objectives if objective is not None]
        found = [order for order in orders if order is not None]
        if len(found) < len(units):
            return None
        return Edit(found[0]) if parent is None else Edit(np.stack(found), parent)

    def _objective(self, group: CoupledGroup, roles: list[Role], unit: int) -> Objective | None:
        """The search's view of the group (inside one unit of the parent): None if no layer can be seen that way."""
        pattern = self.aim.pattern
        if isinstance(pattern, NM):
            profiles = [p for role in roles for p in self._profiles(group, role, unit, (pattern.m, 1))]
            return Runs(_joined(profiles), pattern.m, pattern.n) if profiles else None
        width = pattern.rows if any(role.output for role in roles) else pattern.cols
        profiles, thresholds = [], []
        for role in roles:
            sides = (pattern.rows, pattern.cols) if role.output else (pattern.cols, pattern.rows)
            found = self._profiles(group, role, unit, sides) if sides[0] == width else []
            profiles += found
            thresholds += [np.full(p.shape[1], self._threshold(role.layer)) for p in found]
        return Blocks(_joined(profiles), width, np.concatenate(thresholds).astype(np.float32)) if profiles else None

    def _profiles(self, group: CoupledGroup, role: Role, unit: int, sides: tuple[int, int]) -> list[Array]:
        """What each unit brings where, summed over the pattern's other side; repetitions beside each other."""
        matrix, (own, other) = self.scores[role.layer], sides
        lines = matrix if role.output else matrix.T
        starts = role.site.starts(group.parent, unit)
        edge = np.arange(0, lines.shape[1], other)
        return [np.add.reduceat(lines[s : s + group.size], edge, axis=1) for s in starts if s % own == 0]

    def _threshold(self, layer: Layer) -> float:
        """The lowest score of a block that is kept now."""
        pattern = self.aim.pattern
        assert isinstance(pattern, Block)
        matrix = self.scores[layer]
        sums = np.add.reduceat(matrix, np.arange(0, matrix.shape[0], pattern.rows), axis=0)
        sums = np.add.reduceat(sums, np.arange(0, matrix.shape[1], pattern.cols), axis=1).ravel()
        return float(np.sort(sums)[-max(1, round(self.aim.share * sums.size))])


def _joined(profiles: list[Array]) -> Array:
    return np.ascontiguousarray(np.concatenate(profiles, axis=1), dtype=np.float32)
