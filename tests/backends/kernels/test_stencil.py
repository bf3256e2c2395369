# SPDX-License-Identifier: Apache-2.0
"""The numbers of depthwise kernels for codes: every tap once, every result written, nothing beyond the output."""

import numpy as np
import pytest

from sparsec.backends.kernels.stencil import WORD, Stencil, pack, tiles
from sparsec.compiler.lowering.kernel import KernelSpec
from sparsec.compiler.lowering.ops import Convolution

SHAPES = [
    {"size": (7, 7), "kernel": (5, 5), "pads": (2, 2, 2, 2)},
    {"size": (112, 112), "kernel": (3, 3), "stride": (2, 2), "pads": (0, 0, 1, 1)},
    {"size": (56, 90), "kernel": (5, 5), "stride": (2, 2), "pads": (2, 2, 2, 2)},
    {"size": (19, 30), "kernel": (3, 3), "stride": (1, 3), "dilation": (2, 3), "pads": (2, 3, 2, 3)},
    {"size": (4, 3), "kernel": (4, 1)},
    {"size": (130, 61), "kernel": (7, 9), "pads": (3, 4, 3, 4)},
]
LANES = (4, 8, 16)


def stencils(shape: dict[str, tuple[int, ...]], lanes: int) -> list[Stencil]:
    op = Convolution("uint8", 6, 6, groups=6, **shape)
    return [Stencil.of(KernelSpec("depthwise", op, "dense", tile)) for tile in sorted(tiles(op, lanes))]


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_tap_is_multiplied_once(shape: dict[str, tuple[int, ...]], lanes: int) -> None:
    for stencil in stencils(shape, lanes):
        for v in range(len(stencil.vectors)):
            for part in range(WORD):
                rows = [g for _, place, g in stencil.row_uses if place == v * WORD + part]
                columns = [g for _, vector, g in stencil.column_uses if vector == v]
                found = sorted(tap for g in rows + columns for tap in stencil.groups[g] if tap >= 0)
                assert found == list(range(stencil.op.kernel[0] * stencil.op.kernel[1])), (stencil, v)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_result_is_written_and_nothing_beyond(shape: dict[str, tuple[int, ...]], lanes: int) -> None:
    for stencil in stencils(shape, lanes):
        height, width = stencil.op.out_size
        written = np.zeros(height * width, int)
        for band, y, x in np.ndindex(stencil.bands.count, stencil.ys.count, stencil.xs.count):
            top = min(band * stencil.bands.step, stencil.bands.last) + min(y * stencil.ys.step, stencil.ys.last)
            first = top * width + min(x * stencil.xs.step, stencil.xs.last)
            for v in range(len(stencil.vectors)):
                for start, picked in stencil.runs(v):
                    assert len(set(picked)) == len(picked)
                    assert first + start + len(picked) <= len(written)
                    written[first + start : first + start + len(picked)] += 1
        assert written.min() > 0, stencil


def test_a_large_plane_comes_by_bands_and_a_small_one_whole() -> None:
    bands = {size: stencils({"size": (size, size), "kernel": (3, 3)}, 16)[-1].bands.count for size in (20, 60, 112)}
    assert bands[20] == bands[60] == 1
    assert bands[112] > 4


def test_a_column_that_is_left_comes_in_groups_of_four_rows() -> None:
    stencil = max(stencils({"size": (20, 40), "kernel": (5, 5)}, 16), key=lambda each: each.down)
    assert [len(stencil.row_groups), len(stencil.column_uses) / len(stencil.vectors)] == [5, 2]
    weight = np.arange(6 * 25, dtype=np.int8).reshape(6, 1, 5, 5)
    words = pack(stencil, weight).view(np.int8).reshape(2, len(stencil.groups), WORD, WORD)
    shifted = stencil.groups.index((-1, -1, 4, 9))
    assert words[0, shifted, 1].tolist() == [0, 0, 29, 34]
