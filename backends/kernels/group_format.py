# SPDX-License-Identifier: Apache-2.0
"""How weights of 4-bit groups are stored: a stream of nibbles, and a scale, a zero point and a place for each group.

Only kept groups are stored, row by row. 16 or 64 weights make a unit, which is one vector of words: nibble j of lane i
is weight j * lanes + i of the unit, so that a mask or a shift gives neighbouring weights. Where a unit
holds several groups, a row is filled up to whole units by groups of scale 0.
"""

from dataclasses import dataclass

import numpy as np

from sparsec.compiler.lowering.groups import Groups
from sparsec.compiler.lowering.kernel import Array

NIBBLES = {4: 4, 8: 2, 16: 4}
"""Nibbles in a word, by the lanes of a vector: what one instruction widens to 32 bits."""
WORDS = {4: "uint16", 8: "uint8", 16: "uint16"}
"""Type of a word, by the lanes of a vector."""
NARROW_PLACES = 256
"""The most groups of a row whose places are bytes."""


@dataclass(frozen=True, slots=True)
class Format:
    """The stream's geometry.

    Attributes:
        lanes: float32 in a vector.
        group: Weights that share a scale: 16, 32, 64 or 128.
        inputs: Weights of a row, a multiple of the group.
        outputs: Rows.
    """

    lanes: int
    group: int
    inputs: int
    outputs: int

    @property
    def unit(self) -> int:
        """Weights of one vector of words."""
        return self.lanes * NIBBLES[self.lanes]

    @property
    def together(self) -> int:
        """Groups of a step: as many as a unit holds."""
        return max(1, self.unit // self.group)

    @property
    def units(self) -> int:
        """Units of a step."""
        return max(1, self.group // self.unit)

    @property
    def row_steps(self) -> int:
        """Steps of a row of which every group is kept."""
        return -(-self.groups // self.together)

    @property
    def groups(self) -> int:
        """Groups of a row."""
        return self.inputs // self.group

    @property
    def panels(self) -> int:
        """Runs of as many rows as there are lanes; the last may be filled up by empty rows."""
        return -(-self.outputs // self.lanes)

    @property
    def place_dtype(self) -> str:
        """Type of a group's place."""
        return "uint8" if self.groups <= NARROW_PLACES else "uint16"

    def stream_bytes(self, kept: int) -> int:
        """Bytes of the nibbles, scales and zero points of so many groups."""
        return kept * (self.group // 2 + 3)


@dataclass(frozen=True, slots=True)
class Streams:
    """A packed weight.

    Attributes:
        words: Nibbles, [step][unit][lane].
        scales: Bits of float16, [group].
        zeros: uint8 [group]: the code that stands for 0.
        places: Which group of the row, [group].
        ends: int32: the step where each row starts, and the end of the last; empty rows fill up the last panel.
    """

    words: Array
    scales: Array
    zeros: Array
    places: Array
    ends: Array


def pack(form: Format, groups: Groups) -> Streams:
    """The streams of a weight; scales and zero points are followed by a vector of nothing, which may be read."""
    counts = groups.kept.sum(axis=1)
    steps = -(-counts // form.together)
    starts = np.concatenate([[0], np.cumsum(steps)])
    rows, places = np.nonzero(groups.kept)
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    slots = starts[rows] * form.together + rank
    size = int(starts[-1]) * form.together
    codes = np.zeros((size, form.group), np.uint8)
    scales, zeros = np.zeros(size + form.lanes, np.float16), np.zeros(size + form.lanes, np.uint8)
    where = np.zeros(size, form.place_dtype)
    codes[slots], scales[slots] = groups.codes[rows, places], groups.scales[rows, places]
    zeros[slots], where[slots] = groups.zeros[rows, places], places
    ends = np.append(starts, np.full(form.panels * form.lanes - form.outputs, starts[-1]))
    return Streams(_words(form, codes), scales.view(np.uint16), zeros, where, ends.astype(np.int32))


def _words(form: Format, codes: Array) -> Array:
    """Nibbles of [group][weight] as words."""
    nibbles = NIBBLES[form.lanes]
    word = codes.reshape(-1, nibbles, form.lanes).astype(WORDS[form.lanes])
    shifted = [word[:, j] << (4 * j) for j in range(nibbles)]
    return np.asarray(np.bitwise_or.reduce(shifted)).astype(WORDS[form.lanes]).reshape(-1)
