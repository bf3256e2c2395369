# SPDX-License-Identifier: Apache-2.0
"""What the importers' tests share: import a model and compare it with the original in onnxruntime."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from sparsec.compiler.importers.onnx import load_onnx

Import = Callable[..., ir.Model]


def _run(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [info.name for info in session.get_outputs()]
    wanted = {info.name: inputs[info.name] for info in session.get_inputs()}
    return dict(zip(names, session.run(None, wanted), strict=True))


def _inputs(model: ir.Model) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    found = {}
    for value in model.graph.inputs:
        shape, dtype = tuple(int(d) for d in value.shape.numpy()), value.dtype.numpy()  # type: ignore[union-attr]
        array = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 2, shape)
        found[str(value.name)] = array.astype(dtype)
    return found


@pytest.fixture
def import_same() -> Import:
    """Import a model; names of inputs and outputs and all numbers must be those of the original."""

    def run(
        model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None, tolerance: float = 1e-6
    ) -> ir.Model:
        imported = load_onnx(model, shapes)
        weights = {tensor.name for tensor in model.graph.initializer}
        assert [v.name for v in imported.graph.inputs] == [i.name for i in model.graph.input if i.name not in weights]
        inputs = _inputs(imported)
        ours, theirs = _run(ir.to_proto(imported), inputs), _run(model, inputs)
        assert list(ours) == list(theirs)
        for name, array in theirs.items():
            np.testing.assert_allclose(ours[name], array, rtol=1e-5, atol=1e-6, strict=True)
        _check_promises(imported)
        return imported

    return run


def _check_promises(model: ir.Model) -> None:
    """What every imported model promises to later stages."""
    assert dict(model.opset_imports).get("", 27) == 27
    names = [node.name for node in model.graph]
    assert all(names)
    assert len(set(names)) == len(names)
    for node in model.graph:
        assert node.op_type not in ("Constant", "Shape", "Dropout")
        assert node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
        for value in node.outputs:
            assert not value.name or (value.type is not None and value.shape is not None and value.shape.is_static())
    assert all(value.producer() is not None for value in model.graph.outputs)
    assert all(value.uses() for value in model.graph.initializers.values())


@pytest.fixture
def parse() -> Callable[..., onnx.ModelProto]:
    """A model from the text of its graph, and of local functions behind it."""

    def run(graph: str, opset: int = 17, functions: str = "", domains: str = "") -> onnx.ModelProto:
        header = f'<ir_version: 8, opset_import: ["" : {opset}{domains}]> '
        return onnx.parser.parse_model(header + graph + functions)

    return run


@pytest.fixture
def op_types() -> Callable[[ir.Model], list[str]]:
    """The operators of a model, in order."""
    return lambda model: [node.op_type for node in model.graph]
