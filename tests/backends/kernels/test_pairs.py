# SPDX-License-Identifier: Apache-2.0
"""Pairs of words of four channels, checked by putting the weight together again."""

import numpy as np
import pytest

from sparsec.backends.kernels.packing import words
from sparsec.backends.kernels.pairs import count, pack
from sparsec.compiler.pattern import NM, Block
from tests.backends.kernels.products import pruned


def _unpacked(packed, shape: tuple[int, int], size: int) -> np.ndarray:
    """The weight as bytes [row][step][byte]; no byte may come twice."""
    rows, steps = shape
    found = np.zeros((rows + -rows % size, steps, 4), np.int8)
    values = packed.values.reshape(-1, size).view(np.int8).reshape(-1, size, 4)
    for panel, (start, end) in enumerate(zip(packed.ends[:-1], packed.ends[1:], strict=True)):
        for pair in range(start, end):
            from_first = packed.masks[pair : pair + 1].view(np.int8) != 0
            for chosen, place in zip((from_first, ~from_first), packed.places[2 * pair :][:2], strict=True):
                target = found[panel * size :][:size, place // 10]
                assert not (target[:, chosen] != 0).any()
                target[:, chosen] += values[pair][:, chosen]
    return found[:rows]


@pytest.mark.parametrize(("size", "pattern"), [(4, "block(4x1)"), (8, "block(8x1)"), (2, "block(2x3)"), (1, "nm(2:4)")])
def test_the_weight_comes_back(size: int, pattern: str) -> None:
    elements = words(pruned("uint8", pattern, 19, 52)[..., None], "uint8")[..., 0]
    packed = pack(elements, size, np.arange(13) * 10)
    bytes_ = np.ascontiguousarray(elements).view(np.int8).reshape(19, 13, 4)
    np.testing.assert_array_equal(_unpacked(packed, elements.shape, size), bytes_)
    assert packed.ends[-1] == count(elements, size) == len(packed.masks)


def test_halves_of_words_pair_up() -> None:
    kept = NM(2, 4).project(np.random.default_rng(1).random((1, 4096)), 0.5)
    pairs = count(words(kept.astype(np.int8)[..., None], "uint8")[..., 0], 1)
    assert 512 <= pairs < 1.05 * 512


def test_random_blocks_pair_up_to_a_few() -> None:
    kept = Block(4, 1).project(np.random.default_rng(2).random((256, 256)), 0.5)
    pairs = count(words(kept.astype(np.int8)[..., None], "uint8")[..., 0], 4)
    assert 0.5 * 64 * 64 <= pairs < 0.6 * 64 * 64


def test_full_words_go_alone_and_empty_ones_not_at_all() -> None:
    weight = np.array([[1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1]], np.int8)
    packed = pack(weight.view(np.int32), 1, np.arange(4) * 10)
    assert packed.places.reshape(-1, 2).tolist() == [[30, 20], [0, 0]]
    assert packed.masks.tolist() == [-256, -1]
    empty = pack(np.zeros((3, 4), np.int32), 2, np.arange(4))
    assert empty.ends.tolist() == [0, 0, 0]
    assert (len(empty.values), len(empty.masks), len(empty.places)) == (1, 1, 1)
