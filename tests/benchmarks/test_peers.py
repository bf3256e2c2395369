# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks do with models, times and assembly before they measure anything."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import inner_loops, peers_layers
from benchmarks.timing import Milliseconds, interleave

ASSEMBLY = """
outer_only:
.LBB0_1:
	mov	x8, #0
.LBB0_2:
	ldr	q0, [x0, x8]
	fmla	v1.4s, v0.4s, v2.s[0]
	add	x8, x8, #16
	cmp	x8, #64
	b.ne	.LBB0_2
	b.ne	.LBB0_1
dots:
	mov	x9, #0
.LBB1_1:                                // %loop
	ldr	q3, [x1], #16
	str	q3, [sp, #16]
	sdot	v4.4s, v3.16b, v5.4b[1]
	sdot	v6.4s, v3.16b, v5.4b[2]
	subs	x9, x9, #1
	b.ne	.LBB1_1
	ret
"""


def network(*nodes, **constants):
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 6, 6])
    output = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in constants.items()]
    return helper.make_model(helper.make_graph(nodes, "g", [image], [output], tensors))


def conv(pads, stride=2, group=1):
    names = ["x", "w", "b"]
    return helper.make_node("Conv", names, ["y"], "conv", strides=[stride, stride], pads=pads, group=group)


WEIGHT = np.arange(3 * 2 * 3 * 3).reshape(3, 2, 3, 3)


def test_layers_turn_weights_to_channels_last_and_fuse_the_activation(tmp_path):
    clip = helper.make_node("Clip", ["y", "low", "high"], ["z"], "clip")
    peers_layers.write(network(conv([0, 0, 1, 1]), clip, w=WEIGHT, b=[1, 2, 3], low=0, high=6), tmp_path)
    described = json.loads((tmp_path / "layers.json").read_text())
    (layer,) = described["layers"]
    assert (layer["kind"], layer["relu6"], layer["pads"], described["output"]) == ("conv", True, [0, 0, 1, 1], "y")
    assert described["tensors"]["y"]["shape"] == [1, 3, 3, 3]
    assert described["tensors"]["x"]["shape"] == [1, 6, 6, 2]
    found = described["tensors"]["w"]
    data = (tmp_path / "layers.bin").read_bytes()[found["offset"] :][: found["bytes"]]
    assert np.array_equal(np.frombuffer(data, np.float32).reshape(found["shape"]), WEIGHT.transpose(0, 2, 3, 1))


def test_layers_keep_scales_and_see_through_quantizers(tmp_path):
    quantizer = [
        helper.make_node(f"{kind}Linear", [name, "scale", "zero"], [after])
        for kind, name, after in (("Quantize", "x", "codes"), ("Dequantize", "codes", "real"))
    ]
    node = helper.make_node("GlobalAveragePool", ["real"], ["y"])
    peers_layers.write(network(*quantizer, node, scale=0.5, zero=-3), tmp_path)
    described = json.loads((tmp_path / "layers.json").read_text())
    assert described["layers"][0]["inputs"] == ["x"]
    assert (described["tensors"]["x"]["scale"], described["tensors"]["x"]["zero"]) == ([0.5], [-3])


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (conv([1, 1, 1, 1]), r"'y': pads \[1, 1, 1, 1\], group 1; expected \[0, 0, 1, 1\], and 1 or 3"),
        (helper.make_node("Sin", ["x"], ["y"], "wave"), "Node 'wave': 'Sin' is none of the operators"),
    ],
)
def test_layers_refuse_what_peers_would_compute_otherwise(node, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        peers_layers.write(network(node, w=WEIGHT, b=[0, 0, 0]), tmp_path)


def test_the_hottest_loop_has_the_most_products_and_no_loop_inside():
    loop = inner_loops.hottest(ASSEMBLY)
    assert (loop.symbol, loop.products, len(loop.lines)) == ("dots", 32, 6)
    assert inner_loops.hottest(ASSEMBLY.partition("dots:")[0]).products == 4


def test_assembly_without_products_is_refused():
    with pytest.raises(ValueError, match="no loop with multiply-accumulates"):
        inner_loops.hottest(".L1:\n\tsubs x0, x0, #1\n\tb.ne .L1\n")


def test_a_contender_may_take_its_time_itself():
    found = interleave({"own": lambda: Milliseconds(1e6), "ours": lambda: None}, rounds=3)
    assert found["own"] == 1e6
    assert found["ours"] < 1e3


def test_the_network_of_stacks_is_valid_and_as_large_as_it_says():
    from benchmarks.peers_stacks import LAYERS, stack

    model = stack(8, 14, stem=True)
    onnx.checker.check_model(model, full_check=True)
    assert sum(node.op_type == "Conv" for node in model.graph.node) == LAYERS + 1
