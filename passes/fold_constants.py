# SPDX-License-Identifier: Apache-2.0
"""fold-constants: nodes whose operands are all constant become initializers; shape arithmetic goes with them."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from sparsec.compiler.importers.folding import fold
from sparsec.compiler.pass_manager import Pass, PassContext, PassResult


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Fold what numpy evaluates exactly and what does not grow; quantize and dequantize nodes stay."""

    name: ClassVar[str] = "fold-constants"
    exact: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("static-shapes",)

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """See the module."""
        before = _nodes(model)
        fold(model)
        return PassResult(model, _nodes(model) != before)


def _nodes(model: ir.Model) -> Counter[tuple[str, str]]:
    """Operators by domain and name, with their number."""
    return Counter((node.domain, node.op_type) for node in model.graph.all_nodes())
