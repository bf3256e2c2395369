# SPDX-License-Identifier: Apache-2.0
"""Every cap of the front end, in one place: what a model file may ask of this process."""

from typing import Final

OPSET: Final = 27
"""The one opset of an imported model: the newest whose QuantizeLinear onnxruntime 1.32 still executes."""

IR_VERSION: Final = 13
"""The ONNX file format version that goes with OPSET."""

OLDEST_OPSET: Final = 6

MAX_FILE_BYTES: Final = 2**31 - 1
"""Protobuf's own limit, for the model file and for what it weighs with its external data."""

MAX_TENSOR_BYTES: Final = 2**31 - 1
"""One weight, or one value between two nodes."""

MAX_MESSAGES: Final = 2_000_000
"""Protobuf messages in a file; each costs a few hundred bytes once parsed."""

MAX_MESSAGE_DEPTH: Final = 96
"""Nesting of protobuf messages; protobuf itself gives up at 100."""

MAX_GRAPH_DEPTH: Final = 24
"""Nesting of graphs inside nodes inside graphs."""

MAX_NODES: Final = 200_000
"""Nodes of a model, once its functions are inlined."""

MAX_RANK: Final = 32

MAX_FOLDED_BYTES: Final = 64 * 2**20
"""The largest constant that folding may create where there was a node."""

MAX_FOLDED_TOTAL_BYTES: Final = 256 * 2**20
"""All constants that folding may create, beyond twice the bytes of the model's own weights."""

MAX_SHAPE_ELEMENTS: Final = 4096
"""The longest constant that is read as a list of sizes or positions."""

SMALL_WEIGHT_ELEMENTS: Final = 1024
"""Weights up to here travel along to ONNX's C++ code, which may need their values; larger ones stay behind."""

FOLDING_ROUNDS: Final = 8
"""How often shape inference and constant folding alternate before the importer gives up."""

MAX_CALL_DEPTH: Final = 64
"""How deep local functions may call each other."""

NOT_IN_ONNXRUNTIME: Final = frozenset(("Swish",))
"""Operators with a defining function that onnxruntime does not run in opset OPSET; every stage must run there."""

LOOPING_BODIES: Final = frozenset(("AffineGrid", "LinearAttention", "Range", "SequenceMap"))
"""Operators whose defining function has a branch or a loop; expanding them leads nowhere."""
