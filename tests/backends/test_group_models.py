# SPDX-License-Identifier: Apache-2.0
"""A small network with weights in 4-bit groups, compiled for each target, against onnxruntime."""

import shutil

import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler import driver
from sparsec.compiler.errors import TargetError
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.compiler.registry import parse_pass

GRAPH = """<ir_version: 10, opset_import: ["": 21]>
g (float[{n},64] x) => (float[{n},37] y) {{
  a = Gemm<transB=1>(x, w0, b0)
  r = Relu(a)
  s = MatMul(r, w1)
  t = Add(s, r)
  y = MatMul(t, w2)
}}"""
PASSES = {
    "quantize": "quantize{bits=4 group=16 act=none}",
    "gqsa": "gqsa{density=0.3 update=none score=magnitude min_weights=1}",
}
NEED_QEMU = (
    pytest.mark.qemu,
    pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="found no qemu-aarch64 (Debian: qemu-user)"),
)


def network(tokens):
    rng = np.random.default_rng(0)
    shapes = {"w0": (320, 64), "b0": (320,), "w1": (320, 320), "w2": (320, 37)}
    tensors = [ir.tensor(rng.standard_normal(shape).astype(np.float32), name=n) for n, shape in shapes.items()]
    return load_onnx(ir.from_onnx_text(GRAPH.format(n=tokens), initializers=tensors))


@pytest.mark.parametrize("target", ["x86", "host", "wasm", pytest.param("arm", marks=NEED_QEMU)])
@pytest.mark.parametrize(("name", "tokens"), [("quantize", 1), ("gqsa", 1), ("gqsa", 5)])
def test_compiled_groups_match_onnxruntime(target, name, tokens, tmp_path):
    model = network(tokens)
    expected = PassManager([parse_pass(PASSES[name])]).run(model, PassContext()).model
    x = np.random.default_rng(1).standard_normal((tokens, 64)).astype(np.float32)
    x[0, 5] = 300.0  # an outlier, as language models have
    right = Oracle(expected).run({"x": x})["y"]
    with driver.compile(model, target, output=tmp_path / "out", passes=[PASSES[name]], name="net") as artifact:
        try:
            found = artifact.run({"x": x})["y"]
        except TargetError as error:
            pytest.skip(str(error))
        assert np.linalg.norm(found - right) / np.linalg.norm(right) < 1e-5
        kernels = [layer["kernel"] for layer in artifact.report()["layers"] if layer["kernel"].startswith("group")]
    assert kernels
    if name == "gqsa":
        assert any(kernel == "group-sparse block(1x16)" for kernel in kernels)


@pytest.mark.parametrize("tokens", [1, 12])
def test_bits_do_not_depend_on_the_number_of_threads(tokens, tmp_path):
    x = np.random.default_rng(1).standard_normal((tokens, 64)).astype(np.float32)
    found = []
    for threads in (1, 2):
        options = {"passes": [PASSES["gqsa"]], "name": "net", "threads": threads}
        with driver.compile(network(tokens), "host", output=tmp_path / str(threads), **options) as artifact:
            found.append(artifact.run({"x": x})["y"])
    np.testing.assert_array_equal(*found)
