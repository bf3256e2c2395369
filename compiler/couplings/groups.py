# SPDX-License-Identifier: Apache-2.0
"""A coupled group: the units that can only go, or move, together, and every place where they are."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import onnx_ir as ir

from sparsec.compiler.couplings.axes import Atom, Axis, Product, Sum, atoms_of, resolve, size_of
from sparsec.compiler.couplings.trace import Use
from sparsec.compiler.layers import layer_name
from sparsec.compiler.pattern import Array

Kind = Literal["channels", "neurons", "heads", "head-channels"]
"""Convolution channels (or whole groups of them); channels between matrix products; attention heads; channels inside
heads."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where units are along an axis: unit ``i`` covers ``span`` elements from ``offset + i * span``, repeated.

    Attributes:
        tensor: Name of the initializer.
        axis: The axis in its stored shape.
        offset: Element where the first unit starts.
        span: Elements of one unit.
        repeats: Loops around that, from the slowest: how often, and how many elements apart.
        factors: What each loop runs over; None where that is no single atom.
    """

    tensor: str
    axis: int
    offset: int
    span: int
    repeats: tuple[tuple[int, int], ...] = ()
    factors: tuple[Atom | None, ...] = field(default=(), repr=False)

    def starts(self, parent: Atom | None = None, unit: int = 0) -> Array:
        """The elements where the first unit starts, int64; those inside one unit of a parent if given."""
        starts = np.array(self.offset)
        for (count, period), factor in zip(self.repeats, self.factors, strict=True):
            places = np.arange(count) if parent is None or factor is not parent else np.array([unit])
            starts = starts[..., None] + places * period
        return starts.ravel()

    def elements(self, size: int) -> Array:
        """The elements of each unit along the axis, int64 ``[size, elements of a unit]``."""
        units = np.arange(size)[:, None, None] * self.span
        return np.asarray((units + self.starts()[:, None] + np.arange(self.span)).reshape(size, -1))

    def __str__(self) -> str:
        start = f"+{self.offset}" if self.offset else ""
        span = f" by {self.span}" if self.span > 1 else ""
        return f"{self.tensor}[{self.axis}{start}]{span}" + "".join(f", {n} times {p} apart" for n, p in self.repeats)


@dataclass(frozen=True, slots=True, eq=False)
class CoupledGroup:
    """Units that go together.

    Attributes:
        name: The first layer that writes them, with what they are.
        kind: What the units are.
        atom: The axis, or factor of an axis, that they make up.
        sites: Where they are in the weights.
        producers: Nodes whose weight has them as outputs or groups.
        consumers: Nodes whose weight has them as inputs: what sums over them.
        parent: A factor that comes before this one wherever it occurs, so that inside each of the parent's units the
            order may be another; None where there is none.
        removable: Empty if units can be removed, else why not.
        permutable: Empty if they can change places, else why not.
    """

    name: str
    kind: Kind
    atom: Atom
    sites: tuple[Site, ...]
    producers: tuple[ir.Node, ...]
    consumers: tuple[ir.Node, ...]
    parent: Atom | None
    removable: str
    permutable: str

    @property
    def size(self) -> int:
        """Number of units."""
        return self.atom.size

    @property
    def span(self) -> int:
        """Channels in a unit: those of a head, or 1."""
        return min((site.span for site in self.sites), default=1)

    def __str__(self) -> str:
        """One line, then one for each site."""
        unit = f"{self.size} {self.kind}" + (f" of {self.span}" if self.span > 1 else "")
        verdicts = (("remove", self.removable), ("permute", self.permutable))
        said = "; ".join(f"{what}: {reason or 'yes'}" for what, reason in verdicts)
        return "\n  ".join((f"{self.name}: {unit}; {said}", *map(str, self.sites)))


def build_groups(axes: Iterable[tuple[ir.Value, list[Axis]]], uses: list[Use]) -> tuple[CoupledGroup, ...]:
    """All groups that some layer's weight has as outputs or groups, in the order of the layers.

    Where a layer's outputs are a product of several, those factors that are fixed are left out.

    Args:
        axes: Every value of the graph with its axes.
        uses: Who uses which axes, in graph order.
    """
    values = [(value, [resolve(axis) for axis in found]) for value, found in axes]
    roles = {atom: found for atom, found in _roles(uses).items() if any(part in _WRITES for part, _ in found)}
    free = {node for atom, found in roles.items() if not atom.fixed for part, node in found if part in _WRITES}
    sites, parents = _sites(values), _parents(values)
    names: dict[str, int] = {}
    groups = []
    for atom, found in roles.items():
        nodes = {part: tuple(dict.fromkeys(n for p, n in found if p == part)) for part, _ in found}
        producers = tuple(dict.fromkeys((*nodes.get("output", ()), *nodes.get("group", ()))))
        consumers = nodes.get("input", ())
        if atom.fixed and free.issuperset(producers):
            continue
        kind = _kind(nodes.keys(), producers)
        name = _unique(layer_name(producers[0]) + _SUFFIX[kind], names)
        places = tuple(sites.get(atom, ()))
        obstacle = atom.fixed or atom.mixed or _obstacle(nodes.keys(), bool(consumers))
        groups.append(
            CoupledGroup(name, kind, atom, places, producers, consumers, parents.get(atom), obstacle, atom.fixed)
        )
    return tuple(groups)


_WRITES = ("output", "group")
_SUFFIX = {"channels": "", "neurons": "", "heads": ":heads", "head-channels": ":head-channels"}


def _roles(uses: list[Use]) -> dict[Atom, list[tuple[str, ir.Node]]]:
    roles: dict[Atom, list[tuple[str, ir.Node]]] = {}
    for use in uses:
        for atom in atoms_of(use.axis):
            roles.setdefault(atom, []).append((use.part, use.node))
    return roles


def _kind(parts: Iterable[str], producers: tuple[ir.Node, ...]) -> Kind:
    found = set(parts)
    if "batch" in found:
        return "heads"
    if found & {"inner", "free"}:
        return "head-channels"
    return "channels" if any(node.op_type in ("Conv", "ConvTranspose") for node in producers) else "neurons"


def _obstacle(parts: Iterable[str], summed: bool) -> str:
    """Why units that nothing forbids to remove still cannot go."""
    if "inner" in set(parts):
        return "a product of two activations sums over it"
    return "" if summed else "no layer sums over it"


def _unique(name: str, taken: dict[str, int]) -> str:
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}#{taken[name]}"


def _sites(values: list[tuple[ir.Value, list[Axis]]]) -> dict[Atom, list[Site]]:
    """The sites of each atom in initializers."""
    found: dict[Atom, list[Site]] = {}
    for value, axes in values:
        for number, axis in enumerate(axes) if value.is_initializer() else ():
            for atom, site in _paths(axis, Site(str(value.name), number, 0, 1)):
                found.setdefault(atom, []).append(site)
    return found


def _paths(axis: Axis, whole: Site) -> Iterator[tuple[Atom, Site]]:
    """Each occurrence of an atom in an axis that is at `whole`, and where that is."""
    found = resolve(axis)
    if isinstance(found, Atom):
        yield found, whole
    elif isinstance(found, Sum):
        offset = whole.offset
        for part in found.parts:
            yield from _paths(part, replace(whole, offset=offset))
            offset += size_of(part) * whole.span
    else:
        repeats, factors = whole.repeats, whole.factors
        for number, factor in enumerate(found.factors):
            span = whole.span * size_of(Product(found.factors[number + 1 :]))
            yield from _paths(factor, replace(whole, span=span, repeats=repeats, factors=factors))
            repeats = (*repeats, (size_of(factor), span))
            factors = (*factors, factor if isinstance(factor, Atom) else None)


def _parents(values: list[tuple[ir.Value, list[Axis]]]) -> dict[Atom, Atom]:
    """For each atom one that comes before it in each product, and that each activation with the atom has too."""
    candidates: dict[Atom, dict[Atom, None]] = {}
    for value, axes in values:
        everywhere = dict.fromkeys(atom for axis in axes for atom in atoms_of(axis))
        for axis in axes:
            for before, atom in _predecessors(axis, ()):
                allowed = before if value.is_initializer() else everywhere
                known = candidates.setdefault(atom, dict.fromkeys(allowed))
                candidates[atom] = {one: None for one in known if one in allowed and one is not atom}
    return {atom: next(reversed(found)) for atom, found in candidates.items() if found}


def _predecessors(axis: Axis, before: tuple[Atom, ...]) -> Iterator[tuple[tuple[Atom, ...], Atom]]:
    """Each occurrence of an atom with the atoms that are whole factors before it."""
    if isinstance(axis, Atom):
        yield before, axis
    elif isinstance(axis, Sum):
        for part in axis.parts:
            yield from _predecessors(part, before)
    else:
        for factor in axis.factors:
            yield from _predecessors(factor, before)
            before = (*before, factor) if isinstance(factor, Atom) else before
