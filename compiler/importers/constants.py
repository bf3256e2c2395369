# SPDX-License-Identifier: Apache-2.0
"""Reading and making the small integer constants that operators take as inputs."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sparsec.compiler.importers.limits import MAX_SHAPE_ELEMENTS


def integers(node: ir.Node, index: int) -> list[int] | None:
    """An input as a flat list of integers; None if it is absent, not constant, empty, or long."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or value.const_value is None or not 0 < value.const_value.size <= MAX_SHAPE_ELEMENTS:
        return None
    return [int(item) for item in value.const_value.numpy().reshape(-1)]


def constant(graph: ir.Graph, name: str, items: Sequence[int]) -> ir.Value:
    """A new int64 weight of shape [len(items)], or the one of that name if the graph has it.

    Args:
        graph: a main graph, which gets the weight.
        name: its name.
        items: its elements.

    Returns:
        The weight's value.
    """
    if name in graph.initializers:
        return graph.initializers[name]
    value = ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([len(items)]))
    value.const_value = ir.Tensor(np.array(items, np.int64), name=name)
    graph.register_initializer(value)
    return value
