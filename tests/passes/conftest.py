# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.oracle import Oracle
from tests.passes import transformers


def _model_of(graph: str, opset: int = 21, **weights: np.ndarray) -> ir.Model:
    text = f'<ir_version: 10, opset_import: ["": {opset}]>\n{graph}'
    tensors = [ir.tensor(array, name=name) for name, array in weights.items()]
    return load_onnx(ir.from_onnx_text(text, initializers=tensors))


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def _calibration(model: ir.Model, samples: int = 8) -> Calibration:
    arrays = {v.name: _normal(samples, *v.shape.numpy(), seed=1 + n) for n, v in enumerate(model.graph.inputs)}
    return Calibration(arrays)


def _run(model: ir.Model, seed: int = 5) -> dict[str, np.ndarray]:
    feeds = {v.name: _normal(*v.shape.numpy(), seed=seed + n) for n, v in enumerate(model.graph.inputs)}
    return Oracle(model).run(feeds)


@pytest.fixture
def model_of() -> Callable[..., ir.Model]:
    """Import a graph written in ONNX's text form; weights by name."""
    return _model_of


@pytest.fixture
def normal() -> Callable[..., np.ndarray]:
    """Normal float32 numbers of a shape, from a seed."""
    return _normal


@pytest.fixture
def calibration() -> Callable[..., Calibration]:
    """Normal samples for a model's inputs."""
    return _calibration


@pytest.fixture
def run() -> Callable[..., dict[str, np.ndarray]]:
    """Outputs of a model in onnxruntime on normal inputs from a seed."""
    return _run


@pytest.fixture
def ops() -> Callable[[ir.Model], list[str]]:
    """Operators in graph order."""
    return lambda model: [node.op_type for node in model.graph]


@pytest.fixture
def transformer() -> Callable[..., ir.Model]:
    """Builds a small transformer, see `transformers`."""
    return transformers.builder(_model_of, _normal)
