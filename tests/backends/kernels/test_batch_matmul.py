# SPDX-License-Identifier: Apache-2.0
"""Products of two computed matrices, with shared operands and every tail, on every instruction set."""

from pathlib import Path

import numpy as np
import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.batch_matmul import BatchMatMulKernel
from sparsec.backends.kernels.reference import finish_plain
from sparsec.compiler.lowering.ops import BatchMatMul
from tests.backends.kernels.products import AFFINE, PLAIN_SUM, RESIDUAL, Problem, check

KERNEL = BatchMatMulKernel()
SIZES = [
    (1, 1, 1, 1, 1, 1),
    (2, 3, 4, 5, 2, 2),
    (3, 5, 8, 16, 1, 3),
    (2, 13, 3, 21, 2, 1),
    (1, 4, 16, 47, 1, 1),
    (2, 2, 5, 3, 2, 2),
    (1, 1, 9, 64, 1, 1),
]


def problem(op: BatchMatMul) -> Problem:
    rng = np.random.default_rng(7)
    a = rng.standard_normal((op.a_batches, op.m, op.k)).astype(np.float32)
    b = rng.standard_normal((op.b_batches, op.k, op.n)).astype(np.float32)
    sums = np.einsum("bmk,bkn->bmn", _spread(a, op), _spread(b, op))
    shapes = {"channel": (op.n,), "scalar": (1,), "full": (op.batches, op.m, op.n)}
    operands = tuple(rng.standard_normal(shapes[kind]).astype(np.float32) for kind in op.epilogue.operands)
    expected = finish_plain(op.epilogue, sums.astype(np.float32), operands)
    return Problem(op, "dense", (a, b), None, operands, expected)


def _spread(matrices: np.ndarray, op: BatchMatMul) -> np.ndarray:
    return np.repeat(matrices.astype(np.float64), op.batches // len(matrices), axis=0)


@pytest.mark.parametrize("isa", ISAS)
def test_matches_numpy(isa: str, tmp_path: Path) -> None:
    ops = [BatchMatMul(*size, (PLAIN_SUM, AFFINE, RESIDUAL)[i % 3]) for i, size in enumerate(SIZES)]
    assert check(KERNEL, [problem(op) for op in ops], isa, tmp_path) == len(SIZES)
