# SPDX-License-Identifier: Apache-2.0
"""Prices of kernels that multiply and accumulate, and the names of the profile's numbers they use.

Besides those of `sparsec.backends.kernels.cost`, with ``<dtype>`` ``float32`` or ``int8``:

- ``<dtype>_macs_per_us``: multiply-accumulates a microsecond in a register tile without tails, operands in cache;
- ``vector_lanes``: float32 in the widest vector;
- ``vector_registers``: how many vectors a tile may keep in registers;
- ``int8_registers``: the same for codes, whose multiplication may need some for itself;
- ``mac_chains``: independent sums that keep the multipliers busy;
- ``int8_chains``: the same for codes, whose sums may wait for an addition only;
- ``load_macs``: float32 multiply-accumulate instructions in whose time one vector is loaded, or one weight broadcast;
- ``spill_factor``: slowdown of a tile that does not fit the registers;
- ``tile_us``: microseconds to start and finish a register tile, its epilogue's arithmetic aside;
- ``block_us``: microseconds to find the operand of one nonzero block;
- ``mask_us``: microseconds more of a step that is taken by a row mask, of turning to the next mask included;
- ``pair_us``: microseconds more of a pair of words.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from sparsec.backends.kernels.cost import expression_operations
from sparsec.backends.kernels.positions import Tile
from sparsec.backends.kernels.traffic import CLOSE, Traffic
from sparsec.compiler.lowering.kernel import Profile
from sparsec.compiler.lowering.ops import Convolution, Epilogue

_OVERLAP = 6
"""Exponent of the soft maximum in `step_us`."""
_SPILLED_DOTS = 1.25
"""Slowdown of a depthwise tile of codes whose sums do not fit the registers."""
_SELECT = 0.75
"""Dot products in whose time two vectors of words become one."""


@dataclass(frozen=True, slots=True)
class DepthwiseTile:
    """Work of one register tile of a depthwise convolution.

    Attributes:
        vectors: Vectors of positions.
        steps: Multiply-accumulates for each of them (and each channel of a word): taps, or groups of four taps.
        loads: Operand vectors loaded.
        shuffles: Of vectors, for codes.
    """

    vectors: int
    steps: float
    loads: int
    shuffles: int


def step_us(dtype: str, rows: int, vectors: float, profile: Profile, traffic: Traffic = CLOSE) -> float:
    """Microseconds of one element of the sum for a register tile of rows x vectors.

    Multiplying, waiting for sums and loading overlap, though not perfectly: a soft maximum of the three.

    Args:
        dtype: Of the activations.
        rows: Weights that are broadcast (or activations, where weights are the vectors).
        vectors: Vectors that are loaded.
        profile: Of the machine.
        traffic: How the vectors lie in memory.
    """
    chains = profile["int8_chains" if dtype == "uint8" else "mac_chains"]
    macs = (rows * vectors * mac_us(dtype, profile), chains * mac_us(dtype, profile))
    needed = rows * vectors + int(vectors) + 1
    spills = profile["spill_factor"] if needed > registers(dtype, profile) else 1.0
    return spills * _overlapped(*macs, load_us(rows, vectors, profile, traffic))


def load_us(splats: float, vectors: float, profile: Profile, traffic: Traffic) -> float:
    """Microseconds to load so many vectors of the operand and weights that are broadcast."""
    loads = vectors * traffic.lines + splats
    return loads * profile["load_macs"] * mac_us("float32", profile) + traffic.fetch_us(vectors, profile)


def _overlapped(*parts: float) -> float:
    return float(sum(part**_OVERLAP for part in parts) ** (1 / _OVERLAP))


def registers(dtype: str, profile: Profile) -> float:
    """How many vectors a tile may keep in registers."""
    return profile["int8_registers" if dtype == "uint8" else "vector_registers"]


def mac_us(dtype: str, profile: Profile) -> float:
    """Microseconds of one vector multiply-accumulate."""
    if dtype == "uint8":
        return 4 * profile["vector_lanes"] / profile["int8_macs_per_us"]
    return profile["vector_lanes"] / profile["float32_macs_per_us"]


def epilogue_us(epilogue: Epilogue, vectors: float, profile: Profile) -> float:
    """Microseconds to finish and store so many vectors."""
    operations = 2 + expression_operations(epilogue.expression) + len(epilogue.operands)
    return vectors * operations * profile["vector_lanes"] / profile["float32_ops_per_us"]


def tile_cost(
    op: Convolution,
    tile: Tile,
    tiles: Iterable[tuple[int, float, float]],
    steps: float,
    traffic: Traffic,
    profile: Profile,
) -> float:
    """Microseconds of a convolution from its register tiles, or of streaming its weights if that is longer.

    Args:
        op: The convolution.
        tile: Its nominal tile.
        tiles: (filters, vectors, how often) of the tiles of one group.
        steps: Elements of each sum, summed over groups.
        traffic: Of its loads.
        profile: Of the machine.
    """
    each = list(tiles)
    compute = sum(count * step_us(op.dtype, rows, vectors, profile, traffic) for rows, vectors, count in each) * steps
    finish = sum(
        count * op.groups * (profile["tile_us"] + epilogue_us(op.epilogue, rows * vectors, profile))
        for rows, vectors, count in each
    )
    places = sum(count for *_, count in each) / max(1, -(-op.filters // op.groups // tile.filters))
    streamed = 4 * steps * (op.filters // op.groups) * places / profile["bytes_per_us"]
    return profile["call_us"] + max(compute, streamed) + max(finish, _written(op, profile))


def _written(op: Convolution, profile: Profile) -> float:
    """Microseconds to write the output."""
    return (1 if op.epilogue.dtype == "uint8" else 4) * op.filters * prod(op.out_size) / profile["bytes_per_us"]


def rowwise_cost(
    tiles: Iterable[tuple[int, float, float]], depth: int, epilogue: Epilogue, nbytes: float, profile: Profile
) -> float:
    """Microseconds of a row-major float32 product, or of streaming its operands if that is longer.

    Args:
        tiles: (rows, vectors, how often) of its register tiles.
        depth: Elements of each sum.
        epilogue: What follows.
        nbytes: Of the operands, each as often as it comes from memory.
        profile: Of the machine.
    """
    each = list(tiles)
    compute = sum(count * step_us("float32", rows, vectors, profile) for rows, vectors, count in each) * depth
    finish = sum(
        count * (profile["tile_us"] + epilogue_us(epilogue, rows * vectors, profile)) for rows, vectors, count in each
    )
    return profile["call_us"] + max(compute, nbytes / profile["bytes_per_us"]) + finish


def depthwise_cost(op: Convolution, vectors: float, tile: DepthwiseTile, profile: Profile) -> float:
    """Microseconds of a depthwise convolution.

    Args:
        op: The convolution.
        vectors: Vectors of positions that are computed for each channel (or word of four), tails included.
        tile: What one register tile does.
        profile: Of the machine.
    """
    words = -(-op.filters // 4) if op.dtype == "uint8" else op.filters
    moved = 4 * words * (op.size[0] * op.size[1] + op.out_size[0] * op.out_size[1]) / profile["bytes_per_us"]
    loads = tile.loads * profile["load_macs"] * mac_us("float32", profile)
    if op.dtype == "uint8":
        spills = _SPILLED_DOTS if 4 * tile.vectors > profile["vector_registers"] else 1.0
        dots = 4 * tile.steps * tile.vectors * mac_us("uint8", profile) * spills
        shuffles = tile.shuffles * profile["vector_lanes"] / profile["float32_ops_per_us"]
        work = dots + shuffles + epilogue_us(op.epilogue, 4 * tile.vectors, profile)
    else:
        kept = tile.steps + tile.vectors + 2 <= profile["vector_registers"]
        loads += 0 if kept else tile.steps * profile["load_macs"] * mac_us("float32", profile)
        work = tile.steps * tile.vectors * mac_us("float32", profile) + epilogue_us(op.epilogue, tile.vectors, profile)
    return profile["call_us"] + max(words * vectors / tile.vectors * (work + loads), moved)


def sparse_cost(
    op: Convolution,
    tiles: Iterable[tuple[int, float, float]],
    block: tuple[int, int],
    blocks: int,
    traffic: Traffic,
    profile: Profile,
) -> float:
    """Microseconds of a block-sparse convolution, or of streaming its weights if that is longer.

    Args:
        op: The convolution.
        tiles: (filters, vectors, how often) of its register tiles.
        block: Rows and steps of a block.
        blocks: Blocks of the weight that hold a nonzero.
        traffic: Of its loads.
        profile: Of the machine.
    """
    rows, steps = block
    panels = -(-op.filters // rows)
    compute = finish = places = 0.0
    for height, vectors, count in tiles:
        share = count * height / op.filters
        each = steps * step_us(op.dtype, rows, vectors, profile, traffic) + profile["block_us"]
        compute += share * blocks * each
        finish += count * height / rows * (profile["tile_us"] + epilogue_us(op.epilogue, rows * vectors, profile))
        places += share
    streamed = places * (blocks * (4 * rows * steps + 4) + 4 * panels) / profile["bytes_per_us"]
    return profile["call_us"] + max(compute, streamed) + max(finish, _written(op, profile))


def masks_cost(
    op: Convolution,
    tiles: Iterable[tuple[int, float, float]],
    runs: Iterable[tuple[int, int]],
    traffic: Traffic,
    profile: Profile,
) -> float:
    """Microseconds of a convolution that walks its steps sorted by row masks, or of streaming its weights.

    Args:
        op: The convolution.
        tiles: (filters, vectors, how often) of its register tiles.
        runs: (rows of the mask, steps of that mask in the whole weight).
        traffic: Of its loads.
        profile: Of the machine.
    """
    each = list(runs)
    compute = finish = places = 0.0
    for height, vectors, count in tiles:
        share = count * height / op.filters
        compute += share * sum(steps * _masked_us(rows, height, vectors, traffic, profile) for rows, steps in each)
        finish += count * (profile["tile_us"] + epilogue_us(op.epilogue, height * vectors, profile))
        places += share
    streamed = places * sum(steps * (4 * rows + 4) for rows, steps in each) / profile["bytes_per_us"]
    return profile["call_us"] + max(compute, streamed) + max(finish, _written(op, profile))


def pairs_cost(
    op: Convolution, tiles: Iterable[tuple[int, float, float]], pairs: int, traffic: Traffic, profile: Profile
) -> float:
    """Microseconds of a convolution of codes over pairs of words, or of streaming its weights if that is longer.

    A pair takes no less than a word by itself: it has a second load, and a selection, besides.

    Args:
        op: The convolution.
        tiles: (filters, vectors, how often) of its register tiles.
        pairs: Of the whole weight.
        traffic: Of its loads.
        profile: Of the machine.
    """
    compute = finish = streamed = 0.0
    for rows, vectors, count in tiles:
        share = count * rows / op.filters
        macs = (rows + _SELECT) * vectors * mac_us(op.dtype, profile)
        spills = profile["spill_factor"] if rows * vectors + vectors + 2 > registers(op.dtype, profile) else 1.0
        work = spills * _overlapped(macs, load_us(rows + 1, 2 * vectors, profile, traffic))
        compute += share * pairs * (max(work, step_us(op.dtype, rows, vectors, profile, traffic)) + profile["pair_us"])
        finish += count * (profile["tile_us"] + epilogue_us(op.epilogue, rows * vectors, profile))
        streamed += share * pairs * 4 * (rows + 3) / profile["bytes_per_us"]
    return profile["call_us"] + max(compute, streamed) + max(finish, _written(op, profile))


def _masked_us(rows: int, height: int, vectors: float, traffic: Traffic, profile: Profile) -> float:
    """One step for some rows of a panel, whose sums stay in registers; for all of them no cheaper than a dense one."""
    spills = profile["spill_factor"] if height * vectors + vectors + 1 > profile["vector_registers"] else 1.0
    work = max(rows * vectors * mac_us("float32", profile), load_us(rows, vectors, profile, traffic))
    masked = work * spills + profile["mask_us"]
    return max(masked, step_us("float32", rows, vectors, profile, traffic)) if rows == height else masked


def matvec_cost(dtype: str, macs: float, nbytes: float, rows: int, epilogue: Epilogue, profile: Profile) -> float:
    """Microseconds of a matrix-vector product, or of streaming its weights if that is longer.

    Args:
        dtype: Of the operand.
        macs: Vector multiply-accumulates.
        nbytes: Of the weights.
        rows: Of the weight.
        epilogue: What follows.
        profile: Of the machine.
    """
    finish = epilogue_us(epilogue, rows / profile["vector_lanes"], profile)
    return profile["call_us"] + max(macs * mac_us(dtype, profile), nbytes / profile["bytes_per_us"]) + finish
