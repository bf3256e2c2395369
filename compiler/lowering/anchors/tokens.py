# SPDX-License-Identifier: Apache-2.0
"""The operators of token merging, see `sparsec.compiler.tokens`: float32 tokens, one call each."""

from math import prod

import onnx_ir as ir

from sparsec.compiler.graph import attribute, itemsize, shape_of
from sparsec.compiler.lowering.anchors.anchor import Anchor, report_plain
from sparsec.compiler.lowering.emitter import Emitter
from sparsec.compiler.lowering.ops import MatchTokens, MergeTokens, Op, UnmergeTokens
from sparsec.compiler.lowering.regions import Region
from sparsec.compiler.tokens import MATCH, MERGE, UNMERGE, is_token_operator, most_mergeable

_WORD = 4


def _emit(emitter: Emitter, region: Region, op: Op, kernel: str) -> None:
    node = region.nodes[0]
    inputs = [emitter.read(value) for value in node.inputs if value is not None]
    price = emitter.run(op, [*inputs, *map(emitter.make, node.outputs)], region.name)
    report_plain(emitter, region, kernel, price)


def _shape(node: ir.Node, index: int) -> tuple[int, ...]:
    value = node.inputs[index]
    assert value is not None
    return shape_of(value)


def _match(emitter: Emitter, region: Region) -> None:
    node = region.nodes[0]
    batch, tokens, depth = _shape(node, 0)
    op = MatchTokens(batch, tokens, depth, attribute(node, "r", 0), attribute(node, "protected", 0))
    _emit(emitter, region, op, "match-tokens")


def _merge(emitter: Emitter, region: Region) -> None:
    batch, tokens, width = _shape(region.nodes[0], 0)
    _emit(emitter, region, MergeTokens(batch, tokens, shape_of(region.output)[1], width), "merge-tokens")


def _unmerge(emitter: Emitter, region: Region) -> None:
    node, source = region.nodes[0], region.nodes[0].inputs[0]
    assert source is not None
    (batch, left, *rest), tokens = shape_of(source), _shape(node, 1)[1]
    op = UnmergeTokens(batch, tokens, left, prod(rest) * itemsize(source) // _WORD)
    _emit(emitter, region, op, "unmerge-tokens")


def _floats(node: ir.Node) -> bool:
    return all(value is not None and value.dtype == ir.DataType.FLOAT for value in node.inputs[:2])


def _match_accepts(node: ir.Node) -> bool:
    metric, size = (_shape(node, index) for index in (0, 1))
    merged, guarded = attribute(node, "r", 0), attribute(node, "protected", 0)
    fits = len(metric) == 3 and size == (*metric[:2], 1) and guarded >= 0
    return is_token_operator(node) and _floats(node) and fits and 0 <= merged <= most_mergeable(metric[1], guarded)


def _merge_accepts(node: ir.Node) -> bool:
    """Slots must be known to lie within the result, for the kernel does not look."""
    shapes = [_shape(node, index) for index in range(3)]
    fits = len(shapes[0]) == 3 and shapes[1] == (*shapes[0][:2], 1) and shapes[2] == shapes[0][:2]
    inside = fits and _slots(node.inputs[2]) == shape_of(node.outputs[0])[1]
    return is_token_operator(node) and _floats(node) and inside


def _unmerge_accepts(node: ir.Node) -> bool:
    source, shape = node.inputs[0], _shape(node, 0)
    fits = source is not None and itemsize(source) % _WORD == 0 and shape[0] == _shape(node, 1)[0]
    return is_token_operator(node) and fits and _slots(node.inputs[1]) == shape[1]


def _slots(value: ir.Value | None) -> int | None:
    """How many slots a value may name; None where that is not known."""
    node = value.producer() if value is not None else None
    if node is not None and is_token_operator(node, MATCH):
        return _shape(node, 0)[1] - int(attribute(node, "r", 0))
    return _slots(node.inputs[0]) if node is not None and is_token_operator(node, UNMERGE) else None


ANCHORS = {
    MATCH: Anchor(_match_accepts, _match),
    MERGE: Anchor(_merge_accepts, _merge),
    UNMERGE: Anchor(_unmerge_accepts, _unmerge),
}
