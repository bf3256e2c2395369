# SPDX-License-Identifier: Apache-2.0
"""Golden sizes: bits per original weight, indices, scales and zero points included."""

import numpy as np
import pytest

from sparsec.compiler.encoding import EncodedTensor, Encoding, Quant, as_half
from sparsec.compiler.pattern import POINTER_BITS, Block, Dense, Pattern, parse_pattern

ROWS = 4


def _bits(pattern: Pattern, density: float, quant: Quant, inputs: int, *, scales: bool = True) -> float:
    """Bits per weight of a matrix of random scores, row pointers left out as the published tables do."""
    shape = (ROWS, inputs)
    mask = pattern.project(np.random.RandomState(0).rand(*shape), density)
    arrays = {"codes": np.zeros(shape, np.int8 if quant.symmetric else np.uint8)}
    count = (ROWS, -(-inputs // quant.group)) if quant.group else (ROWS,)
    arrays["scales"] = as_half(np.ones(count))
    if not quant.symmetric:
        arrays["zero_points"] = np.zeros(count, np.uint8)
    tensor = EncodedTensor("w", Encoding(pattern, quant), mask, 0, **arrays)
    pointers = ROWS * POINTER_BITS if isinstance(pattern, Block) else 0
    left_out = 0 if scales else tensor.stored_scales * quant.scale_bits
    return (tensor.storage_bits - pointers - left_out) / tensor.size


GROUPS = {8: (3.75, 4.25), 16: (2.88, 3.13), 32: (2.44, 2.56), 64: (2.22, 2.28), 128: (2.11, 2.14)}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("wide", [False, True])
def test_half_of_the_groups_in_four_bits(group, wide):
    inputs = group * (512 if wide else 256)
    quant = Quant(4, "group", symmetric=False, group=group)
    assert _bits(Block(1, group), 0.5, quant, inputs) == pytest.approx(GROUPS[group][wide], abs=0.0051)


@pytest.mark.parametrize(("bits", "group", "want"), [(4, 128, 4.16), (2, 64, 2.28), (2, 128, 2.14)])
def test_dense_groups(bits, group, want):
    quant = Quant(bits, "group", symmetric=False, group=group)
    assert _bits(Dense(), 1.0, quant, 4096) == pytest.approx(want, abs=0.005)


def test_two_of_four_in_four_bits():
    quant = Quant(4, "group", symmetric=False, group=128)
    assert _bits(parse_pattern("nm(2:4)"), 0.5, quant, 4096) == pytest.approx(3.16, abs=0.005)


def test_two_of_four_in_eight_bits_is_6_4_times_smaller_than_float32():
    assert 32 / _bits(parse_pattern("nm(2:4)"), 0.5, Quant(8, "channel"), 4096, scales=False) == 6.4


def test_two_pairs_of_four_in_four_bits_are_12_8_times_smaller_than_float32():
    assert 32 / _bits(parse_pattern("nm(2:4x2)"), 0.5, Quant(4, "channel"), 4096, scales=False) == 12.8
