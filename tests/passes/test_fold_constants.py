# SPDX-License-Identifier: Apache-2.0
import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.errors import PassError, RecipeError
from sparsec.compiler.pass_manager import PassManager
from sparsec.compiler.registry import parse_pass
from sparsec.passes.fold_constants import FoldConstants

HEADER = '<ir_version: 10, opset_import: ["": 21]>\n'


def _raw(graph, **weights):
    """A model as it stands, without the importer's own folding."""
    tensors = [ir.tensor(array, name=name) for name, array in weights.items()]
    return ir.from_onnx_text(HEADER + graph, initializers=tensors)


def _run(model):
    return PassManager([FoldConstants()]).run(model)


def test_folds_constants_and_shape_arithmetic(run, ops, normal):
    model = _raw(
        "g (float[2,3] x) => (float[2,3] y) "
        "{ t = Transpose(w) m = MatMul(x, t) s = Shape(x) z = Add(s, s) r = Div(z, two) y = Reshape(m, r) }",
        w=normal(3, 3),
        two=np.array([2, 2]),
    )
    result = _run(model)
    assert result.changed
    assert ops(result.model) == ["MatMul", "Reshape"]
    np.testing.assert_array_equal(run(result.model)["y"], run(model)["y"])
    assert not _run(result.model).changed


def test_leaves_quantize_nodes_and_computed_values(ops, normal):
    model = _raw(
        "g (float[2,3] x) => (float[2,3] y) { d = DequantizeLinear(q, s) y = Add(x, d) }",
        q=np.ones((2, 3), np.int8),
        s=np.float32(0.5),
    )
    result = _run(model)
    assert not result.changed
    assert ops(result.model) == ["DequantizeLinear", "Add"]


def test_refuses_unknown_shapes():
    model = _raw("g (float[n,3] x) => (float[n,3] y) { y = Relu(x) }")
    with pytest.raises(PassError, match=r"Pass 'fold-constants' needs inputs of known shape\. Pin them with --shape"):
        _run(model)


def test_has_no_options():
    with pytest.raises(RecipeError, match="Pass 'fold-constants': Unknown option 'limit'"):
        parse_pass("fold-constants{limit=1}")
