# SPDX-License-Identifier: Apache-2.0
"""Is it a well-formed graph? Versions, types of inputs and outputs, names, order."""

from collections import deque
from collections.abc import Sequence

import onnx
from onnx import defs

from sparsec.compiler.errors import ModelError, UnsupportedError
from sparsec.compiler.importers.limits import OLDEST_OPSET
from sparsec.compiler.importers.operators import check_operators
from sparsec.compiler.importers.walk import subgraphs

_Body = onnx.GraphProto | onnx.FunctionProto


def check_structure(model: onnx.ModelProto) -> None:
    """Check all that later stages take for granted.

    Args:
        model: a parsed model.

    Raises:
        ModelError: versions are out of range, names are missing, repeated or undefined, or the graph is cyclic.
        UnsupportedError: an operator is unknown, or an input or output is no tensor of numbers.
    """
    _check_versions(model)
    check_operators(model)
    _check_types(model.graph)
    _check_names(model.graph, [])
    for function in model.functions:
        _check_names(function, [])


def opset_of(model: onnx.ModelProto | onnx.FunctionProto) -> int | None:
    """The version of ONNX's own operators that a model or function imports; None if it imports none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)


def _check_versions(model: onnx.ModelProto) -> None:
    if not 3 <= model.ir_version <= onnx.IR_VERSION:
        msg = f"The model's IR version is {model.ir_version}; 3 to {onnx.IR_VERSION} were expected."
        raise ModelError(msg)
    domains = [entry.domain or "ai.onnx" for entry in model.opset_import]
    if len(set(domains)) != len(domains):
        msg = f"The model imports an operator set twice: {', '.join(sorted(domains))}."
        raise ModelError(msg)
    for body in (model, *model.functions):
        version = opset_of(body)
        if version is not None and not OLDEST_OPSET <= version <= defs.onnx_opset_version():
            msg = (
                f"The model uses opset {version}; {OLDEST_OPSET} to {defs.onnx_opset_version()} are supported. "
                "Export it again with one of these."
            )
            raise ModelError(msg)


def _check_types(graph: onnx.GraphProto) -> None:
    if not graph.output:
        msg = "The model has no outputs."
        raise ModelError(msg)
    for role, infos in (("Input", graph.input), ("Output", graph.output)):
        for info in infos:
            kind = info.type.WhichOneof("value")
            if kind not in ("tensor_type", None) or (kind is None and role == "Input"):
                msg = f"{role} {info.name!r}{_used(graph, info)} has the type {kind}; tensors of numbers are supported."
                raise UnsupportedError(msg)
            if info.type.tensor_type.elem_type == onnx.TensorProto.STRING:
                msg = f"{role} {info.name!r}{_used(graph, info)} holds strings; tensors of numbers are supported."
                raise UnsupportedError(msg)


def _used(graph: onnx.GraphProto, info: onnx.ValueInfoProto) -> str:
    """Which operator reads or writes a value, for a message."""
    users = [node.op_type for node in graph.node if info.name in (*node.input, *node.output)]
    return f" of operator {users[0]!r}" if users else ""


def _check_names(body: _Body, scopes: list[set[str]]) -> None:
    """Check one graph or function, then the graphs inside its nodes; depth is bounded by ``all_nodes``."""
    defined = _definitions(body)
    inner = [*scopes, defined]
    for node in body.node:
        for name in node.input:
            if name and not any(name in scope for scope in inner):
                msg = f"Node {node.name!r} ({node.op_type}) reads {name!r}, which nothing defines."
                raise ModelError(msg)
    for name in _names(body.output):
        if not any(name in scope for scope in inner):
            msg = f"The graph's output {name!r} is defined by nothing."
            raise ModelError(msg)
    for node in body.node:
        for graph in subgraphs(node):
            _check_names(graph, inner)
    _check_acyclic(body, defined)


def _definitions(body: _Body) -> set[str]:
    """All names that a graph defines, each once."""
    defined: set[str] = set()
    initializers = [t.name for t in body.initializer] if isinstance(body, onnx.GraphProto) else []
    inputs = list(_names(body.input))
    outputs = [name for node in body.node for name in node.output if name]
    for name in (*inputs, *(set(initializers) - set(inputs)), *outputs):
        if name in defined or not name:
            msg = f"The name {name!r} is defined twice; names are expected to be unique."
            raise ModelError(msg if name else "An input or a weight has no name.")
        defined.add(name)
    if len(set(initializers)) != len(initializers):
        msg = f"The weight {_repeated(initializers)!r} is defined twice; names are expected to be unique."
        raise ModelError(msg)
    if len(set(_names(body.output))) != len(body.output):
        msg = f"The output {_repeated(_names(body.output))!r} is listed twice; names are expected to be unique."
        raise ModelError(msg)
    return defined


def _names(values: Sequence[onnx.ValueInfoProto] | Sequence[str]) -> list[str]:
    return [value if isinstance(value, str) else value.name for value in values]


def _repeated(names: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def _check_acyclic(body: _Body, defined: set[str]) -> None:
    """Take away nodes whose inputs are there until none is left (Kahn's algorithm)."""
    maker = {name: index for index, node in enumerate(body.node) for name in node.output if name}
    needs = [{maker[n] for n in _reads(node) if n in maker and n in defined} for node in body.node]
    feeds: list[list[int]] = [[] for _ in body.node]
    for index, sources in enumerate(needs):
        for source in sources:
            feeds[source].append(index)
    waiting = [len(sources) for sources in needs]
    ready = deque(index for index, count in enumerate(waiting) if count == 0)
    done = 0
    while ready:
        done += 1
        for index in feeds[ready.popleft()]:
            waiting[index] -= 1
            if waiting[index] == 0:
                ready.append(index)
    if done < len(body.node):
        node = body.node[next(index for index, count in enumerate(waiting) if count > 0)]
        msg = f"The graph is cyclic: node {node.name!r} ({node.op_type}) depends on its own output."
        raise ModelError(msg)


def _reads(node: onnx.NodeProto) -> set[str]:
    """What a node reads, its subgraphs included."""
    found: set[str] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        found.update(current.input)
        for graph in subgraphs(current):
            found.update(_names(graph.output))
            stack.extend(graph.node)
    return found
