# SPDX-License-Identifier: Apache-2.0
"""The operators of token merging, see `sparsec.compiler.tokens`: float32 tokens, one call each."""

from math import prod

import onnx_ir as ir

from sparsec.compiler.graph import attribute, itemsize, shape_of
from sparsec.compiler.lowering.anchors.anchor import Anchor, report_plain
from sparsec.compiler.lowering.emitter import Emitter
from sparsec.compiler.lowering.ops import MatchTokens, MergeTokens, Op, UnmergeTokens
from sparsec.compiler.lowering.regions import Region
from sparsec.compiler.tokens import MATCH, MERGE, UNMERGE, is_token_operator

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


def _accepts(node: ir.Node) -> bool:
    return is_token_operator(node)


def _unmerge_accepts(node: ir.Node) -> bool:
    return is_token_operator(node) and node.inputs[0] is not None and itemsize(node.inputs[0]) % _WORD == 0


ANCHORS = {
    MATCH: Anchor(_accepts, _match),
    MERGE: Anchor(_accepts, _merge),
    UNMERGE: Anchor(_unmerge_accepts, _unmerge),
}
