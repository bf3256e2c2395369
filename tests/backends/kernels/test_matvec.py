# SPDX-License-Identifier: Apache-2.0
"""Matrix times vector, dense and block-sparse, float32 and codes, on every instruction set."""

from pathlib import Path

import numpy as np
import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.matvec import MatvecKernel, SparseMatvecKernel
from sparsec.compiler.lowering.ops import Convolution, Linear
from tests.backends.kernels.products import (
    AFFINE,
    EPILOGUES,
    REQUANTIZE,
    check,
    convolution_problem,
    linear_problem,
    pruned,
)

DENSE, SPARSE = MatvecKernel(), SparseMatvecKernel()


@pytest.mark.parametrize("isa", ISAS)
def test_dense(isa: str, tmp_path: Path) -> None:
    sizes = [(1, 1), (5, 3), (9, 17), (16, 40), (7, 70), (12, 33)]
    tokens = [Linear("uint8", 1, *size, EPILOGUES[i]) for i, size in enumerate(sizes)]
    images = [
        Convolution("float32", 9, 21, (1, 1), epilogue=REQUANTIZE),
        Convolution("uint8", 5, 6, (3, 2), (3, 2), epilogue=AFFINE),
    ]
    problems = [linear_problem(op, 1) for op in tokens] + [convolution_problem(op, 2) for op in images]
    assert check(DENSE, problems, isa, tmp_path) == len(problems)


@pytest.mark.parametrize("isa", ISAS)
def test_sparse(isa: str, tmp_path: Path) -> None:
    problems = []
    for i, (dtype, pattern) in enumerate(
        [("uint8", "block(4x4)"), ("float32", "block(4x4)"), ("float32", "block(4x1)"), ("uint8", "block(4x8)")]
    ):
        op = Linear(dtype, 1, 16 + 8 * i, 17 + i, EPILOGUES[2 * i % 6])
        problems.append(linear_problem(op, i, pruned(dtype, pattern, op.outputs, op.inputs), pattern))
    assert check(SPARSE, problems, isa, tmp_path) == len(problems)


def test_a_weight_of_zeros(tmp_path: Path) -> None:
    op = Linear("uint8", 1, 8, 9, REQUANTIZE)
    problem = linear_problem(op, 0, np.zeros((9, 8), np.int8), "block(4x4)")
    assert check(SPARSE, [problem], "avx2", tmp_path) == 1


def test_many_tokens_are_not_its_job() -> None:
    for op in (Linear("uint8", 2, 8, 8), Convolution("uint8", 8, 8, (4, 4))):
        assert not list(DENSE.candidates(op, "dense", 4))
        assert not list(SPARSE.candidates(op, "block(4x4)", 4))
