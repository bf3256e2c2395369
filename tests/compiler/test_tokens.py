# SPDX-License-Identifier: Apache-2.0
"""The bodies of the token operators in onnxruntime: the same decisions as the kernels', and refused where altered."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sparsec.backends.kernels.match_tokens import MatchTokensKernel
from sparsec.backends.kernels.merge_tokens import MergeTokensKernel
from sparsec.compiler.driver import compile
from sparsec.compiler.errors import ModelError, UnsupportedError
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.lowering.kernel import KernelSpec
from sparsec.compiler.lowering.ops import MatchTokens, MergeTokens
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.tokens import add_functions

INPUTS = "float[2,{t},4] metric, float[2,{t},1] size, float[2,{t},5] x"
BODY = """
  slot = sparsec.MatchTokens <r: int = {r}, protected: int = {p}> (metric, size)
  y, sizes = sparsec.MergeTokens <r: int = {r}> (x, size, slot)
  z = sparsec.UnmergeTokens (y, slot)
"""


def _proto(body=BODY, inputs=INPUTS, outputs="slot, y, sizes, z", **numbers):
    for name, number in {"t": 9, "r": 3, "p": 1, **numbers}.items():
        body, inputs = body.replace(f"{{{name}}}", str(number)), inputs.replace(f"{{{name}}}", str(number))
    head = '<ir_version: 10, opset_import: ["" : 21, "sparsec" : 1]>'
    model = ir.from_onnx_text(f"{head}\ng ({inputs}) => ({outputs}) {{ {body} }}")
    add_functions(model)
    return ir.to_proto(model)


CASES = [(tokens, guarded) for tokens in (2, 3, 8, 9, 32, 33) for guarded in range(4) if tokens >= guarded + 2]


@pytest.mark.parametrize(("tokens", "protected"), CASES)
def test_bodies_decide_as_the_kernels_do(tokens, protected):
    merged = (tokens - protected) // 2
    random = np.random.RandomState(tokens + protected)
    feeds = {
        "metric": random.standard_normal((2, tokens, 4)).astype(np.float32),
        "size": random.randint(0, 4, (2, tokens, 1)).astype(np.float32),
        "x": random.standard_normal((2, tokens, 5)).astype(np.float32),
    }
    found = Oracle(load_onnx(_proto(t=tokens, r=merged, p=protected))).run(feeds)
    matched = KernelSpec("match-tokens", MatchTokens(2, tokens, 4, merged, protected))
    slot = MatchTokensKernel().reference(matched, None, feeds["metric"], feeds["size"])
    np.testing.assert_array_equal(found["slot"], slot)
    spec = KernelSpec("merge-tokens", MergeTokens(2, tokens, tokens - merged, 5))
    both = MergeTokensKernel().reference(spec, None, feeds["x"], feeds["size"], slot)
    np.testing.assert_allclose(found["y"], both[..., :5], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["sizes"], both[..., 5:])
    np.testing.assert_array_equal(found["z"], np.take_along_axis(found["y"], slot[..., None], 1))


def test_shapes_are_inferred():
    model = load_onnx(_proto())
    assert [list(value.shape) for value in model.graph.outputs] == [[2, 9], [2, 6, 5], [2, 6, 1], [2, 9, 5]]
    assert [value.dtype for value in model.graph.outputs][:2] == [ir.DataType.INT64, ir.DataType.FLOAT]


def test_another_body_under_the_same_name_is_refused():
    proto = _proto()
    next(f for f in proto.functions if f.name == "MergeTokens").node[-1].op_type = "Mul"
    with pytest.raises(ModelError) as error:
        load_onnx(proto)
    assert str(error.value) == (
        "Function 'sparsec.MergeTokens': its body is not the one that this version of sparsec computes. "
        "Merge the tokens of the original model again."
    )


def test_bodies_survive_a_file(tmp_path):
    onnx.save(_proto(), tmp_path / "model.onnx")
    assert len(load_onnx(tmp_path / "model.onnx").functions) == 3


UNBOUNDED = {
    "slots from outside": ("y, z = sparsec.MergeTokens <r: int = 3> (x, size, slot)", "y"),
    "slots of a larger merge": (BODY.replace("MergeTokens <r: int = {r}>", "MergeTokens <r: int = 4>"), "y"),
    "tokens from outside": ("y = sparsec.UnmergeTokens (x, slot)", "y"),
}


@pytest.mark.parametrize("why", UNBOUNDED)
def test_slots_that_may_lie_outside_are_not_compiled(why):
    body, output = UNBOUNDED[why]
    inputs = INPUTS if "MatchTokens" in body else INPUTS + ", int64[2,{t}] slot"
    with pytest.raises(UnsupportedError, match=r"Layer 'y': operator '\w+' is not supported"):
        compile(_proto(body, inputs, output), "x86")
