# SPDX-License-Identifier: Apache-2.0
"""What the axis of a tensor is made of: atoms, products of atoms, sums of them; and how two axes become one.

A reshape into heads says that an axis of 384 is a product of 12 heads and 32 channels; a concatenation says that one
is the sum of others. Two axes that must go together are unified, as types are in a compiler: an atom is bound to what
it turned out to be, and what cannot be brought to one form is fixed, which is always safe.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import gcd, prod
from typing import TypeAlias

import numpy as np

from sparsec.compiler.pattern import Array


class Atom:
    """A run of units that nothing has cut so far.

    Attributes:
        size: Number of units.
        fixed: Why its units can be neither removed nor permuted; empty if they can.
        mixed: Why they can be permuted, yet not removed; empty if they can be removed.
        bound: What it turned out to be made of; None while it is whole.
    """

    __slots__ = ("bound", "fixed", "mixed", "size")

    def __init__(self, size: int, fixed: str = "", mixed: str = "") -> None:
        """A new atom."""
        self.size = size
        self.fixed = fixed
        self.mixed = mixed
        self.bound: Axis | None = None


@dataclass(frozen=True, slots=True)
class Product:
    """Factors from the slowest to the fastest."""

    factors: tuple["Axis", ...]


@dataclass(frozen=True, slots=True)
class Sum:
    """Parts one after the other."""

    parts: tuple["Axis", ...]


Axis: TypeAlias = Atom | Product | Sum
ONE = Product(())
"""An axis of one element."""


def new_axis(size: int, fixed: str = "") -> Axis:
    """An axis of which nothing is known but its size."""
    return ONE if size == 1 else Atom(size, fixed)


def size_of(axis: Axis, sizes: Mapping[Atom, int] | None = None) -> int:
    """The number of elements; atoms in `sizes` have changed theirs."""
    if isinstance(axis, Atom):
        return size_of(axis.bound, sizes) if axis.bound else (sizes or {}).get(axis, axis.size)
    if isinstance(axis, Product):
        return prod(size_of(factor, sizes) for factor in axis.factors)
    return sum(size_of(part, sizes) for part in axis.parts)


def resolve(axis: Axis) -> Axis:
    """The normal form: nothing bound or nested, no product that starts with a sum."""
    if isinstance(axis, Atom):
        return resolve(axis.bound) if axis.bound else axis
    if isinstance(axis, Sum):
        parts = [piece for part in axis.parts for piece in _parts(resolve(part)) if size_of(piece)]
        return parts[0] if len(parts) == 1 else Sum(tuple(parts))
    factors = [piece for factor in axis.factors for piece in _factors(resolve(factor))]
    if len(factors) < 2:
        return factors[0] if factors else ONE
    first, rest = factors[0], tuple(factors[1:])
    if isinstance(first, Sum):
        return resolve(Sum(tuple(Product((part, *rest)) for part in first.parts)))
    return Product(tuple(factors))


def atoms_of(axis: Axis) -> Iterator[Atom]:
    """The atoms of an axis in order; one that occurs twice comes twice."""
    found = resolve(axis)
    if isinstance(found, Atom):
        yield found
        return
    for piece in found.factors if isinstance(found, Product) else found.parts:
        yield from atoms_of(piece)


def fix(axis: Axis, reason: str) -> None:
    """Forbid any change of an axis."""
    for atom in atoms_of(axis):
        atom.fixed = atom.fixed or reason


def mix(axis: Axis, reason: str) -> None:
    """Forbid removing from an axis; permuting it stays allowed."""
    for atom in atoms_of(axis):
        atom.mixed = atom.mixed or reason


def unify(first: Axis, second: Axis, reason: str) -> None:
    """Make two axes of the same size one; where that cannot be said, both are fixed for this reason."""
    one, two = resolve(first), resolve(second)
    if one is two:
        return
    if not _unify(one, two):
        fix(one, reason)
        fix(two, reason)


def cut(axis: Axis, offset: int, reason: str) -> tuple[Axis, Axis]:
    """The axis before and from an offset; where it cannot be cut it is fixed, and so are the parts."""
    if not offset:
        return Sum(()), axis
    if offset == size_of(axis):
        return axis, Sum(())
    pieces = _cut(resolve(axis), offset)
    if pieces is not None:
        return pieces
    fix(axis, reason)
    return new_axis(offset, reason), new_axis(size_of(axis) - offset, reason)


def regroup(axes: list[Axis], shape: list[int], reason: str) -> list[Axis]:
    """Axes of a tensor after a reshape; those that cannot be followed are fixed."""
    result: list[Axis] = []
    sources = [axis for axis in axes if size_of(axis) != 1]
    while len(result) < len(shape):
        if shape[len(result)] == 1:
            result.append(ONE)
            continue
        taken, wanted = _matching(sources, shape[len(result) :])
        if taken is None:
            for axis in sources:
                fix(axis, reason)
            return [*result, *(new_axis(side, reason) for side in shape[len(result) :])]
        result += _deal(Product(tuple(sources[:taken])), shape[len(result) : len(result) + wanted], reason)
        sources = sources[taken:]
    return result


def select(axis: Axis, edits: Mapping[Atom, "Selection"], places: Mapping[Atom, int] | None = None) -> Array:
    """Which elements of an axis remain, in their new order: int64, into the axis as it was."""
    found = resolve(axis)
    if isinstance(found, Atom):
        edit = edits.get(found)
        return np.arange(found.size) if edit is None else edit.at(places or {})
    if isinstance(found, Sum):
        starts = np.cumsum([0, *map(size_of, found.parts)])
        pieces = [start + select(part, edits, places) for start, part in zip(starts, found.parts, strict=False)]
        return np.concatenate(pieces) if pieces else np.arange(0)
    if not found.factors:
        return np.arange(1)
    first, rest = found.factors[0], Product(found.factors[1:])
    outer, inner = select(first, edits, places), size_of(rest)
    if not any(edit.parent is first for edit in edits.values()):
        return np.asarray((outer[:, None] * inner + select(rest, edits, places)).ravel())
    assert isinstance(first, Atom)
    pieces = [at * inner + select(rest, edits, {**(places or {}), first: int(at)}) for at in outer]
    return np.concatenate(pieces)


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Which units of an atom remain, in their new order.

    Attributes:
        index: int64 ``[units]``, or ``[units of the parent, units]`` where each unit of `parent` has an order of its
            own.
        parent: The factor before the atom on which its order depends, if any.
    """

    index: Array
    parent: Atom | None = None

    @property
    def size(self) -> int:
        """Units that remain."""
        return int(self.index.shape[-1])

    def at(self, places: Mapping[Atom, int]) -> Array:
        """The order inside the parents' units `places`."""
        return np.asarray(self.index if self.parent is None else self.index[places[self.parent]])


