# SPDX-License-Identifier: Apache-2.0
import numpy as np

from sparsec.compiler.pattern import NM, Unstructured
from sparsec.compiler.statistics import LayerStatistics
from sparsec.passes.scores import scores


def normal(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def seen(vectors):
    statistics = LayerStatistics.empty(vectors.shape[1], hessian=True)
    statistics.add(vectors)
    return statistics


def test_wanda_with_equal_norms_is_magnitude():
    matrix = normal(6, 16)
    same = seen(np.ones((5, 16), np.float32))
    for pattern in (NM(2, 4), Unstructured()):
        first, second = (pattern.project(scores(kind, matrix, same), 0.5) for kind in ("magnitude", "wanda"))
        np.testing.assert_array_equal(first, second)


def test_wanda_multiplies_by_the_norm_of_the_input():
    matrix, vectors = normal(6, 16), normal(9, 16, seed=1)
    want = np.abs(matrix) * np.sqrt((vectors.astype(np.float64) ** 2).mean(0))
    np.testing.assert_allclose(scores("wanda", matrix, seen(vectors)), want, rtol=1e-6)


def test_the_row_term_of_ria_does_not_change_with_the_rows_scale():
    matrix, vectors = normal(6, 16), normal(9, 16, seed=1)
    matrix[1] = 0
    scaled = matrix * np.array([1, 1, 100, 1, 1, 1], np.float32)[:, None]
    columns = [np.abs(m) / np.maximum(np.abs(m).sum(0), 1e-30) for m in (matrix, scaled)]
    norms = np.sqrt(seen(vectors).norms)
    first, second = (
        scores("ria", m, seen(vectors)) - c * norms for m, c in zip((matrix, scaled), columns, strict=True)
    )
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-9)
    assert not scores("ria", matrix, seen(vectors))[1].any()


def test_hessian_is_the_error_after_the_others_have_made_up_for_it():
    matrix, vectors = normal(3, 8), normal(40, 8, seed=1) @ normal(8, 8, seed=2)
    found = scores("hessian", matrix, seen(vectors))
    x = vectors.astype(np.float64)
    for row in range(3):
        for column in range(8):
            others = np.delete(x, column, axis=1)
            target = x[:, column] * matrix[row, column]
            residue = target - others @ np.linalg.lstsq(others, target, rcond=None)[0]
            want = 2 * (residue**2).mean()
            assert 0.3 * want < found[row, column] < 3 * want + 0.1
    plain = seen(np.eye(8, dtype=np.float32) * 3)
    np.testing.assert_allclose(scores("hessian", matrix, plain) / np.square(matrix, dtype=float), 2.2725, rtol=1e-3)
