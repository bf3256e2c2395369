# SPDX-License-Identifier: Apache-2.0
"""The networks drawn from a seed: what they hold, and that their score notices damage."""

import hashlib

import numpy as np
import pytest

from sparsec.models.catalog import MODELS
from sparsec.models.runner import onnxruntime_run

TINY = pytest.mark.parametrize("name", ["tiny-cnn", "tiny-transformer"])


@TINY
def test_needs_no_package(name):
    assert MODELS[name].packages == ()


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("tiny-cnn", {"Conv", "Clip", "HardSwish", "HardSigmoid", "GlobalAveragePool", "Add", "Mul", "Gemm"}),
        ("tiny-transformer", {"LayerNormalization", "Pow", "Softmax", "Erf", "MatMul", "Reshape", "Transpose"}),
    ],
)
def test_covers_the_operators_of_real_networks(name, operators):
    assert operators <= {node.op_type for node in MODELS[name].build().graph}


@TINY
def test_score_notices_damage(name):
    model = MODELS[name]
    run = onnxruntime_run(model.build())
    random = np.random.RandomState(0)

    def noisy(arrays):
        return {key: value + random.normal(0, 0.3, value.shape) for key, value in run(arrays).items()}

    def constant(arrays):
        return {key: np.ones_like(value) for key, value in run(arrays).items()}

    assert model.score(run) == pytest.approx(1, abs=1e-6)
    assert 0.1 < model.score(noisy) < 0.97
    assert model.score(constant) == 0


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("mobilenet-v1", "8de53e295d6ce0d2"),
        ("tiny-cnn", "0a0116b3dddbb747"),
        ("tiny-transformer", "3325ec0966770d80"),
    ],
)
def test_weights_never_change(name, digest):
    weights = MODELS[name].build().graph.initializers
    content = b"".join(weights[key].const_value.tobytes() for key in sorted(weights))
    assert hashlib.sha256(content).hexdigest()[:16] == digest


def test_mobilenet_v1_is_the_published_one():
    graph = MODELS["mobilenet-v1"].build().graph
    convolutions = [node for node in graph if node.op_type == "Conv"]
    weights = {node.name: tuple(node.inputs[1].shape) for node in convolutions}
    assert sum(1 for shape in weights.values() if shape[2:] == (1, 1)) == 13
    assert weights["blocks.12.conv_pw"] == (1024, 1024, 1, 1)
    work = sum(np.prod(node.inputs[1].shape) * np.prod(node.outputs[0].shape[2:]) for node in convolutions)
    assert round(int(work) / 1e6) == 568
