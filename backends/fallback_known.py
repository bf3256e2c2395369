# SPDX-License-Identifier: Apache-2.0
"""Uses of ONNX operators that the fallback refuses before TVM sees them, and why."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]
Check = Callable[[ir.Node, Sequence[Array | None]], str]
"""Why this use of an operator is refused; empty if it is not."""

DATA_DEPENDENT = ("NonZero", "Unique", "Compress", "NonMaxSuppression", "StringNormalizer", "TfIdfVectorizer")
KNOWN_WRONG: Mapping[str, Check] = {}
"""By operator: uses that TVM's front end accepts and computes wrongly."""


def refusal(node: ir.Node, constants: Sequence[Array | None]) -> str:
    """Why a node is refused, as a sentence; empty if TVM may try it."""
    if node.domain not in ("", "ai.onnx"):
        return f"it is of the domain '{node.domain}'."
    if node.op_type in DATA_DEPENDENT:
        return "the shape of its result depends on the data."
    if any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    ):
        return "it runs a graph of its own."
    check = KNOWN_WRONG.get(node.op_type)
    return check(node, constants) if check else ""
