# SPDX-License-Identifier: Apache-2.0
"""Small questions to an onnx_ir graph whose shapes and types are known."""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.compiler.errors import ModelError


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The static shape.

    Raises:
        ModelError: If the shape is unknown or has a dynamic dimension.
    """
    shape = value.shape
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        msg = f"Value '{value.name}': found shape {shape}, expected a static one. Pin the model's inputs with --shape."
        raise ModelError(msg)
    return tuple(int(dim) for dim in shape)  # type: ignore[arg-type]


def dtype_of(value: ir.Value) -> str:
    """The numpy name of the element type, such as ``float32``.

    Raises:
        ModelError: If the type is unknown.
    """
    if value.dtype is None:
        msg = f"Value '{value.name}': its element type is unknown. Check that the model passes the ONNX checker."
        raise ModelError(msg)
    return str(value.dtype.numpy().name)


def itemsize(value: ir.Value) -> int:
    """Bytes of one element."""
    return np.dtype(dtype_of(value)).itemsize


def constant_of(value: ir.Value | None) -> NDArray[Any] | None:
    """The array behind an initializer; None for anything computed or absent."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return np.asarray(value.const_value.numpy())


def scalar_of(value: ir.Value | None) -> float | None:
    """The one element of a constant of any shape with one element; None otherwise."""
    array = constant_of(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """An attribute's Python value, or the default."""
    found = node.attributes.get(name)
    return default if found is None or found.value is None else found.value


def source_of(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The standard-domain node that computes a value, if it is one of the given operators."""
    node = None if value is None else value.producer()
    return node if node is not None and node.domain in ("", "ai.onnx") and node.op_type in op_types else None


def consumers_of(value: ir.Value) -> tuple[ir.Node, ...]:
    """Nodes that read a value, each once, in no particular order."""
    return tuple(dict.fromkeys(node for node, _ in value.uses()))


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value which is no graph output; None otherwise."""
    nodes = consumers_of(value)
    return nodes[0] if len(nodes) == 1 and not value.is_graph_output() else None


def value_names(graph: ir.Graph) -> set[str]:
    """Names of all values: inputs, initializers and what nodes compute, those of inner graphs too."""
    nodes = list(graph.all_nodes())
    graphs = dict.fromkeys((graph, *(node.graph for node in nodes if isinstance(node.graph, ir.Graph))))
    found = {str(value.name) for node in nodes for value in node.outputs if value.name}
    for part in graphs:
        found.update(str(value.name) for value in part.inputs)
        found.update(part.initializers)
    return found


def free_name(wanted: str, taken: set[str]) -> str:
    """The wanted name, with underscores behind it as long as it is taken; now it is."""
    while wanted in taken:
        wanted += "_"
    taken.add(wanted)
    return wanted
