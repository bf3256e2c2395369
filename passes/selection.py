# SPDX-License-Identifier: Apache-2.0
"""Which layers a compressing pass works on: all but the ignored, the unfit, and those whose weight others need."""

import numpy as np
import onnx_ir as ir

from sparsec.compiler.errors import PassError
from sparsec.compiler.layers import Layer, find_layer, layer_name, matches, weight_axis
from sparsec.compiler.options import unknown
from sparsec.compiler.pass_manager import LayerRecord, Pass


def choose_layers(
    step: Pass, model: ir.Model, ignore: tuple[str, ...], only: tuple[str, ...] = ()
) -> tuple[list[Layer], list[LayerRecord]]:
    """Split the model's layers into those to work on and records of those left alone.

    Layers that share one weight appear once.

    Args:
        step: The pass, for messages.
        model: The model.
        ignore: Names or globs of layers to leave alone.
        only: Names or globs of the layers to work on; empty for all.

    Raises:
        PassError: If a name or glob in `ignore` or `only` fits no layer of the model.
    """
    chosen: list[Layer] = []
    skipped: list[LayerRecord] = []
    candidates = [node for node in model.graph if weight_axis(node) is not None]
    names = [layer_name(node) for node in candidates]
    check_names(step, "ignore", ignore, names)
    check_names(step, "only", only, names)
    for node in candidates:
        found = find_layer(node)
        reason = found if isinstance(found, str) else _unfit(found) or _shared(found, ignore)
        if only and not matches(layer_name(node), only):
            reason = "it is not in 'only'"
        if matches(layer_name(node), ignore):
            reason = "it is in 'ignore'"
        if reason:
            skipped.append(LayerRecord(layer_name(node), reason, skipped=True))
        elif isinstance(found, Layer) and all(found.weight is not other.weight for other in chosen):
            chosen.append(found)
    return chosen, skipped


def _unfit(layer: Layer | None) -> str:
    """Why the numbers of a weight cannot be worked on; empty if they can."""
    values = layer.tensor.numpy() if layer else np.ones(1)
    if not values.size:
        return "its weight is empty"
    return "" if np.isfinite(values).all() else "its weight holds NaN or infinity"


def _shared(layer: Layer | None, ignore: tuple[str, ...]) -> str:
    """Why a weight with several readers cannot be changed; empty if it can."""
    if layer is None:
        return ""
    if layer.weight.is_graph_output():
        return "its weight is an output of the model"
    for user, index in layer.weight.uses():
        if user.graph is not layer.node.graph:
            return f"its weight is also used by '{layer_name(user)}' ({user.op_type}) in a nested graph"
        if index != 1 or weight_axis(user) != layer.axis or not isinstance(find_layer(user), Layer):
            return f"its weight is also used by '{layer_name(user)}' ({user.op_type})"
        if user is not layer.node and matches(layer_name(user), ignore):
            return f"its weight is also used by '{layer_name(user)}', which is in 'ignore'"
    return ""


def check_names(step: Pass, option: str, patterns: tuple[str, ...], names: list[str]) -> None:
    """Check that each name or glob of an option fits one of the model's layers.

    Raises:
        PassError: Naming the one that fits none, and the nearest layer.
    """
    for pattern in patterns:
        if not any(matches(name, (pattern,)) for name in names):
            raise PassError(f"Pass '{step.name}', option '{option}': " + unknown("layer", pattern, names))
