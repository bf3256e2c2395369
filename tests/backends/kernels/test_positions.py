# SPDX-License-Identifier: Apache-2.0
"""Tiles cover every position, stay inside, and repeat little; blocks are found and listed."""

import numpy as np
import pytest

from sparsec.backends.kernels.blocks import Grid, grids, pack
from sparsec.backends.kernels.positions import Span, covering, open_spans, row_spans, spans, spans_with_rest, upright
from sparsec.backends.kernels.rowwise import panel_spans
from sparsec.compiler.lowering.ops import Convolution

EXTENTS = range(1, 70)


def elements(tiles: list[Span], unit: int) -> list[int]:
    """All elements the tiles touch, in order of computation."""
    starts = [min(tile.start + i * tile.step, tile.last) for tile in tiles for i in range(tile.count)]
    offsets = [tile.offsets for tile in tiles for _ in range(tile.count)]
    return [s + o + e for s, many in zip(starts, offsets, strict=True) for o in many for e in range(unit)]


@pytest.mark.parametrize("extent", EXTENTS)
def test_spans_cover_and_stay_inside(extent: int) -> None:
    for size in (1, 2, 3, 4, 6):
        for unit in (1, 2, 4, 8, 16):
            if unit <= extent:
                touched = elements(spans(extent, size, unit), unit)
                assert set(touched) == set(range(extent)), (size, unit)
                assert len(touched) < extent + max(size * unit, extent // 8 + unit)


@pytest.mark.parametrize("extent", EXTENTS)
def test_a_rest_follows_the_last_vector(extent: int) -> None:
    for size in (1, 2, 3, 6):
        for unit in (4, 8, 16):
            if unit <= extent:
                tiles = spans_with_rest(extent, size, unit)
                touched = elements(tiles, unit)
                rest = tiles[-1].rest
                assert all(tile.rest == 0 for tile in tiles[:-1])
                assert 0 <= rest <= unit // 4
                assert set(touched) == set(range(extent - rest)), (size, unit)
                assert not rest or touched[-1] == extent - rest - 1
                assert tiles[-1].count == 1 or not rest


@pytest.mark.parametrize("extent", EXTENTS)
def test_rows_and_panels_are_computed_once(extent: int) -> None:
    for size in (1, 3, 4, 8):
        assert elements(row_spans(extent, size), 1) == list(range(extent))
        panels = panel_spans(extent, size, 4)
        assert elements(panels, 4)[:extent] == list(range(extent))
        assert all(tile.valid in (0, extent % 4) for tile in panels)


@pytest.mark.parametrize("extent", EXTENTS)
def test_open_spans_say_what_exists(extent: int) -> None:
    for size in (1, 2, 3):
        tiles = open_spans(extent, size, 8)
        assert set(range(extent)) <= set(elements(tiles, 8))
        assert max(elements(tiles, 8)) < -(-extent // 8) * 8
        if extent < size * 8:
            assert tiles[-1].valid == extent % 8


def test_covering_takes_whole_tiles_alone() -> None:
    assert elements([covering(7, 3)], 1) == [0, 1, 2, 3, 4, 5, 4, 5, 6]


def test_a_column_is_walked_as_a_row() -> None:
    op = Convolution("float32", 1, 1, (20, 1), (5, 1), (2, 1), (3, 1), (1, 0, 2, 0))
    turned = upright(op)
    assert turned.size == (1, 20)
    assert turned.pads == (0, 1, 0, 2)
    assert turned.out_size == op.out_size[::-1]


def test_packed_blocks() -> None:
    weight = np.zeros((5, 6), np.float32)
    weight[1, 2], weight[4, 5] = 3, 7
    packed = pack(weight, Grid(4, 2), np.arange(0, 60, 10, dtype=np.int32))
    assert packed.ends.tolist() == [0, 1, 2]
    assert packed.places.tolist() == [20, 40]
    assert packed.values.reshape(2, 2, 4)[0].tolist() == [[0, 3, 0, 0], [0, 0, 0, 0]]
    assert packed.values.reshape(2, 2, 4)[1].tolist() == [[0, 0, 0, 0], [7, 0, 0, 0]]


def test_filled_up_panels() -> None:
    packed = pack(np.eye(4, dtype=np.float32), Grid(4, 1), np.arange(4, dtype=np.int32), unroll=3)
    assert packed.ends.tolist() == [0, 6]
    assert not packed.values.reshape(6, 4)[4:].any()


@pytest.mark.parametrize(
    ("pattern", "dtype", "expected"),
    [
        ("dense", "float32", []),
        ("block(4x4)", "float32", [(4, 4), (2, 4)]),
        ("block(4x4)", "uint8", [(4, 1), (2, 1)]),
        ("block(1x4)", "float32", [(1, 4), (4, 4)]),
        ("nm(2:4)", "uint8", [(4, 1), (1, 1)]),
    ],
)
def test_blocks_that_suit_a_pattern(pattern: str, dtype: str, expected: list[tuple[int, int]]) -> None:
    found = [(grid.rows, grid.steps) for grid in grids(pattern, dtype, taps=1, depth=8)]
    assert sorted(found) == sorted(expected)
