# SPDX-License-Identifier: Apache-2.0
"""Functions: the model's own are inlined at import, ONNX's own are expanded where no kernel knows the operator."""

from collections.abc import Collection
from typing import Any

import onnx
import onnx_ir as ir
from onnx import defs, inliner

from sparsec.compiler.errors import ModelError, UnsupportedError
from sparsec.compiler.importers.definitions import call_definitions
from sparsec.compiler.importers.forms import same_form
from sparsec.compiler.importers.light import light_proto, restore_weights
from sparsec.compiler.importers.limits import MAX_CALL_DEPTH, MAX_NODES, OPSET
from sparsec.compiler.importers.structure import opset_of
from sparsec.compiler.importers.walk import all_nodes, nodes_in, subgraphs, title
from sparsec.compiler.tokens import check_bodies

OWN_DOMAIN = "sparsec"
"""Functions of this domain stay calls: the lowering has kernels for them."""

_Key = tuple[str, str]


def check_calls(model: onnx.ModelProto) -> None:
    """Check that inlining the model's local functions ends, and ends small.

    Args:
        model: a parsed model.

    Raises:
        ModelError: a function calls itself, calls go too deep, or inlining gives too many nodes.
    """
    bodies = {(f.domain, f.name): list(f.node) for f in model.functions}
    sizes: dict[_Key, int] = {}
    for key in bodies:
        _size(key, bodies, sizes, ())
    total = _count(list(model.graph.node), bodies, sizes, ())
    if total > MAX_NODES:
        msg = f"The model has {total} nodes once its functions are inlined; up to {MAX_NODES} are supported."
        raise ModelError(msg)


def _size(key: _Key, bodies: dict[_Key, list[onnx.NodeProto]], sizes: dict[_Key, int], path: tuple[_Key, ...]) -> int:
    if key in path:
        msg = f"The local function '{key[0]}.{key[1]}' calls itself."
        raise ModelError(msg)
    if len(path) >= MAX_CALL_DEPTH:
        msg = f"The model's local functions call each other more than {MAX_CALL_DEPTH} deep."
        raise ModelError(msg)
    if key not in sizes:
        sizes[key] = _count(bodies[key], bodies, sizes, (*path, key))
    return sizes[key]


def _count(
    nodes: list[onnx.NodeProto],
    bodies: dict[_Key, list[onnx.NodeProto]],
    sizes: dict[_Key, int],
    path: tuple[_Key, ...],
) -> int:
    total = 0
    stack = list(nodes)
    while stack:
        node = stack.pop()
        key = (node.domain, node.op_type)
        total += _size(key, bodies, sizes, path) if key in bodies else 1
        stack += [inside for graph in subgraphs(node) for inside in graph.node]
    return total


def inline_local_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace calls of local functions by their bodies, all but those of domain ``sparsec``.

    Args:
        model: a parsed model that :func:`check_calls` has passed; may lack its large weights.

    Returns:
        The model itself if nothing is to be inlined, else another one.

    Raises:
        ModelError: a function is of another opset than the model, in which its operators are spelled differently; or
            one of domain ``sparsec`` is not what sparsec means by its name.
    """
    check_bodies(model.functions)
    kept = [(f.domain, f.name) for f in model.functions if f.domain == OWN_DOMAIN]
    if len(kept) == len(model.functions):
        return model
    for function in model.functions:
        if function.domain != OWN_DOMAIN:
            _adopt_opset(function, opset_of(model) or OPSET)
    return inliner.inline_selected_functions(model, kept, exclude=True)


def _adopt_opset(function: onnx.FunctionProto, wanted: int) -> None:
    """Relabel a function of another opset than the model's, if that changes nothing."""
    version = opset_of(function)
    if version in (None, wanted):
        return
    for node in nodes_in(function.node):
        if not same_form(node, version or wanted, wanted):
            msg = (
                f"Operator {node.op_type!r}, node {title(node)!r} in function '{function.domain}.{function.name}': "
                f"is of opset {version}, and changed until the model's opset {wanted}. Export with one opset for all."
            )
            raise ModelError(msg)
    for entry in function.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = wanted


def expand_once(model: ir.Model, targets: Collection[str]) -> ir.Model:
    """Replace operators by the functions that define them in ONNX's specification.

    Bodies that depend on the types of the inputs are included. What a body calls is expanded only if it is a target.

    Args:
        model: a model of opset OPSET.
        targets: operator types of ONNX's own domain that have a body, see :func:`has_body`.

    Returns:
        Another model that shares the weights.

    Raises:
        UnsupportedError: a definition cannot be expanded for the inputs that are given.
    """
    proto, weights = light_proto(model)
    spell_defaults(proto, targets, OPSET)
    ids = [("", op_type) for op_type in sorted(targets)]
    try:
        ids += call_definitions(proto, targets)
        proto = inliner.inline_selected_functions(proto, ids, exclude=False, inline_schema_functions=True)
    except RuntimeError as error:
        names = ", ".join(repr(op_type) for op_type in sorted(targets))
        msg = f"Operator {names}: ONNX's definition of it cannot be expanded for these inputs. {error}"
        raise UnsupportedError(msg) from error
    return restore_weights(proto, weights)


def spell_defaults(model: onnx.ModelProto, targets: Collection[str], version: int) -> None:
    """Write default attributes out, in place: a body refers to them, and ONNX's inliner leaves them empty.

    Args:
        model: a parsed model.
        targets: operator types of ONNX's own domain.
        version: the model's opset.
    """
    for node in all_nodes(model):
        if node.domain == "" and node.op_type in targets:
            present = {attribute.name for attribute in node.attribute}
            for name, attribute in defs.get_schema(node.op_type, version, "").attributes.items():
                if name not in present and attribute.default_value.name:
                    node.attribute.append(attribute.default_value)


def has_body(op_type: str, version: int = OPSET) -> bool:
    """Whether ONNX defines an operator by a function of others in a version."""
    if not defs.has(op_type, version, ""):
        return False
    schema: Any = defs.get_schema(op_type, version, "")
    return bool(schema.has_function or schema.has_context_dependent_function)
