# SPDX-License-Identifier: Apache-2.0
"""All numbers of a convolution kernel: what every family of them derives from a spec."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from sparsec.backends.kernels import packing
from sparsec.backends.kernels.epilogue import parameters
from sparsec.backends.kernels.pad import pad_cost
from sparsec.backends.kernels.positions import (
    Geometry,
    Span,
    Tile,
    geometry,
    open_spans,
    row_spans,
    spans,
    spans_with_rest,
    upright,
)
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import CHANNELS, CHANNELS4, PLAIN, Convolution, Linear, Op

SHAPES = ((8, 3), (8, 2), (8, 1), (4, 6), (4, 4), (4, 3), (4, 2), (4, 1))
"""Filters x vectors of the tiles tried."""


def as_convolution(op: Op) -> Convolution | None:
    """The op as a convolution; tokens become one row of positions. None for other ops."""
    if isinstance(op, Linear):
        return Convolution(op.dtype, op.inputs, op.outputs, (1, op.positions), epilogue=op.epilogue)
    return upright(op) if isinstance(op, Convolution) else None


def layouts(op: Op) -> tuple[str, str]:
    """Layouts of input and output: words of four where there are codes."""
    plain = CHANNELS if isinstance(op, Linear) else PLAIN
    stored = op.epilogue.dtype if isinstance(op, Convolution | Linear) else "float32"
    source = op.dtype if isinstance(op, Convolution | Linear) else "float32"
    return (CHANNELS4 if source == "uint8" else plain), (CHANNELS4 if stored == "uint8" else plain)


@dataclass(frozen=True, slots=True)
class Plan:
    """All numbers of one kernel.

    Attributes:
        op: The op as a convolution.
        tile: Register tile.
        walk: Where the operand lies.
        depth: 32-bit elements of a group's channels: channels, or words of four.
        filters: Of a group.
    """

    op: Convolution
    tile: Tile
    walk: Geometry
    depth: int
    filters: int

    @classmethod
    def of(cls, spec: KernelSpec) -> "Plan":
        """The plan of a spec whose tile is (filters, rows, vectors, lanes)."""
        op = as_convolution(spec.op)
        assert op is not None
        tile = Tile(*spec.tile[:4])
        op = op if spec.family == "depthwise" else regrouped(op)
        channels = op.channels // op.groups
        depth = -(-channels // 4) if op.dtype == "uint8" else channels
        return cls(op, tile, geometry(op, tile), depth, op.filters // op.groups)

    @property
    def positions(self) -> int:
        """Of the output."""
        return prod(self.op.out_size)

    @property
    def steps(self) -> int:
        """Weights of one filter, as 32-bit elements."""
        return self.depth * len(self.walk.taps)

    @property
    def columns(self) -> list[Span]:
        """Tiles along a row."""
        cut = open_spans if self.walk.pad and not self.walk.flat else spans
        return cut(self.walk.columns, self.tile.vectors, self.tile.lanes)

    @property
    def columns_with_rest(self) -> list[Span]:
        """The same for kernels that finish a few positions of one run with vectors over filters."""
        if not self.walk.flat or self.tile.filters % 4:
            return self.columns
        return spans_with_rest(self.walk.columns, self.tile.vectors, self.tile.lanes)

    @property
    def rows(self) -> list[Span]:
        """Tiles along a column."""
        return spans(self.walk.rows, self.tile.rows)

    @property
    def panels(self) -> list[Span]:
        """Tiles of a group's filters."""
        return row_spans(self.filters, self.tile.filters)

    @property
    def operand_elements(self) -> int:
        """32-bit elements of the operand as the kernel reads it."""
        pad = self.walk.pad
        channels = -(-self.op.channels // 4) if self.op.dtype == "uint8" else self.op.channels
        return pad.out_elements if pad else channels * prod(self.op.size)

    @property
    def places(self) -> Array:
        """Where each step's operand lies, from a tile's start: int32 [channel x tap]."""
        places = np.arange(self.depth)[:, None] * self.walk.plane + np.asarray(self.walk.taps)
        return np.asarray(places.ravel(), np.int32)

    @property
    def tail_parameters(self) -> list[tuple[str, int]]:
        """Of the epilogue and the output."""
        words = -(-self.op.filters // 4) * self.positions
        return parameters(self.op.epilogue, self.op.filters, self.op.filters * self.positions, words)


def is_depthwise(op: Op) -> bool:
    """Whether the `depthwise` family computes the op: a stencil for each channel, or several in float32."""
    if not isinstance(op, Convolution) or op.groups == 1 or op.groups != op.channels or op.kernel == (1, 1):
        return False
    return op.dtype == "float32" or op.filters == op.channels


def regrouped(op: Convolution) -> Convolution:
    """Groups that share words of four codes are computed as one, whose other weights are zero."""
    return op if _groups_fit(op) else replace(op, groups=1)


def _groups_fit(op: Convolution) -> bool:
    """Whether no group shares a word of four codes with another."""
    channels, filters = op.channels // op.groups, op.filters // op.groups
    grouped = op.epilogue.dtype == "uint8" or "codes" in op.epilogue.operands
    reads = op.groups == 1 or op.dtype != "uint8" or channels % 4 == 0
    return reads and (op.groups == 1 or not grouped or filters % 4 == 0)


def tiles(op: Op, lanes: int, shapes: Sequence[tuple[int, int]] = SHAPES) -> Iterable[tuple[int, int, int, int]]:
    """Tiles (filters, rows, vectors, lanes) worth pricing for `op`; none if it is no convolution.

    A tile of one vector, where there are more, loads more than it multiplies: its price depends on the machine most.
    `shapes` are filters x vectors.
    """
    convolution = as_convolution(op)
    if convolution is None:
        return
    convolution = regrouped(convolution)
    height, width = convolution.out_size
    flat = convolution.kernel == (1, 1)
    extent = height * width if flat else width
    found = set()
    for filters, vectors in shapes:
        for wide in _lanes(extent, lanes, closed=flat or _closed(convolution)):
            if vectors == 1 and extent > wide:
                continue
            across = min(vectors, -(-extent // wide))
            down = 1 if flat else max(1, min(vectors // across, height))
            found.add((min(filters, _rounded(convolution)), down, across, wide))
    yield from sorted(found)


def _rounded(op: Convolution) -> int:
    return -(-(op.filters // op.groups) // 4) * 4


def _closed(op: Convolution) -> bool:
    """Whether rows may be read in place, where nothing may be read beyond them."""
    return op.stride == (1, 1) and not any(op.pads)


def _lanes(extent: int, lanes: int, *, closed: bool) -> list[int]:
    """Vector lengths to try: the register's, and half of it where a row is short."""
    fitting = [lanes >> i for i in range(lanes.bit_length()) if not closed or lanes >> i <= extent]
    wasteful = extent < 2 * fitting[0]
    return fitting[: 2 if wasteful and lanes > 4 else 1]


def sums_of(plan: Plan, weight: Array, operand: Array) -> Array:
    """[filters][positions] sums: exact integers for codes, float64 rounded to float32 else."""
    op, walk = plan.op, plan.walk
    y, x = np.divmod(np.arange(plan.positions), walk.columns)
    index = np.asarray(walk.taps)[:, None] + y * walk.pitch + x
    if op.dtype == "uint8":
        planes = np.ascontiguousarray(operand).reshape(-1).view(np.uint8).reshape(-1, walk.plane, 4)[:, index]
        gathered = np.moveaxis(planes, -1, 1).reshape(-1, *index.shape).astype(np.int64)[: op.channels]
    else:
        gathered = operand.reshape(-1, walk.plane)[:, index].astype(np.float64)
    grouped = gathered.reshape(op.groups, -1, plan.positions)
    rows = weight_rows(plan, weight).astype(gathered.dtype)
    return (rows.reshape(op.groups, plan.filters, -1) @ grouped).reshape(op.filters, -1).astype(np.float32)


def weight_rows(plan: Plan, weight: Array) -> Array:
    """The weight as [filters][channels of a group][taps]."""
    rows = packing.rows_view(weight, plan.op.filters, len(plan.walk.taps))
    groups = plan.op.channels // rows.shape[1]
    return packing.ungrouped(rows, groups) if groups > plan.op.groups else rows


def preparation_cost(plan: Plan, profile: Profile) -> float:
    """Microseconds of the `Pad` before the kernel."""
    return pad_cost(plan.walk.pad, profile) if plan.walk.pad else 0.0


def plan_tiles(plan: Plan, columns: Sequence[Span] | None = None) -> list[tuple[int, float, float]]:
    """(filters, vectors, how often) of every register tile that the kernel runs.

    A position of a rest takes a vector over filters: its share of a vector over positions.

    Args:
        plan: Of the kernel.
        columns: Tiles along a row, where they are not the plan's.
    """
    return [
        (len(span.offsets), _vectors(plan, len(span.offsets), ys, xs), float(span.count * ys.count * xs.count))
        for span in plan.panels
        for ys in plan.rows
        for xs in columns or plan.columns
    ]


def _vectors(plan: Plan, filters: int, ys: Span, xs: Span) -> float:
    return len(ys.offsets) * len(xs.offsets) + xs.rest / min(filters, plan.tile.lanes)
