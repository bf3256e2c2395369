# SPDX-License-Identifier: Apache-2.0
"""Token merging as operators of domain ``sparsec``, each with a body in standard ONNX that travels with the model.

The method is bipartite soft matching (Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023). Tokens at even
places (A) look for the most similar token at an odd place (B); the `r` of them that find the most similar one are
merged into it. What is left is ordered: protected tokens, kept tokens of A, tokens of B.

- ``MatchTokens(metric [batch, t, c], size [batch, t, 1]) -> slot int64 [batch, t]``: the new place of each token.
- ``MergeTokens(x [batch, t, d], size [batch, t, 1], slot) -> x [batch, t - r, d], size [batch, t - r, 1]``: the mean of
  each new token's members, weighted by their sizes; and the sum of these.
- ``UnmergeTokens(x [batch, n, ...], slot [batch, t]) -> [batch, t, ...]``: what stands at each token's place.

A token of size 0 is padding: it is merged before all others and adds nothing to a mean.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import onnx
import onnx_ir as ir
from onnx import helper, parser

from sparsec.compiler.errors import ModelError

DOMAIN = "sparsec"
VERSION = 1
LEAST_OPSET = 18
"""Of the standard operators in the bodies."""
MATCH, MERGE, UNMERGE = "MatchTokens", "MergeTokens", "UnmergeTokens"
OPERATORS = (MATCH, MERGE, UNMERGE)
PADDING = 1e-6
"""A token of smaller size counts as padding."""
TINY = 1e-12
"""The least length of a metric's vector that is divided by."""
LEAST_SIZE = 1e-30
"""The least size of a new token that is divided by."""
FIRST, PADDED, GUARDED = 2.0, -2.0, -3.0
"""Similarities beyond those of vectors: of padding in A, to padding in B, and of and to protected tokens."""

