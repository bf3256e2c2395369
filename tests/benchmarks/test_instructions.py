# SPDX-License-Identifier: Apache-2.0
"""Counted instructions are those that were executed."""

import shutil

import numpy as np
import onnx
import pytest

from benchmarks import instructions
from benchmarks.instructions_qemu import compile_c, difference, emulate
from sparsec.compiler import driver

pytestmark = pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-aarch64 (Debian: qemu-user)")

PROGRAM = """
#include <stdlib.h>
int main(int words, char **word) {
  for (long i = atol(word[1]); i; i--) {
    __asm__ volatile(".arch_extension dotprod\\n .arch_extension i8mm\\n"
      "sdot v0.4s, v1.16b, v2.16b\\n udot v0.4s, v1.16b, v2.4b[3]\\n usdot v0.4s, v1.16b, v2.16b\\n"
      "smmla v0.4s, v1.16b, v2.16b\\n usmmla v0.4s, v1.16b, v2.16b\\n"
      "fmla v3.4s, v4.4s, v5.4s\\n fmla v3.4s, v4.4s, v5.s[1]\\n fmla v3.2d, v4.2d, v5.2d\\n" ::: "v0", "v3");
  }
}
"""


def test_each_kind_is_counted_by_itself(tmp_path):
    (tmp_path / "main.c").write_text(PROGRAM)
    target = ("-target", "aarch64-linux-musl", "-static", "-O1")
    compile_c((*target, str(tmp_path / "main.c"), "-o", str(tmp_path / "program")))
    first, last = (emulate([str(tmp_path / "program"), runs], tmp_path)[0] for runs in ("1000", "3000"))
    found = difference(first, last, 2000)
    assert (found.dots, found.matrix_products, found.multiply_adds) == (3, 2, 2)
    assert 10 <= found.total <= 14


def test_an_artifact_is_counted_without_its_start(tmp_path):
    text = '<ir_version: 10, opset_import: ["": 21]> g (float[64, 64] x) => (float[64, 64] y) { y = MatMul(x, w) }'
    model = onnx.parser.parse_model(text)
    weight = np.random.RandomState(0).normal(size=(64, 64)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    artifact = driver.compile(model, "arm+dotprod", output=tmp_path / "artifact")
    inputs = {"x": np.ones((64, 64), np.float32)}
    found = instructions.counts(artifact.folder, inputs)
    assert found.multiply_adds == pytest.approx(64**3 / 4, rel=0.05)
    assert found.multiply_adds < found.total < 3 * found.multiply_adds
    assert instructions.count(artifact.folder, inputs) == pytest.approx(found.total, rel=1e-3)
