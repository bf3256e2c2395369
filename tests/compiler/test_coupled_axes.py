# SPDX-License-Identifier: Apache-2.0
"""Axes follow elements: whatever is removed from the source of reshapes, transpositions, cuts and sums is what goes."""

from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsec.compiler.couplings.axes import (
    Atom,
    Selection,
    Sum,
    atoms_of,
    cut,
    new_axis,
    regroup,
    select,
    size_of,
    unify,
)


def _factorizations(number, parts):
    if parts == 1:
        return [(number,)]
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return [(d, *rest) for d in divisors for rest in _factorizations(number // d, parts - 1)]


def _reshape(data, axes, draw):
    shape = draw(st.sampled_from(_factorizations(data.size, draw(st.integers(1, 3)))))
    return data.reshape(shape), regroup(axes, list(shape), "reshape")


def _transpose(data, axes, draw):
    order = draw(st.permutations(range(data.ndim)))
    return data.transpose(order), [axes[place] for place in order]


def _swap_halves(data, axes, draw):
    """A split and a concatenation in the other order."""
    place = draw(st.integers(0, data.ndim - 1))
    at = draw(st.integers(0, data.shape[place]))
    first, second = cut(axes[place], at, "cut")
    left, right = np.split(data, [at], axis=place)
    return np.concatenate([right, left], axis=place), [
        Sum((second, first)) if n == place else axis for n, axis in enumerate(axes)
    ]


OPERATIONS = (_reshape, _transpose, _swap_halves)


def _kept(data, axes, edits):
    for place, axis in enumerate(axes):
        data = data.take(select(axis, edits), axis=place)
    return data


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from([(24,), (4, 6), (12, 5), (2, 3, 8)]))
def test_what_goes_from_the_source_goes_from_the_result(data, shape):
    source = np.arange(prod(shape)).reshape(shape)
    axes = [new_axis(side) for side in shape]
    result, found = source, axes
    for operation in data.draw(st.lists(st.sampled_from(OPERATIONS), max_size=5)):
        result, found = operation(result, found, data.draw)
        assert tuple(map(size_of, found)) == result.shape
    free = [atom for axis in axes for atom in atoms_of(axis) if not atom.fixed]
    for atom in dict.fromkeys(free):
        index = np.array(data.draw(st.permutations(range(atom.size))), np.int64)
        edits = {atom: Selection(index[: data.draw(st.integers(1, atom.size))])}
        before, after = _kept(source, axes, edits), _kept(result, found, edits)
        assert sorted(before.ravel()) == sorted(after.ravel())
        assert after.shape == tuple(size_of(axis, {atom: edits[atom].size}) for axis in found)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from([24, 36, 60]))
def test_unified_axes_select_the_same(data, size):
    axes = []
    for _ in range(2):
        source = new_axis(size)
        result, found = np.arange(size), [source]
        for operation in data.draw(st.lists(st.sampled_from((_reshape, _swap_halves)), max_size=4)):
            result, found = operation(result, found, data.draw)
        axes.append(source)
    unify(axes[0], axes[1], "differ")
    for atom in dict.fromkeys((*atoms_of(axes[0]), *atoms_of(axes[1]))):
        if not atom.fixed:
            edits = {atom: Selection(np.array(data.draw(st.permutations(range(atom.size))))[: max(1, atom.size // 2)])}
            np.testing.assert_array_equal(select(axes[0], edits), select(axes[1], edits))


def test_an_atom_that_is_bound_counts_no_more():
    atom = Atom(6)
    cut(atom, 2, "")
    assert [piece.size for piece in atoms_of(atom)] == [2, 4]
    assert size_of(atom) == 6