_MATCH = f"""
MatchTokens <r, protected> (metric, size) => (slot)
{{
  zero = Constant <value_ints = [0]> ()
  one = Constant <value_ints = [1]> ()
  two = Constant <value_ints = [2]> ()
  last = Constant <value_ints = [-1]> ()
  end = Constant <value_ints = [9223372036854775807]> ()
  zero_scalar = Constant <value_int = 0> ()
  one_scalar = Constant <value_int = 1> ()
  merged_scalar = Constant <value_int: int = @r> ()
  merged_count = Reshape (merged_scalar, one)
  guarded = Constant <value_int: int = @protected> ()
  guarded_b = Div (guarded, two)
  guarded_a = Sub (guarded, guarded_b)
  tiny = Constant <value_float = {TINY!r}> ()
  padding = Constant <value_float = {PADDING!r}> ()
  first = Constant <value_float = {FIRST!r}> ()
  padded = Constant <value_float = {PADDED!r}> ()
  never = Constant <value_float = {GUARDED!r}> ()

  squares = Mul (metric, metric)
  length_squared = ReduceSum <keepdims = 1> (squares, last)
  length_found = Sqrt (length_squared)
  length = Max (length_found, tiny)
  unit = Div (metric, length)
  a = Slice (unit, zero, end, one, two)
  b = Slice (unit, one, end, one, two)
  b_columns = Transpose <perm = [0, 2, 1]> (b)
  cosines = MatMul (a, b_columns)

  size_a = Slice (size, zero, end, one, two)
  size_b = Slice (size, one, end, one, two)
  size_row = Transpose <perm = [0, 2, 1]> (size_b)
  shape = Shape (cosines)
  rows = Gather (shape, one)
  columns = Gather (shape, two)
  batch = Gather (shape, zero)
  rows_scalar = Squeeze (rows)
  columns_scalar = Squeeze (columns)
  place_a = Range (zero_scalar, rows_scalar, one_scalar)
  place_b = Range (zero_scalar, columns_scalar, one_scalar)
  a_is_guarded = Less (place_a, guarded_a)
  b_is_guarded = Less (place_b, guarded_b)
  b_is_padding = Less (size_row, padding)
  among_real = Where (b_is_padding, padded, cosines)
  similar = Where (b_is_guarded, never, among_real)
  best_found = ReduceMax <keepdims = 0> (similar, last)
  partner = ArgMax <axis = -1, keepdims = 0, select_last_index = 0> (similar)
  size_a_flat = Squeeze (size_a, last)
  a_is_padding = Less (size_a_flat, padding)
  best_real = Where (a_is_padding, first, best_found)
  best = Where (a_is_guarded, never, best_real)

  values, chosen = TopK <axis = -1, largest = 1, sorted = 1> (best, merged_count)
  shape_a = Concat <axis = 0> (batch, rows)
  shape_b = Concat <axis = 0> (batch, columns)
  chosen_shape = Shape (chosen)
  nothing = Expand (zero, shape_a)
  ones = Expand (one, chosen_shape)
  merged = ScatterElements <axis = 1> (nothing, chosen, ones)
  is_merged = Equal (merged, one)
  kept = Sub (one, merged)
  kept_so_far = CumSum (kept, one)
  rank = Sub (kept_so_far, one)
  kept_slot = Add (rank, guarded_b)
  left = Sub (rows, merged_count)
  partner_slot = Add (partner, left)
  free_slot_a = Where (is_merged, partner_slot, kept_slot)
  guarded_slot_a = Mul (place_a, two)
  slot_a = Where (a_is_guarded, guarded_slot_a, free_slot_a)
  free_slot_b = Add (place_b, left)
  twice_b = Mul (place_b, two)
  guarded_slot_b = Add (twice_b, one)
  slot_b_row = Where (b_is_guarded, guarded_slot_b, free_slot_b)
  slot_b = Expand (slot_b_row, shape_b)

  both = Concat <axis = 1> (slot_a, slot_b)
  tokens = Add (rows_scalar, columns_scalar)
  place = Range (zero_scalar, tokens, one_scalar)
  half = Div (place, two)
  is_odd = Mod (place, two)
  behind_a = Mul (is_odd, rows)
  source = Add (half, behind_a)
  slot = Gather <axis = 1> (both, source)
}}
"""

_MERGE = f"""
MergeTokens <r> (x, size, slot) => (x_merged, size_merged)
{{
  zero = Constant <value_ints = [0]> ()
  one = Constant <value_ints = [1]> ()
  two = Constant <value_ints = [2]> ()
  last = Constant <value_ints = [-1]> ()
  merged_scalar = Constant <value_int: int = @r> ()
  merged_count = Reshape (merged_scalar, one)
  least = Constant <value_float = {LEAST_SIZE!r}> ()
  none = Constant <value_float = 0.0> ()
  shape = Shape (x)
  batch = Gather (shape, zero)
  tokens = Gather (shape, one)
  width = Gather (shape, two)
  left = Sub (tokens, merged_count)
  shape_merged = Concat <axis = 0> (batch, left, width)
  shape_sizes = Concat <axis = 0> (batch, left, one)
  column = Unsqueeze (slot, last)
  index = Expand (column, shape)
  weighted = Mul (x, size)
  empty = Expand (none, shape_merged)
  empty_sizes = Expand (none, shape_sizes)
  sums = ScatterElements <axis = 1, reduction = "add"> (empty, index, weighted)
  size_merged = ScatterElements <axis = 1, reduction = "add"> (empty_sizes, column, size)
  divisor = Max (size_merged, least)
  x_merged = Div (sums, divisor)
}}
"""

_UNMERGE = """
UnmergeTokens (x, slot) => (y)
{
  last = Constant <value_ints = [-1]> ()
  index = Unsqueeze (slot, last)
  y = GatherND <batch_dims = 1> (x, index)
}
"""

_BODIES: Mapping[str, str] = {MATCH: _MATCH, MERGE: _MERGE, UNMERGE: _UNMERGE}


