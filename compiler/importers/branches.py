# SPDX-License-Identifier: Apache-2.0
"""`If` with a constant condition: the branch it takes moves into the graph around it."""

import onnx_ir as ir


def taken_branch(node: ir.Node) -> ir.Graph | None:
    """The branch an `If` always takes.

    Args:
        node: any node.

    Returns:
        The graph of the branch; None if the node is no `If`, or its condition is not constant.
    """
    if node.op_type != "If" or node.domain != "" or not node.inputs or node.inputs[0] is None:
        return None
    condition = node.inputs[0].const_value
    if condition is None or condition.size != 1:
        return None
    return node.attributes["then_branch" if condition.numpy().item() else "else_branch"].as_graph()


def inline_branch(node: ir.Node, branch: ir.Graph) -> None:
    """Replace an `If` by a branch; each of its outputs becomes an Identity of the branch's output.

    Args:
        node: an `If` inside a graph.
        branch: one of its branches, with no initializers of its own.
    """
    graph = node.graph
    if graph is None:
        return
    results = list(branch.outputs)
    branch.outputs.clear()
    moved = list(branch)
    branch.remove(moved)
    for inner in moved:
        inner.name = f"{node.name}/{inner.name}" if node.name and inner.name else inner.name
        for value in inner.outputs:
            value.name = f"{node.outputs[0].name}/{value.name}" if value.name else value.name
            value.shape = value.type = None  # what the file declared; inference finds out
    copies = [ir.node("Identity", [value]) for value in results]
    outputs = [copy.outputs[0] for copy in copies]
    ir.convenience.replace_nodes_and_values(graph, node, [node], [*moved, *copies], node.outputs, outputs)
