# SPDX-License-Identifier: Apache-2.0
"""Torch modules: traced, exported, imported, with layers named after their place in the module."""

import subprocess
import sys

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from sparsec.compiler.errors import ModelError, ToolchainError
from sparsec.compiler.importers import load_model

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="module")
def module():
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8))
            self.head = torch.nn.Linear(8, 5)
            self.drop = torch.nn.Dropout(0.5)

        def forward(self, image):
            features = torch.relu(self.stem(image)).mean((2, 3))
            first, second = torch.split(self.drop(self.head(features)), [2, 3], 1)
            return torch.cat([second, first], 1)

    torch.manual_seed(0)
    return Net().train()


@pytest.fixture(scope="module")
def model(module):
    return load_model(module, example_inputs=(torch.zeros(1, 3, 8, 8),))


def test_same_numbers(module, model: ir.Model) -> None:
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": image.numpy()})
    module.eval()
    expected = module(image).detach().numpy()
    module.train()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_layers_bear_their_path(model: ir.Model) -> None:
    names = {node.name: node.op_type for node in model.graph}
    assert names["stem.0"] == "Conv"
    assert names["stem.1"] == "BatchNormalization"
    assert names["head"] == "Gemm"


def test_the_module_is_left_as_it_was(module, model: ir.Model) -> None:
    assert module.training
    assert module.drop.training
    before = model.graph.initializers["head.weight"].const_value.numpy().copy()  # type: ignore[union-attr]
    with torch.no_grad():
        module.head.weight.add_(1)
    np.testing.assert_array_equal(model.graph.initializers["head.weight"].const_value.numpy(), before)  # type: ignore[union-attr]
    with torch.no_grad():
        module.head.weight.sub_(1)


def test_exported_program_with_dynamic_batch() -> None:
    batch = torch.export.Dim("batch")
    program = torch.export.export(torch.nn.Linear(4, 2), (torch.zeros(2, 4),), dynamic_shapes=({0: batch},))
    said: list[str] = []
    model = load_model(program, reporter=said.append)
    assert [list(value.shape.numpy()) for value in model.graph.outputs] == [[1, 2]]  # type: ignore[union-attr]
    assert len(said) == 1


def test_no_example_inputs() -> None:
    with pytest.raises(ModelError, match="needs example inputs"):
        load_model(torch.nn.Linear(4, 2))


def test_module_that_cannot_be_traced() -> None:
    with pytest.raises(ModelError, match="torch cannot trace the module"):
        load_model(torch.nn.Linear(4, 2), example_inputs=(torch.zeros(2, 5),))


def test_tensor_is_no_module() -> None:
    with pytest.raises(ModelError, match=r"torch.nn.Module .* was expected, not 'Tensor'"):
        load_model(torch.zeros(2))


def test_missing_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = torch.nn.Linear(4, 2)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ToolchainError, match=r"sparsec\[torch\]"):
        load_model(linear, example_inputs=())


def test_importing_an_onnx_model_does_not_load_torch() -> None:
    code = (
        "import sys, onnx.parser, sparsec.compiler.importers as importers\n"
        "text = '<ir_version: 8, opset_import: [\"\" : 17]> g (float[1] x) => (float[1] y) { y = Abs(x) }'\n"
        "importers.load_model(onnx.parser.parse_model(text))\n"
        "assert 'torch' not in sys.modules and 'onnxruntime' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
