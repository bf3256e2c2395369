# SPDX-License-Identifier: Apache-2.0
"""Which axes of a node's outputs run over tokens, given those of its inputs; None where it does not keep tokens apart.

A node keeps tokens apart if each token of its result depends on that token alone (and, with several axes of tokens, as
in attention scores, on that pair). Such a node does the same work on fewer tokens; any other one needs them all.
"""

from collections.abc import Callable, Mapping
from math import prod

import onnx_ir as ir

from sparsec.compiler.graph import attribute, constant_of

Shape = tuple[int, ...]
Axes = tuple[int, ...]


class Tokens:
    """What the rules ask: shapes as they were before any token merged, and the axes over tokens of each value."""

    def __init__(self, shapes: Mapping[ir.Value, Shape], axes: Mapping[ir.Value, Axes]) -> None:
        self._shapes, self._axes = shapes, axes

    def shape(self, value: ir.Value | None) -> Shape:
        """The shape before merging."""
        assert value is not None
        return self._shapes[value]

    def axes(self, value: ir.Value | None) -> Axes:
        """Axes over tokens, ascending; none where nothing has merged."""
        return self._axes.get(value, ()) if value is not None else ()


Rule = Callable[[ir.Node, Tokens], list[Axes] | None]


def token_axes(node: ir.Node, tokens: Tokens, contracts: bool) -> list[Axes] | None:
    """Axes over tokens of each output.

    Args:
        node: One that reads tokens.
        tokens: What is known of its inputs.
        contracts: Whether it may mix tokens: softmax and context product of an attention that knows how many
            original tokens each token stands for.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    if contracts:
        return _CONTRACTING[node.op_type](node, tokens)
    rule = _RULES.get(node.op_type)
    return None if rule is None else rule(node, tokens)


def _elementwise(node: ir.Node, tokens: Tokens) -> list[Axes] | None:
    """All operands are broadcast; one without tokens must be the same for all of them."""
    rank = len(tokens.shape(node.outputs[0]))
    operands = [value for value in node.inputs if value is not None]
    merged = {a + rank - len(tokens.shape(value)) for value in operands for a in tokens.axes(value)}
    alike = all(_broadcasts(tokens, value, axis - rank) for value in operands for axis in merged)
    return [tuple(sorted(merged))] if alike else None


def _unary(node: ir.Node, tokens: Tokens) -> list[Axes] | None:
    """The first input alone has tokens; the others are numbers."""
    plain = all(value is None or prod(tokens.shape(value)) == 1 for value in node.inputs[1:])
    return [tokens.axes(node.inputs[0])] if plain else None


def _first(node: ir.Node, tokens: Tokens) -> list[Axes] | None:
    """CastLike: of the second input, only its type counts."""
    return [tokens.axes(node.inputs[0])]


def _along_axis(node: ir.Node, tokens: Tokens) -> list[Axes] | None:
    """Softmax: over an axis that is not one of tokens."""
    axes = tokens.axes(node.inputs[0])
    rank = len(tokens.shape(node.inputs[0]))
    return None if attribute(node, "axis", -1) % rank in axes else [axes]


def _normalization(node: ir.Node, tokens: Tokens) -> list[Axes] | None:
    """LayerNormalization and RMSNormalization: over the axes from `axis` on."""
    axes = tokens.axes(node.inputs[0])
    rank = len(tokens.shape(node.inputs[0]))
    plain = not any(tokens.axes(value) for value in node.inputs[1:]) and len(node.outputs) == 1
    return [axes] if plain and max(axes) < attribute(node, "axis", -1) % rank else None


def _matmul(node: ir.Node, tokens: Tokens) -> list[Axes] | None:
    a, b = node.inputs
    ranks = [len(tokens.shape(value)) for value in (a, b)]
    if min(ranks) < 2 or ranks[0] - 1 in tokens.axes(a) or ranks[1] - 2 in tokens.axes(b):
        return None
    return _product(node, tokens)


def _product(node: ir.Node, tokens: Tokens) -> list[Axes] | None:
    """Rows of the first and columns of the second operand; leading axes are broadcast."""
    rank = len(tokens.shape(node.outputs[0]))
    found: set[int] = set()
    for value, dropped in zip(node.inputs, (-1, -2), strict=True):
        own = len(tokens.shape(value))
        found |= {axis + rank - own for axis in tokens.axes(value) if axis != own + dropped}
    leading = [axis - rank for axis in found if axis < rank - 2]
    alike = all(_broadcasts(tokens, value, axis) for value in node.inputs for axis in leading)
    return [tuple(sorted(found))] if alike else None


def _broadcasts(tokens: Tokens, value: ir.Value | None, axis: int) -> bool:
    """Whether a value has tokens along an axis counted from the last one, or the same for all of them."""
    shape = tokens.shape(value)
    place = axis + len(shape)
    return place < 0 or place in tokens.axes(value) or shape[place] == 1


def _context(node: ir.Node, tokens: Tokens) -> list[Axes] | None:
    """Weights times values: tokens are summed over on both sides."""
    a, b = node.inputs
    summed = len(tokens.shape(a)) - 1 in tokens.axes(a) and len(tokens.shape(b)) - 2 in tokens.axes(b)
    return _product(node, tokens) if summed else None


def _gemm(node: ir.Node, tokens: Tokens) -> list[Axes] | None:
    plain = tokens.axes(node.inputs[0]) == (0,) and not attribute(node, "transA", 0)
    others = not any(tokens.axes(value) for value in node.inputs[1:])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    repeated = bias is None or len(tokens.shape(bias)) < 2 or tokens.shape(bias)[0] == 1
    return [(0,)] if plain and others and repeated else None


def _reshape(node: ir.Node, tokens: Tokens) -> list[Axes] | None:
    """An axis stays if as much lies before it, and it is as long, in the old shape and in the new one."""
    old, new = tokens.shape(node.inputs[0]), tokens.shape(node.outputs[0])
    found = [_same_axis(old, new, axis) for axis in tokens.axes(node.inputs[0])]
    return None if None in found else [tuple(axis for axis in found if axis is not None)]


def _same_axis(old: Shape, new: Shape, axis: int) -> int | None:
    fitting = (a for a, size in enumerate(new) if size == old[axis] and prod(new[:a]) == prod(old[:axis]))
    return next(fitting, None)


def _transpose(node: ir.Node, tokens: Tokens) -> list[Axes] | None:
    rank = len(tokens.shape(node.inputs[0]))
    order = list(attribute(node, "perm") or reversed(range(rank)))
    return [tuple(sorted(order.index(axis) for axis in tokens.axes(node.inputs[0])))]


def _reduce(node: ir.Node, tokens: Tokens) -> list[Axes] | None:
    rank = len(tokens.shape(node.inputs[0]))
    given = constant_of(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes")
    reduced = {int(axis) % rank for axis in given} if given is not None else set(range(rank))
    axes = tokens.axes(node.inputs[0])
    if reduced & set(axes):
        return None
    kept = attribute(node, "keepdims", 1)
    return [tuple(axis - (0 if kept else sum(r < axis for r in reduced)) for axis in axes)]


def _slice(node: ir.Node, tokens: Tokens) -> list[Axes] | None:
    rank, axes = len(tokens.shape(node.inputs[0])), tokens.axes(node.inputs[0])
    given = constant_of(node.inputs[3]) if len(node.inputs) > 3 else None
    cut = range(rank) if given is None else [int(axis) % rank for axis in given]
    return None if set(cut) & set(axes) else [axes]


def _split(node: ir.Node, tokens: Tokens) -> list[Axes] | None:
    rank, axes = len(tokens.shape(node.inputs[0])), tokens.axes(node.inputs[0])
    return None if attribute(node, "axis", 0) % rank in axes else [axes] * len(node.outputs)


def _gather(node: ir.Node, tokens: Tokens) -> list[Axes] | None:
    rank, axes = len(tokens.shape(node.inputs[0])), tokens.axes(node.inputs[0])
    picked = attribute(node, "axis", 0) % rank
    if picked in axes or tokens.axes(node.inputs[1]):
        return None
    wider = len(tokens.shape(node.inputs[1])) - 1
    return [tuple(axis + (wider if axis > picked else 0) for axis in axes)]


def _concat(node: ir.Node, tokens: Tokens) -> list[Axes] | None:
    found = {tokens.axes(value) for value in node.inputs}
    rank = len(tokens.shape(node.outputs[0]))
    axes = next(iter(found))
    return [axes] if len(found) == 1 and attribute(node, "axis", 0) % rank not in axes else None


_ELEMENTWISE = ("Add", "Div", "Equal", "Greater", "Less", "Max", "Mean", "Min", "Mul", "Pow", "Sub", "Sum", "Where")
_UNARY = (
    *("Abs", "Cast", "Ceil", "Celu", "Clip", "Cos", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round"),
    *("Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu"),
)
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _along_axis),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _normalization),
    **dict.fromkeys(("Squeeze", "Unsqueeze", "Reshape"), _reshape),
    **{f"Reduce{kind}": _reduce for kind in ("L1", "L2", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")},
    "CastLike": _first,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Transpose": _transpose,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Concat": _concat,
}
_CONTRACTING: Mapping[str, Rule] = {"Softmax": _unary, "MatMul": _context}
