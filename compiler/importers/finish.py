# SPDX-License-Identifier: Apache-2.0
"""The last steps of an import, and of everything that adds nodes to an imported model."""

import onnx_ir as ir
from onnx_ir.passes import common

from sparsec.compiler.importers.cleaning import name_nodes, remove_copies, simplify_inputs
from sparsec.compiler.importers.folding import fold
from sparsec.compiler.importers.padding import make_padding_explicit
from sparsec.compiler.importers.shapes import check_static


def finish(model: ir.Model) -> None:
    """Fold, clean up and check a model with static inputs, in place.

    Args:
        model: a model of opset OPSET whose weights are initializers.

    Raises:
        ModelError: a node contradicts its inputs.
        UnsupportedError: a value of the main graph does not end up with a static shape.
    """
    objection = fold(model)
    check_static(model, objection)
    remove_copies(model.graph)
    make_padding_explicit(model)
    simplify_inputs(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    name_nodes(model)
