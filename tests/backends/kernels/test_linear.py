# SPDX-License-Identifier: Apache-2.0
"""Row-major Linear in float32, one token and many, on every instruction set."""

from pathlib import Path

import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.linear import LinearKernel
from sparsec.compiler.lowering.ops import Linear
from tests.backends.kernels.products import EPILOGUES, check, linear_problem

KERNEL = LinearKernel()
SIZES = [(1, 1, 1), (1, 8, 40), (2, 3, 5), (3, 16, 17), (5, 7, 33), (13, 4, 9), (1, 9, 130), (4, 5, 3)]


@pytest.mark.parametrize("isa", ISAS)
def test_matches_numpy(isa: str, tmp_path: Path) -> None:
    ops = [Linear("float32", *size, EPILOGUES[i % len(EPILOGUES)]) for i, size in enumerate(SIZES)]
    assert check(KERNEL, [linear_problem(op, 5, plain=True) for op in ops], isa, tmp_path) == len(SIZES)


@pytest.mark.parametrize("isa", ["avx2"])
def test_every_tile(isa: str, tmp_path: Path) -> None:
    op = Linear("float32", 13, 11, 57, EPILOGUES[2])
    assert check(KERNEL, [linear_problem(op, 5, plain=True)], isa, tmp_path, every=True) >= 9


def test_codes_are_not_its_job() -> None:
    assert not list(KERNEL.candidates(Linear("uint8", 4, 8, 8), "dense", 4))
