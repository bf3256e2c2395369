# SPDX-License-Identifier: Apache-2.0
"""Plain numpy for what kernels share: layouts, and epilogues on them."""

from collections.abc import Sequence

import numpy as np

from sparsec.compiler.lowering.kernel import Array
from sparsec.compiler.lowering.ops import Epilogue


def group4(values: Array) -> Array:
    """[channels][...] as [ceil(channels / 4)][...][4]; lanes beyond the channels are 0."""
    padded = np.zeros((-(-len(values) // 4) * 4, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return np.ascontiguousarray(np.moveaxis(padded.reshape(-1, 4, *values.shape[1:]), 1, -1))


def ungroup4(values: Array, channels: int) -> Array:
    """[ceil(channels / 4)][...][4] as [channels][...]."""
    return np.moveaxis(values, -1, 1).reshape(-1, *values.shape[1:-1])[:channels]


def finish_channels(epilogue: Epilogue, sums: Array, operands: Sequence[Array]) -> Array:
    """Apply an epilogue to [channels][positions] and store: float32 so, codes in groups of four channels."""
    channels, positions = sums.shape
    shaped = [_as_channels(k, o, channels, positions) for k, o in zip(epilogue.operands, operands, strict=True)]
    result = epilogue.expression(sums, *shaped)
    result = np.broadcast_to(result, sums.shape)
    return group4(result.astype(np.uint8)) if epilogue.dtype == "uint8" else result


def finish_plain(epilogue: Epilogue, sums: Array, operands: Sequence[Array]) -> Array:
    """Apply an epilogue to [..., channels] and store it row-major."""
    shaped = [o.reshape(sums.shape) if o.size == sums.size else o.reshape(-1) for o in operands]
    return np.broadcast_to(epilogue.expression(sums, *shaped), sums.shape).astype(epilogue.dtype)


def _as_channels(kind: str, operand: Array, channels: int, positions: int) -> Array:
    if kind == "codes":
        return ungroup4(operand.reshape(-1, positions, 4), channels)
    return operand.reshape({"channel": (channels, 1), "scalar": (1, 1), "full": (channels, positions)}[kind])
