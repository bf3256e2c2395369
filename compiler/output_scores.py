# SPDX-License-Identifier: Apache-2.0
"""Which outputs hold scores, of classes or of words, and which hold values: read off the nodes that compute them."""

import onnx_ir as ir

from sparsec.compiler.graph import constant_of

_SCORING = ("MatMul", "Gemm", "Softmax", "LogSoftmax")
_SAME = ("Add", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze")
"""Operators that leave scores scores, if their last axis stays as long as it was."""


def scoring_node(value: ir.Value | None) -> ir.Node | None:
    """The product or softmax that makes a value, through sums with constants, casts and reshapes; None without one."""
    while value is not None and (node := value.producer()) is not None and node.domain in ("", "ai.onnx"):
        if node.op_type in _SCORING:
            return node
        computed = [operand for operand in node.inputs if operand is not None and constant_of(operand) is None]
        if node.op_type not in _SAME or len(computed) != 1 or not _keeps_last(computed[0], value):
            return None
        value = computed[0]
    return None


def token_scores(model: ir.Model) -> frozenset[str]:
    """Outputs ``[batch, tokens, scores]`` that hold scores of tokens: a matrix product or softmax makes them."""
    outputs = [value for value in model.graph.outputs if value.shape is not None and len(value.shape) == 3]
    return frozenset(str(value.name) for value in outputs if scoring_node(value) is not None)


def _keeps_last(before: ir.Value, after: ir.Value) -> bool:
    """Whether the last axis is as long after a node as before it, as far as the shapes are known."""
    return not before.shape or not after.shape or before.shape[-1] == after.shape[-1]
