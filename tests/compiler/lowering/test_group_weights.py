# SPDX-License-Identifier: Apache-2.0
"""Weights in 4-bit groups: which op they become, run by the numpy interpreter against onnxruntime."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.golden import relative_error
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.lowering import ops
from sparsec.compiler.lowering.groups import groups_of, join, split
from sparsec.compiler.lowering.lower import lower
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.compiler.registry import parse_pass

_spec = importlib.util.spec_from_file_location("interpreter", Path(__file__).with_name("interpreter.py"))
interpreter = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(interpreter)

GEMM = "g (float[{n},64] x) => (float[{n},9] y) {{ m = Gemm<{options}>(x, w, b) y = Relu(m) }}"
MATMUL = "g (float[{n},64] x) => (float[{n},9] y) {{ m = MatMul(x, w) s = Add(m, b) y = Relu(s) }}"
SYMMETRIC = "quantize{bits=4 group=16 act=none}"
ASYMMETRIC = "quantize{bits=4 group=32 symmetric=false act=none}"
SPARSE = "gqsa{group=16 density=0.5 update=none score=magnitude min_weights=1}"


def compressed(text, passes, inputs_last=True):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((9, 64) if inputs_last else (64, 9)).astype(np.float32)
    tensors = [ir.tensor(weight, name="w"), ir.tensor(rng.standard_normal(9).astype(np.float32), name="b")]
    head = '<ir_version: 10, opset_import: ["": 21]>\n'
    model = load_onnx(ir.from_onnx_text(head + text, initializers=tensors))
    return PassManager([parse_pass(p) for p in passes]).run(model, PassContext()).model


def program(model, **kernels):
    backend = replace(interpreter.BACKEND, kernels={**interpreter.BACKEND.kernels, **kernels})
    found = lower(model, backend, "test")
    feeds = {"x": np.random.default_rng(1).standard_normal(model.graph.inputs[0].shape.numpy()).astype(np.float32)}
    assert relative_error(interpreter.run(found, feeds)["y"], Oracle(model).run(feeds)["y"]) < 1e-5
    return found


def op_of(found):
    return next(spec.op for spec in found.specs.values() if isinstance(spec.op, (ops.Linear, ops.GroupedLinear)))


@pytest.mark.parametrize(
    ("text", "last"),
    [(GEMM.format(n=1, options="transB=1"), True), (MATMUL.format(n=3), False)],
    ids=["gemm", "matmul"],
)
@pytest.mark.parametrize(("passes", "group"), [(SYMMETRIC, 16), (ASYMMETRIC, 32), (SPARSE, 16)])
def test_groups_become_an_op_of_their_own(text, last, passes, group):
    found = program(compressed(text, [passes], last))
    op = op_of(found)
    assert isinstance(op, ops.GroupedLinear)
    assert (op.inputs, op.outputs, op.group) == (64, 9, group)
    assert (found.layers[0].precision, found.layers[0].kernel) == ("int4", "GroupedLinear dense")


def test_groups_stay_until_float32_is_far_cheaper():
    class Dear(interpreter.Numpy):
        def cost(self, spec, weight, profile):
            return price

    model = compressed(GEMM.format(n=1, options="transB=1"), [ASYMMETRIC])
    price = 1.9
    found = program(model, GroupedLinear=Dear("GroupedLinear", ops.GroupedLinear))
    assert isinstance(op_of(found), ops.GroupedLinear)
    price = 2.1
    found = program(model, GroupedLinear=Dear("GroupedLinear", ops.GroupedLinear))
    assert isinstance(op_of(found), ops.Linear)
    layer = found.layers[0]
    assert (layer.precision, layer.kernel) == ("float32", "Linear dense (int4(group32,asymmetric) as float32)")


def test_no_kernel_for_groups_is_float32():
    class Never(interpreter.Numpy):
        def candidates(self, op, pattern, lanes):
            return ()

    model = compressed(GEMM.format(n=1, options="transB=1"), [ASYMMETRIC])
    assert isinstance(op_of(program(model, GroupedLinear=Never("GroupedLinear", ops.GroupedLinear))), ops.Linear)


@pytest.mark.parametrize(
    ("passes", "text"),
    [
        ("quantize{bits=5 group=16 act=none}", GEMM.format(n=1, options="transB=1")),
        ("quantize{bits=4 group=24 act=none}", GEMM.format(n=1, options="transB=1")),
        (SYMMETRIC, GEMM.format(n=1, options="transB=1, alpha=0.5")),
    ],
    ids=["more bits", "a shorter last group", "alpha"],
)
def test_what_stays_float32(passes, text):
    found = program(compressed(text, [passes]))
    assert isinstance(op_of(found), ops.Linear)
    assert found.layers[0].kernel.startswith("Linear dense (int")


def test_the_one_array_says_what_the_tensor_says():
    model = compressed(GEMM.format(n=1, options="transB=1"), [SPARSE])
    tensor = model.graph.initializers["w"].const_value
    words = join(groups_of(tensor))
    np.testing.assert_array_equal(split(words, 16).values, tensor.numpy())
    np.testing.assert_array_equal(words != 0, tensor.mask)
