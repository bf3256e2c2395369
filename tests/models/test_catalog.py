# SPDX-License-Identifier: Apache-2.0
"""Each catalog model builds, is valid ONNX, runs in onnxruntime and reaches its baseline."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sparsec.compiler.errors import ModelError
from sparsec.models.__main__ import main
from sparsec.models.catalog import MODELS, find
from sparsec.models.runner import onnxruntime_run

ORDINARY = {"digits", "tiny-cnn", "tiny-transformer"}
EACH = pytest.mark.parametrize(
    "name", [name if name in ORDINARY else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)


@EACH
def test_baseline(model):
    built = model.build()
    onnx.checker.check_model(ir.to_proto(built), full_check=True)
    assert model.score(onnxruntime_run(built)) == pytest.approx(model.baseline, abs=5e-4)


@EACH
def test_inputs_fit_the_graph_and_splits_differ(model):
    pins = {value.name: model.shapes.get(value.name, value.shape) for value in model.build().graph.inputs}
    types = {value.name: value.dtype.numpy() for value in model.build().graph.inputs}
    calibration, heldout = model.inputs("calibration", 4), model.inputs("heldout", 4)
    for arrays in (calibration, heldout):
        assert set(arrays) == set(pins)
        for name, array in arrays.items():
            assert array.shape[1:] == tuple(pins[name])
            assert array.dtype == types[name]
            assert 1 <= len(array) <= 4
    assert any(not np.array_equal(calibration[name][0], heldout[name][0]) for name in pins)


@EACH
def test_build_is_deterministic(model):
    first, second = (ir.to_proto(model.build()).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_unknown_name_offers_the_nearest():
    with pytest.raises(ModelError, match=r"Model 'digit': not in the catalog.*Did you mean 'digits'"):
        find("digit")


@pytest.mark.parametrize("name", ["digits"])
def test_command_writes_model_and_data(model, tmp_path):
    paths = [tmp_path / name for name in ("d.onnx", "c.npz", "h.npz")]
    flags = ("-o", "--calibration", "--inputs")
    arguments = [part for pair in zip(flags, map(str, paths), strict=True) for part in pair]
    assert main([model.name, *arguments, "--count", "3"]) == 0
    onnx.checker.check_model(paths[0])
    assert np.load(paths[1])["image"].shape == (3, 1, 1, 28, 28)
    assert np.load(paths[2])["image"].shape == (1, 1, 28, 28)


def test_command_lists_and_refuses(capsys):
    assert main([]) == 0
    listing = capsys.readouterr().out
    assert all(name in listing for name in MODELS)
    assert main(["nothing"]) == 1
    assert capsys.readouterr().err.startswith("error: Model 'nothing': not in the catalog")
