# SPDX-License-Identifier: Apache-2.0
"""ONNX's own backend tests as models: each imports, or is refused with a SparsecError, and nothing else happens."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from onnx.backend.test.loader import load_model_tests

from sparsec.compiler.errors import SparsecError
from sparsec.compiler.importers.onnx import load_onnx

LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))


def node_models(start: int, step: int) -> Iterator[tuple[str, onnx.ModelProto]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    for case in cases[start::step]:
        yield case.name, case.model


def file_models(kind: str) -> Iterator[tuple[str, onnx.ModelProto]]:
    for case in load_model_tests(kind=kind):
        yield case.name, onnx.load(Path(case.model_dir) / "model.onnx")


def sweep(models: Iterator[tuple[str, onnx.ModelProto]]) -> tuple[int, dict[str, str]]:
    """Import all; the number that imported, and the messages of those refused. Anything else is raised."""
    imported, refused = 0, {}
    for name, proto in models:
        try:
            model = load_onnx(proto)
        except SparsecError as error:
            refused[name] = str(error)
            continue
        except Exception as error:
            pytest.fail(f"{name}: {type(error).__name__}: {error}")
        onnx.checker.check_model(ir.to_proto(model))
        imported += 1
    return imported, refused


def check(imported: int, refused: dict[str, str], share: float) -> None:
    """Enough imported, and refusals speak of what the user can see."""
    assert imported >= share * (imported + len(refused)), refused
    starts = ("Operator '", "Input '", "Output '", "Node '", "The model uses opset")
    for name, message in refused.items():
        assert message.startswith(starts), (name, message)
        assert " failed: " not in message or "conversion from opset" in message, (name, message)


def test_every_fourth_operator_case() -> None:
    check(*sweep(node_models(1, 4)), share=0.7)


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 2, 3])
def test_the_other_operator_cases(start: int) -> None:
    check(*sweep(node_models(start, 4)), share=0.7)


@pytest.mark.parametrize("kind", ["pytorch-operator", "pytorch-converted"])
def test_models_from_pytorch(kind: str) -> None:
    imported, refused = sweep(file_models(kind))
    check(imported, refused, share=0.95)


def test_small_models() -> None:
    check(*sweep(file_models("simple")), share=0.1)


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_real_topologies(path: Path) -> None:
    said: list[str] = []
    model = load_onnx(path, reporter=said.append)
    assert said == []
    assert all(value.shape is not None for node in model.graph for value in node.outputs)
    onnx.shape_inference.infer_shapes(ir.to_proto(model), strict_mode=True)
