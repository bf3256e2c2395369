# SPDX-License-Identifier: Apache-2.0
"""Row masks of a weight, and the arrays that a kernel walks: checked by putting the weight together again."""

import numpy as np
import pytest

from sparsec.backends.kernels.masks import MASKS, count, mask_numbers, pack


def _unpacked(packed, rows: int, steps: int, size: int):
    weight, step, value = np.zeros((rows + -rows % size, steps), np.float32), 0, 0
    masks = MASKS[size]
    for run, (start, end) in enumerate(zip(packed.runs[:-1], packed.runs[1:], strict=True)):
        panel, mask = divmod(run, len(masks))
        assert start == step
        assert mask or value == packed.firsts[panel]
        for place in packed.places[start:end]:
            for row in masks[mask]:
                weight[panel * size + row, place // 10] = packed.values[value]
                value += 1
        step = end
    assert value == np.count_nonzero(weight)
    return weight[:rows]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_weight_comes_back(size: int) -> None:
    rng = np.random.default_rng(size)
    weight = (rng.standard_normal((11, 17)) * (rng.random((11, 17)) < 0.5)).astype(np.float32)
    weight[3], weight[4:8] = 0, 1
    packed = pack(weight, size, np.arange(17) * 10)
    np.testing.assert_array_equal(_unpacked(packed, 11, 17, size), weight)
    found = [array.dtype for array in (packed.values, packed.places, packed.runs, packed.firsts)]
    assert found == ["f4", "i4", "i4", "i4"]


def test_masks_are_all_sets_of_rows() -> None:
    assert MASKS[2] == ((0,), (1,), (0, 1))
    assert [len(MASKS[size]) for size in (1, 2, 3, 4)] == [1, 3, 7, 15]


def test_counts_and_numbers() -> None:
    weight = np.array([[1, 0, 2, 0], [0, 0, 3, 4], [0, 0, 0, 5]], np.float32)
    assert mask_numbers(weight, 2).tolist() == [[0, -1, 2, 1], [-1, -1, -1, 0]]
    assert count(weight, 2).tolist() == [2, 1, 1]


def test_nothing_held_packs_arrays_of_one_element() -> None:
    packed = pack(np.zeros((4, 3), np.float32), 2, np.arange(3))
    assert (len(packed.values), len(packed.places)) == (1, 1)
    assert packed.runs.tolist() == [0] * 7
    assert packed.firsts.tolist() == [0, 0]
