# SPDX-License-Identifier: Apache-2.0
"""Finds the self-attentions of a transformer as exporters write them, with the sum that each one's result goes into.

The form is softmax(q k^T, scaled, plus a bias) v; then nodes without another computed operand; then the residual sum
with the tokens that q, k and v were computed from. Between that sum and what follows, tokens may merge.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.compiler.graph import attribute, constant_of, only_consumer, scalar_of, shape_of, source_of
from sparsec.compiler.layers import layer_name

_LONGEST = 24
"""Nodes between attention and residual sum at most."""
_STEPS = 6
"""Nodes between scores and softmax at most."""
_SHAPED = ("Add", "Sub", "Mul", "Div", "Cast", "Where", "Equal", "Not", "And", "Or", "Less", "Greater")
"""Operators of a bias whose result repeats along an axis where their operands do."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One self-attention over tokens ``[batch, tokens, width]``.

    Attributes:
        softmax: Its input is ``[batch, heads, tokens, tokens]``, or ``[heads, tokens, tokens]`` for a batch of 1.
        scores: The MatMul of queries and keys, the keys being ``[..., depth, tokens]``.
        context: The MatMul of the softmax and the values.
        residual: The Add of its result and the tokens it read.
        masked: The Add that brings in the bias; None without one.
        bias: The same for all queries; None without one.
    """

    softmax: ir.Node
    scores: ir.Node
    context: ir.Node
    residual: ir.Node
    masked: ir.Node | None
    bias: ir.Value | None

    @property
    def name(self) -> str:
        """The softmax's name, by which recipes and reports speak of the block."""
        return layer_name(self.softmax)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Batch, tokens, width."""
        batch, tokens, width = shape_of(self.residual.outputs[0])
        return batch, tokens, width

    @property
    def keys(self) -> ir.Value:
        """``[..., depth, tokens]``."""
        value = self.scores.inputs[1]
        assert value is not None
        return value


def find_blocks(graph: ir.Graph) -> tuple[list[Block], list[tuple[str, str]]]:
    """All self-attentions in graph order; and the names of others, each with the reason why it is not one."""
    blocks: list[Block] = []
    others: list[tuple[str, str]] = []
    for node in graph:
        found = _block(node) if node.op_type == "Softmax" and node.domain in ("", "ai.onnx") else None
        if isinstance(found, Block) and blocks and found.bias is not blocks[0].bias:
            found = "its bias is another one than that of the attention before it"
        if isinstance(found, Block):
            blocks.append(found)
        elif found is not None:
            others.append((layer_name(node), found))
    return blocks, others


def ancestors(values: Sequence[ir.Value | None]) -> set[ir.Node]:
    """All nodes that values are computed from."""
    found: set[ir.Node] = set()
    waiting = [value for value in values if value is not None]
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            waiting += [value for value in node.inputs if value is not None]
    return found


def _comes_from(value: ir.Value | None, source: ir.Value | None) -> bool:
    return value is source or any(source in node.inputs for node in ancestors([value]))


@dataclass(frozen=True, slots=True)
class _Scores:
    product: ir.Node
    masked: ir.Node | None = None
    bias: ir.Value | None = None


def _block(softmax: ir.Node) -> Block | str | None:
    """The block; why it is none; or None for a softmax that is no attention's."""
    source = softmax.inputs[0]
    shape = shape_of(softmax.outputs[0])
    scores = _scores(source)
    if scores is None or len(shape) not in (3, 4) or attribute(softmax, "axis", -1) not in (-1, len(shape) - 1):
        return None
    if isinstance(scores, str):
        return scores
    if shape[-1] != shape[-2]:
        return "its queries and keys are not the same tokens"
    context = only_consumer(softmax.outputs[0])
    if context is None or context.op_type != "MatMul" or context.inputs[0] is not softmax.outputs[0]:
        return "its weights are not read by one product with values alone"
    residual = _residual(context)
    if residual is None:
        return "what it computes is not added to the tokens [batch, tokens, width] it reads"
    if scores.bias is not None and not _repeats(scores.bias, len(shape) - 2, len(shape)):
        return "its bias differs from query to query, as a causal mask or relative positions do"
    if scores.bias is not None and not _repeats(scores.bias, len(shape) - 3, len(shape)):
        return "its bias differs from head to head"
    block = Block(softmax, scores.product, context, residual, scores.masked, scores.bias)
    return _misfit(block, shape) or block


def _misfit(block: Block, shape: tuple[int, ...]) -> str:
    batch, tokens, _ = block.shape
    if tokens != shape[-1] or batch != (shape[0] if len(shape) == 4 else 1):
        return "its scores are not [batch, heads, tokens, tokens] of the tokens it is added to: it looks at windows"
    sides = [side for side in block.residual.inputs if block.context not in ancestors([side])]
    operands = [*block.scores.inputs, block.context.inputs[1]]
    if len(sides) != 1 or not all(_comes_from(operand, sides[0]) for operand in operands):
        return "its queries, keys and values are not all computed from the tokens it is added to"
    if block.residual.outputs[0].dtype != ir.DataType.FLOAT:
        return "its tokens are not float32"
    return ""