def _parts(axis: Axis) -> tuple[Axis, ...]:
    return axis.parts if isinstance(axis, Sum) else (axis,)


def _factors(axis: Axis) -> tuple[Axis, ...]:
    return axis.factors if isinstance(axis, Product) else (axis,)


def _bind(atom: Atom, axis: Axis) -> None:
    atom.bound = axis
    for piece in atoms_of(axis):
        piece.fixed, piece.mixed = piece.fixed or atom.fixed, piece.mixed or atom.mixed


def _unify(one: Axis, two: Axis) -> bool:
    """Whether two axes in normal form could be made one."""
    if one is two:
        return True
    if isinstance(one, Atom) or isinstance(two, Atom):
        atom, other = (one, two) if isinstance(one, Atom) else (two, one)
        assert isinstance(atom, Atom)
        if any(piece is atom for piece in atoms_of(other)):
            return False
        _bind(atom, other)
        return True
    if isinstance(one, Sum) or isinstance(two, Sum):
        return _unify_sums(list(_parts(one)), list(_parts(two)))
    return _unify_products(list(one.factors), list(two.factors))


def _unify_sums(ones: list[Axis], twos: list[Axis]) -> bool:
    while ones and twos:
        one, two = resolve(ones.pop(0)), resolve(twos.pop(0))
        length = min(size_of(one), size_of(two))
        for piece, queue in ((one, ones), (two, twos)):
            if size_of(piece) > length:
                pieces = _cut(piece, length)
                if pieces is None:
                    return False
                queue[:0] = pieces
            else:
                queue.insert(0, piece)
        if not _unify(resolve(ones.pop(0)), resolve(twos.pop(0))):
            return False
    return not ones and not twos


def _unify_products(ones: list[Axis], twos: list[Axis]) -> bool:
    while ones and twos:
        length = gcd(size_of(ones[0]), size_of(twos[0]))
        if min(size_of(ones[0]), size_of(twos[0])) != length or not (_chip(ones, length) and _chip(twos, length)):
            return False
        if not _unify(resolve(ones.pop(0)), resolve(twos.pop(0))):
            return False
    return not ones and not twos


def _chip(queue: list[Axis], length: int) -> bool:
    """Split the first factor so that one of `length` comes first; whether that could be done."""
    whole = size_of(queue[0])
    if whole == length:
        return True
    pieces: list[Axis] = [Atom(length), Atom(whole // length)]
    if not _unify(resolve(queue[0]), Product(tuple(pieces))):
        return False
    queue[:1] = pieces
    return True


def _cut(axis: Axis, offset: int) -> tuple[Axis, Axis] | None:
    """The axis (in normal form) before and from an offset inside it."""
    if isinstance(axis, Atom):
        pieces = new_axis(offset), new_axis(axis.size - offset)
        _bind(axis, Sum(pieces))
        return pieces
    if isinstance(axis, Product):
        rest = Product(axis.factors[1:])
        head = _cut(axis.factors[0], offset // size_of(rest)) if not offset % size_of(rest) else None
        return None if head is None else (Product((head[0], rest)), Product((head[1], rest)))
    before: list[Axis] = []
    for number, part in enumerate(axis.parts):
        if size_of(part) > offset:
            inside = _cut(part, offset) if offset else (Sum(()), part)
            after = axis.parts[number + 1 :]
            return None if inside is None else (Sum((*before, inside[0])), Sum((inside[1], *after)))
        before.append(part)
        offset -= size_of(part)
    return axis, Sum(())


def _matching(sources: list[Axis], shape: list[int]) -> tuple[int | None, int]:
    """The least number of leading axes and of leading sides with the same product; None if there is none."""
    taken = wanted = 0
    left = right = 1
    while not taken or left != right:
        if left <= right:
            if taken == len(sources):
                return None, 0
            left *= size_of(sources[taken])
            taken += 1
        else:
            if wanted == len(shape):
                return None, 0
            right *= shape[wanted]
            wanted += 1
    return taken, wanted


def _deal(axis: Axis, shape: list[int], reason: str) -> list[Axis]:
    """Split an axis into factors of these sizes."""
    whole = resolve(axis)
    pieces = [new_axis(side) for side in shape]
    if sum(side != 1 for side in shape) == 1:
        return [whole if side != 1 else ONE for side in shape]
    unify(whole, Product(tuple(pieces)), reason)
    return pieces
