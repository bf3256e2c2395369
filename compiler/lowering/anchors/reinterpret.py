# SPDX-License-Identifier: Apache-2.0
"""BitCast: the same bytes under another type."""

import onnx_ir as ir

from sparsec.compiler.graph import itemsize
from sparsec.compiler.lowering import layout
from sparsec.compiler.lowering.anchors.anchor import Anchor
from sparsec.compiler.lowering.emitter import Emitter
from sparsec.compiler.lowering.regions import Region


def accepts(node: ir.Node) -> bool:
    """Types of whole bytes, as wide before as after."""
    values = (*node.inputs, *node.outputs)
    whole = all(v is not None and v.dtype is not None and v.dtype.bitwidth % 8 == 0 for v in values)
    return whole and len({itemsize(v) for v in values if v is not None}) == 1


def emit(emitter: Emitter, region: Region) -> None:
    """No call at all."""
    source = region.nodes[0].inputs[0]
    assert source is not None
    emitter.bind(region.output, layout.PLAIN, emitter.read(source))


ANCHORS = {"BitCast": Anchor(accepts, emit)}