def add_functions(model: ir.Model, names: tuple[str, ...] = OPERATORS) -> None:
    """Put the bodies of operators into a model, in the model's own opset, and import their domain.

    Args:
        model: A model of opset 18 or newer.
        names: Words of `OPERATORS`.
    """
    opset = model.graph.opset_imports[""]
    for name in names:
        function = ir.serde.deserialize_function(_parse(_BODIES[name], opset))
        model.functions[function.identifier()] = function
    model.graph.opset_imports[DOMAIN] = VERSION


def check_bodies(functions: Iterable[onnx.FunctionProto]) -> None:
    """Refuse functions that are called like one of the operators and do something else: kernels would not.

    Args:
        functions: Of a model that was read.

    Raises:
        ModelError: If a body differs from the one known here.
    """
    for function in functions:
        known = _BODIES.get(function.name) if function.domain == DOMAIN else None
        if known is not None and _meaning(function) != _meaning(_parse(known, LEAST_OPSET)):
            msg = (
                f"Function '{DOMAIN}.{function.name}': its body is not the one that this version of sparsec computes. "
                "Merge the tokens of the original model again."
            )
            raise ModelError(msg)


def _meaning(function: onnx.FunctionProto) -> object:
    """What a body says, whatever its nodes are called and in which order attributes stand."""
    nodes = [
        (node.domain, node.op_type, list(node.input), list(node.output), sorted(map(_attribute, node.attribute)))
        for node in function.node
    ]
    return sorted(function.attribute), list(function.input), list(function.output), nodes


def _attribute(attribute: onnx.AttributeProto) -> tuple[str, str, str]:
    return (
        attribute.name,
        attribute.ref_attr_name,
        "" if attribute.ref_attr_name else str(helper.get_attribute_value(attribute)),
    )


def most_mergeable(tokens: int, protected: int) -> int:
    """How many of the tokens can merge at once: those at even places, with one at an odd place left for each."""
    return max(0, (tokens - protected) // 2)


def is_token_operator(node: ir.Node, *op_types: str) -> bool:
    """Whether a node is one of the operators, or of those named."""
    return node.domain == DOMAIN and node.op_type in (op_types or OPERATORS)


def set_shapes(node: ir.Node) -> None:
    """Give one of the operators its outputs' types and shapes, in place, if those of its inputs are known.

    ONNX's inference does not look into the bodies far enough.
    """
    inputs = [value for value in node.inputs if value is not None and value.shape is not None]
    if not is_token_operator(node) or len(inputs) < len(node.inputs):
        return
    dims = [list(value.shape.dims) for value in inputs if value.shape is not None]
    kinds = (ir.TensorType(ir.DataType.INT64),) if node.op_type == MATCH else (inputs[0].type, inputs[0].type)
    for value, kind, shape in zip(node.outputs, kinds, _SHAPES[node.op_type](node, dims), strict=False):
        value.type, value.shape = kind, ir.Shape(shape)


_Dims = list[Any]


def _match_shapes(node: ir.Node, dims: list[_Dims]) -> list[_Dims]:
    return [dims[0][:2]]


def _merge_shapes(node: ir.Node, dims: list[_Dims]) -> list[_Dims]:
    batch, tokens, width = dims[0]
    left = tokens - node.attributes.get_int("r", 0) if isinstance(tokens, int) else None
    return [[batch, left, width], [batch, left, 1]]


def _unmerge_shapes(node: ir.Node, dims: list[_Dims]) -> list[_Dims]:
    return [[*dims[1], *dims[0][2:]]]


_SHAPES: Mapping[str, Callable[[ir.Node, list[_Dims]], list[_Dims]]] = {
    MATCH: _match_shapes,
    MERGE: _merge_shapes,
    UNMERGE: _unmerge_shapes,
}


def _parse(body: str, opset: int) -> onnx.FunctionProto:
    return parser.parse_function(f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>{body}')