def _scores(value: ir.Value | None, steps: int = _STEPS) -> _Scores | str | None:
    """The product of queries and keys, upwards from the softmax, and the bias on the way."""
    node = source_of(value, "MatMul", "Add", "Mul", "Div", "Where")
    if node is None or not steps:
        return None
    computed = [operand for operand in node.inputs if operand is not None and constant_of(operand) is None]
    if node.op_type == "MatMul":
        return _Scores(node) if len(computed) == 2 else None
    if node.op_type == "Where":
        found = any(isinstance(_scores(operand, steps - 1), _Scores) for operand in computed)
        return "it is masked by Where; only a mask that is added to the scores can be followed" if found else None
    for main, other in (node.inputs[:2], node.inputs[1::-1]):
        inner = _scores(main, steps - 1)
        if inner is not None:
            return _with(node, inner, other)
    return None


def _with(node: ir.Node, inner: _Scores | str, other: ir.Value | None) -> _Scores | str:
    if isinstance(inner, str) or scalar_of(other) is not None:
        return inner
    if node.op_type != "Add":
        return f"its scores meet a tensor in '{layer_name(node)}' ({node.op_type})"
    return "it has more than one bias" if inner.bias is not None else _Scores(inner.product, node, other)


def _residual(context: ir.Node) -> ir.Node | None:
    """The Add of two computed values of one shape [batch, tokens, width], downwards along nodes without branches."""
    value = context.outputs[0]
    for _ in range(_LONGEST):
        node = only_consumer(value)
        if node is None or len(node.outputs) != 1:
            return None
        others = [other for other in node.inputs if other is not None and other is not value]
        if any(constant_of(other) is None for other in others):
            same = len(others) == 1 and shape_of(others[0]) == shape_of(node.outputs[0]) == shape_of(value)
            return node if node.op_type == "Add" and same and len(shape_of(value)) == 3 else None
        value = node.outputs[0]
    return None


def _repeats(value: ir.Value, axis: int, rank: int) -> bool:
    """Whether a value, aligned to `rank` axes, is the same all along `axis`."""
    shape = shape_of(value)
    own = axis - (rank - len(shape))
    if own < 0 or shape[own] == 1:
        return True
    array = constant_of(value)
    if array is not None:
        return bool((array == np.take(array, [0], axis=own)).all())
    node = source_of(value, "Expand", *_SHAPED)
    operands = [] if node is None else node.inputs[:1] if node.op_type == "Expand" else node.inputs
    return bool(operands) and all(v is not None and _repeats(v, own, len(shape)) for v in operands)


def leading_tokens(graph: ir.Graph, block: Block) -> int:
    """How many tokens before the others are special: learned ones put in front, or those that are read by themselves.

    Args:
        graph: The model's.
        block: The first attention.
    """
    shape = block.shape
    return max([0, *_prefixes(ancestors([block.residual.outputs[0]]), shape), *_readings(graph, shape)])


def _prefixes(nodes: set[ir.Node], shape: tuple[int, int, int]) -> Iterator[int]:
    """Constant tokens at the front of a Concat along the tokens."""
    for node in nodes:
        if node.op_type == "Concat" and shape_of(node.outputs[0]) == shape and attribute(node, "axis") in (1, -2):
            count = 0
            for value in node.inputs:
                if value is None or constant_of(value) is None:
                    break
                count += shape_of(value)[1]
            yield count if count < shape[1] else 0


def _readings(graph: ir.Graph, shape: tuple[int, int, int]) -> Iterator[int]:
    for node in graph:
        value = node.inputs[0] if node.inputs else None
        if node.op_type in ("Gather", "Slice") and value is not None and shape_of(value) == shape:
            last = last_token_read(node, 1)
            if last is not None and last < shape[1] // 2:
                yield last + 1


def last_token_read(node: ir.Node, axis: int) -> int | None:
    """The last place along an axis that a Gather or Slice reads, from the front; None if that is not known."""
    rank = len(shape_of(node.inputs[0])) if node.inputs[0] is not None else 0
    constants = [constant_of(value) for value in node.inputs[1:]]
    if not constants or any(array is None for array in constants):
        return None
    arrays = [np.ravel(array) for array in constants if array is not None]
    if node.op_type == "Gather":
        places = arrays[0] if attribute(node, "axis", 0) % rank == axis else np.array([-1])
    else:
        axes = [int(a) % rank for a in arrays[2]] if len(arrays) > 2 else list(range(len(arrays[0])))
        places = np.array([arrays[0].min(), arrays[1][0] - 1]) if axes == [axis] else np.array([-1])
    return int(places.max()) if places.size and places.min() >= 0 else None
