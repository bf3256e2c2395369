# SPDX-License-Identifier: Apache-2.0
"""The last steps of an import, and of everything that adds nodes to an imported model."""

from collections.abc import Collection

import onnx_ir as ir
from onnx_ir.passes import common

from sparsec.compiler.importers.cleaning import name_nodes, refuse_training, remove_copies, simplify_nodes
from sparsec.compiler.importers.folding import fold
from sparsec.compiler.importers.functions import expand_once, has_body
from sparsec.compiler.importers.limits import FOLDING_ROUNDS, LOOPING_BODIES, NOT_IN_ONNXRUNTIME
from sparsec.compiler.importers.padding import make_padding_explicit
from sparsec.compiler.importers.shapes import check_static, is_static
from sparsec.compiler.importers.typing_rules import check_types
from sparsec.compiler.importers.value_checks import check_values


def finish(model: ir.Model) -> ir.Model:
    """Fold, clean up and check a model with static inputs.

    Args:
        model: a model of opset OPSET whose weights are initializers; changed in place.

    Returns:
        The same model, or another one if functions had to be expanded to find their shapes.

    Raises:
        ModelError: a node contradicts its inputs.
        UnsupportedError: a value of the main graph does not end up with a static shape.
    """
    fold(model)
    for _ in range(FOLDING_ROUNDS):
        stuck = _stuck(model)
        if not stuck:
            break
        model = expand_once(model, stuck)
        lift_weights(model)
        fold(model)
    check_static(model)
    check_types(model)
    check_values(model)
    make_padding_explicit(model)
    simplify_nodes(model)
    remove_copies(model.graph)
    refuse_training(model.graph)
    common.RemoveUnusedNodesPass()(model)
    _remove_unused_functions(model)
    common.RemoveUnusedOpsetsPass()(model)
    name_nodes(model)
    return model


def _stuck(model: ir.Model) -> set[str]:
    """Operators that only their defining function helps: to find their shape, or to run them elsewhere."""
    return {
        node.op_type
        for node in model.graph
        if node.domain == ""
        and (node.op_type in NOT_IN_ONNXRUNTIME or not all(is_static(v) for v in node.outputs if v.name))
        and has_body(node.op_type)
        and node.op_type not in LOOPING_BODIES
    }


def lift_weights(model: ir.Model) -> None:
    """Make all weights initializers of the main graph, wherever the file had them, and put nodes in order."""
    common.RemoveInitializersFromInputsPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.LiftSubgraphInitializersToMainGraphPass()(model)
    model.graph.sort()


def _remove_unused_functions(model: ir.Model) -> None:
    called = {node.op_identifier() for node in model.graph.all_nodes()}
    called |= {node.op_identifier() for function in model.functions.values() for node in function.all_nodes()}
    for key in [key for key in model.functions if key not in called]:
        del model.functions[key]


def expand_function_ops(model: ir.Model, keep: Collection[str]) -> ir.Model:
    """Replace operators that ONNX defines by functions of others, until only ``keep`` and primitives are left.

    Function bodies that depend on the types of the inputs are included.

    Args:
        model: an imported model.
        keep: operator types of ONNX's own domain to leave as they are.

    Returns:
        The model itself if nothing was to be expanded, else another one that shares the weights; static, folded and
        clean like an imported one.

    Raises:
        ModelError: a body does not end up with static shapes.
    """
    for _ in range(FOLDING_ROUNDS):
        present = {node.op_type for node in model.graph.all_nodes() if node.domain == ""}
        targets = {op_type for op_type in present - {*keep, *LOOPING_BODIES} if has_body(op_type)}
        if not targets:
            break
        model = expand_once(model, targets)
        lift_weights(model)
        model = finish(model)
    return model
