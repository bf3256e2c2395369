# SPDX-License-Identifier: Apache-2.0
"""Walks over a parsed model that do not recurse: a hostile file decides how deep its graphs are nested."""

from collections.abc import Iterable, Iterator

import onnx

from sparsec.compiler.errors import ModelError
from sparsec.compiler.importers.limits import MAX_GRAPH_DEPTH, MAX_NODES


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of the graph, its subgraphs and the local functions."""
    yield from nodes_in([*model.graph.node, *(node for function in model.functions for node in function.node)])


def nodes_in(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and all nodes of the graphs inside them.

    Args:
        nodes: the nodes of a graph or function.

    Yields:
        Nodes, in no particular order.

    Raises:
        ModelError: more nodes, or deeper graphs, than the caps allow.
    """
    stack = [(node, 1) for node in nodes]
    count = 0
    while stack:
        node, depth = stack.pop()
        count += 1
        if count > MAX_NODES:
            msg = f"The model has more than {MAX_NODES} nodes; sparsec reads no larger models."
            raise ModelError(msg)
        inner = [(inside, depth + 1) for graph in subgraphs(node) for inside in graph.node]
        if inner and depth >= MAX_GRAPH_DEPTH:
            msg = f"The model nests graphs more than {MAX_GRAPH_DEPTH} deep, at node {title(node)!r}."
            raise ModelError(msg)
        stack += inner
        yield node


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs in a node's attributes: branches of If, bodies of Loop and Scan."""
    found = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append(attribute.g)
        found += attribute.graphs
    return found


def title(node: onnx.NodeProto) -> str:
    """A node's name; for a nameless node that of its first output."""
    return node.name or next((name for name in node.output if name), node.op_type)


def all_graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    """The main graph and every graph inside it or inside a local function."""
    return [model.graph, *(graph for node in all_nodes(model) for graph in subgraphs(node))]


def all_tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every dense tensor of a model with a text that says where it is.

    Args:
        model: a parsed model.

    Yields:
        ("Weight 'conv1.w'", tensor), or ("Node 'c', attribute 'value'", tensor).
    """
    for graph in all_graphs(model):
        for tensor in graph.initializer:
            yield f"Weight {tensor.name!r}", tensor
    for node in all_nodes(model):
        for attribute in node.attribute:
            where = f"Node {node.name!r} ({node.op_type}), attribute {attribute.name!r}"
            if attribute.HasField("t"):
                yield where, attribute.t
            for tensor in attribute.tensors:
                yield where, tensor
