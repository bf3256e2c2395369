# SPDX-License-Identifier: Apache-2.0
"""The padded, phase-split copy against its definition."""

from pathlib import Path

import numpy as np
import pytest

from sparsec.backends.kernels.pad import PadKernel, pad_spec
from sparsec.compiler.lowering.ops import Pad
from tests.backends.kernels.products import run_specs

KERNEL = PadKernel()
OPS = [
    Pad("float32", 2, (5, 6), (1, 1), (1, 1), (1, 1), (7, 8)),
    Pad("float32", 3, (1, 40), (1, 1), (0, 3), (1, 1), (1, 46)),
    Pad("uint8", 2, (7, 19), (2, 2), (1, 1), (2, 2), (5, 24), 0x05050505),
    Pad("uint8", 1, (9, 37), (1, 2), (0, 0), (1, 2), (9, 20), 0x7F7F7F7F),
    Pad("float32", 2, (11, 10), (3, 3), (2, 1), (3, 2), (5, 6)),
    Pad("float32", 1, (2, 2), (1, 1), (3, 5), (1, 1), (8, 20)),
    Pad("float32", 2, (12, 13), (4, 4), (1, 0), (4, 3), (3, 3)),
    Pad("uint8", 1, (3, 3), (2, 2), (0, 0), (1, 1), (2, 2)),
]


def define(op: Pad, x: np.ndarray) -> np.ndarray:
    outside = np.array(op.fill, np.uint32).view(x.dtype)
    out = np.full((op.channels, *op.phases, *op.plane), outside, x.dtype)
    for c, a, b, i, j in np.ndindex(out.shape):
        row, column = i * op.stride[0] + a - op.origin[0], j * op.stride[1] + b - op.origin[1]
        if 0 <= row < op.size[0] and 0 <= column < op.size[1]:
            out[c, a, b, i, j] = x[c, row, column]
    return out


@pytest.mark.parametrize("isa", ["avx2", "simd128", "neon"])
def test_matches_the_definition(isa: str, tmp_path: Path) -> None:
    cases = []
    for op in OPS:
        x = np.arange(1, 1 + op.channels * op.size[0] * op.size[1], dtype=np.int32).reshape(op.channels, *op.size)
        x = x if op.dtype == "uint8" else x.astype(np.float32)
        right = define(op, x)
        assert right.nbytes == op.out_bytes
        assert np.array_equal(KERNEL.reference(pad_spec(op), None, x), right)
        cases.append((pad_spec(op), [x, np.full_like(right, 9)], right))
    found = run_specs(KERNEL, isa, [(spec, arrays) for spec, arrays, _ in cases], tmp_path)
    for (spec, _, right), (_, out) in zip(cases, found, strict=True):
        assert np.array_equal(out, right), spec
