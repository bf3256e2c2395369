# SPDX-License-Identifier: Apache-2.0
"""Each catalog model, compiled without a recipe, gives onnxruntime's outputs and keeps its score."""

import shutil

import numpy as np
import pytest

from sparsec.compiler.driver import compile
from sparsec.compiler.errors import TargetError
from sparsec.models.catalog import MODELS
from sparsec.models.runner import onnxruntime_run

ORDINARY = {"digits", "tiny-cnn", "tiny-transformer"}
NEED_QEMU = (
    pytest.mark.qemu,
    pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="found no qemu-aarch64 (Debian: qemu-user)"),
)
SAMPLES = {"x86": None, "wasm": 100, "arm": 10}
"""How many held-out samples are scored; an emulated processor is slow."""
ONE_IS_ENOUGH = {("smollm2", "arm")}
"""Where a single sample takes minutes."""


@pytest.mark.parametrize("name", [n if n in ORDINARY else pytest.param(n, marks=pytest.mark.slow) for n in MODELS])
@pytest.mark.parametrize("target", ["x86", "wasm", pytest.param("arm", marks=NEED_QEMU)])
def test_compiled_model_matches(model, target, tmp_path):
    source = model.build()
    reference = onnxruntime_run(source)
    with compile(source, target, shapes=model.shapes, output=tmp_path / "artifact", name=model.name) as artifact:
        single = (model.name, target) in ONE_IS_ENOUGH
        for sample in _rows(model.inputs("heldout", 1 if single else 3)):
            expected = reference(sample)
            found = _run_or_skip(artifact, sample)
            assert found.keys() == expected.keys()
            for output, array in expected.items():
                assert found[output].dtype == array.dtype
                assert _relative_error(found[output], array) < 1e-4, output
        limit = 1 if single else SAMPLES[target]
        wanted = model.baseline if limit is None else model.score(reference, limit=limit)
        assert model.score(artifact.run, limit=limit) == pytest.approx(wanted, abs=1e-3)


def _rows(arrays):
    return [dict(zip(arrays, map(np.asarray, row), strict=True)) for row in zip(*arrays.values(), strict=True)]


def _run_or_skip(artifact, sample):
    try:
        return artifact.run(sample)
    except TargetError as error:
        pytest.skip(str(error))


def _relative_error(found, expected):
    assert found.shape == expected.shape
    return np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected)
