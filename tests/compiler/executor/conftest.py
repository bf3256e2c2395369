# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.importers.onnx import load_onnx


def _model_of(graph: str, opset: int = 21, **weights: np.ndarray) -> ir.Model:
    text = f'<ir_version: 10, opset_import: ["": {opset}]>\n{graph}'
    tensors = [ir.tensor(array, name=name) for name, array in weights.items()]
    return load_onnx(ir.from_onnx_text(text, initializers=tensors))


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def model_of() -> Callable[..., ir.Model]:
    """Import a graph written in ONNX's text form; weights by name."""
    return _model_of


@pytest.fixture
def normal() -> Callable[..., np.ndarray]:
    """Normal float32 numbers of a shape, from a seed."""
    return _normal
