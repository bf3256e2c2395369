# SPDX-License-Identifier: Apache-2.0
"""Shape arithmetic and other constant nodes become initializers, within limits on what they may grow to."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx.reference import ops as reference
from onnx_ir.passes import common

from sparsec.compiler.importers.branches import inline_branch, taken_branch
from sparsec.compiler.importers.cleaning import remove_copy
from sparsec.compiler.importers.inference import infer_node
from sparsec.compiler.importers.limits import (
    FOLDING_ROUNDS,
    MAX_FOLDED_BYTES,
    MAX_FOLDED_TOTAL_BYTES,
    OPSET,
)
from sparsec.compiler.importers.sequences import unpack_sequence
from sparsec.compiler.importers.value_checks import complaint

FOLDABLE = frozenset(
    (
        *("Abs", "Add", "And", "ArgMax", "ArgMin", "Cast", "CastLike", "Ceil", "Clip", "Concat", "ConstantOfShape"),
        *("Cos", "CumSum", "Div", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather"),
        *("GatherElements", "GatherND", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Log", "Max", "Min", "Mod"),
        *("Mul", "Neg", "Not", "OneHot", "Or", "Pad", "Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMean"),
        *("ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round", "ScatterElements", "ScatterND", "Sign", "Sin"),
        *("Slice", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Transpose", "Trilu", "Unsqueeze"),
        *("Where", "Xor"),
    )
)
"""Operators that numpy evaluates exactly, cheaply, and to a size known beforehand."""


@dataclass
class _Budget:
    """How many bytes folding may still create."""

    left: int

    def allows(self, node: ir.Node) -> bool:
        sizes = [_nbytes(value) for value in node.outputs if value.name]
        if any(size < 0 for size in sizes):
            return False
        consumed = sum(v.const_value.nbytes for v in node.inputs if v is not None and v.const_value is not None)
        created = sum(sizes)
        if created > max(MAX_FOLDED_BYTES, consumed) or created > self.left:
            return False
        self.left -= created
        return True


def _nbytes(value: ir.Value) -> int:
    """Size of a value in bytes, -1 if unknown."""
    if value.shape is None or value.dtype is None or not value.shape.is_static():
        return -1
    return math.prod(int(dim) for dim in value.shape.numpy()) * math.ceil(value.dtype.itemsize)


def fold(model: ir.Model) -> None:
    """Infer all types and shapes, and fold what is constant, in place.

    One walk does both; another follows only if a branch or a sequence was taken apart. `If` with a constant condition
    is replaced by the branch it takes; copies go.

    Args:
        model: a model with static inputs.

    Raises:
        ModelError: a node contradicts its inputs.
    """
    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    budget = _Budget(MAX_FOLDED_TOTAL_BYTES + 2 * weights)
    for _ in range(FOLDING_ROUNDS):
        opened = [_fold_node(node, model, budget) for node in list(model.graph)]
        common.RemoveUnusedNodesPass()(model)
        if not any(opened):
            break
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.LiftSubgraphInitializersToMainGraphPass()(model)


def _fold_node(node: ir.Node, model: ir.Model, budget: _Budget) -> bool:
    """Infer one node and replace it if it is constant; whether it was opened and new nodes are to be visited."""
    if not isinstance(node.graph, ir.Graph):
        return False
    branch = taken_branch(node)
    if branch is not None:
        inline_branch(node, branch)
        return True
    infer_node(node, model)
    if remove_copy(node):
        return False
    if unpack_sequence(node):
        return True
    arrays = _evaluate(node, budget, model.opset_imports.get("", OPSET)) if node.domain == "" else None
    for value, array in zip(node.outputs, arrays or [], strict=False):
        if value.name:
            _replace(node.graph, value, array)
    return False


def _replace(graph: ir.Graph, value: ir.Value, array: np.ndarray[Any, Any]) -> None:
    """Put an initializer in a value's place; a graph output stays the output of a node, an Identity."""
    name = str(value.name)
    value.name = None
    constant = ir.Value(name=name, shape=ir.Shape(array.shape), const_value=ir.Tensor(array, name=name))
    constant.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    if value.is_graph_output():
        constant.name = f"{name}/constant"
        value.name = name
        copy = ir.node("Identity", [constant])
        producer = value.producer()
        if producer is None:
            return
        graph.register_initializer(constant)
        ir.convenience.replace_nodes_and_values(graph, producer, [], [copy], [value], copy.outputs)
        return
    graph.register_initializer(constant)
    value.replace_all_uses_with(constant)


def _evaluate(node: ir.Node, budget: _Budget, version: int) -> list[np.ndarray[Any, Any]] | None:
    if node.op_type in ("Shape", "Size"):
        return _shape(node)
    if node.op_type not in FOLDABLE or any(v is not None and v.const_value is None for v in node.inputs):
        return None
    inputs = [None if v is None or v.const_value is None else v.const_value.numpy() for v in node.inputs]
    plain = all(array is None or array.dtype.kind in "biufc" for array in inputs)
    if not inputs or not plain or complaint(node) is not None or not budget.allows(node):
        return None
    return _run(node, inputs, version)


def _shape(node: ir.Node) -> list[np.ndarray[Any, Any]] | None:
    source = node.inputs[0]
    if source is None or source.shape is None or not source.shape.is_static():
        return None
    dims = np.array(source.shape.numpy(), np.int64)
    if node.op_type == "Size":
        return [np.array(math.prod(dims.tolist()), np.int64)]
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(dims))
    return [dims[max(start + len(dims), 0) if start < 0 else start : end]]


def _run(node: ir.Node, inputs: list[np.ndarray[Any, Any] | None], version: int) -> list[np.ndarray[Any, Any]] | None:
    """Evaluate a node with ONNX's reference implementation; None where it has no say."""
    attributes = {
        name: ir.to_proto(a.value) if a.type == ir.AttributeType.TENSOR else a.value
        for name, a in node.attributes.items()
    }
    if node.op_type == "Split":
        attributes.setdefault("num_outputs", len(node.outputs))
    try:
        with np.errstate(all="ignore"):
            result = reference.load_op("", node.op_type, version).eval(*inputs, **attributes)
    except Exception:  # the reference implementation has bugs of its own; the node stays
        return None
    arrays = list(result) if isinstance(result, (tuple, list)) else [result]
    if len(arrays) != len(node.outputs) or not all(_fits(v, a) for v, a in zip(node.outputs, arrays, strict=True)):
        return None
    return [np.ascontiguousarray(array).reshape(array.shape) for array in arrays]


def _fits(value: ir.Value, array: object) -> bool:
    """Whether a computed array has the type and shape that inference promised."""
    if not isinstance(array, (np.ndarray, np.generic)) or value.shape is None or value.dtype is None:
        return False
    return array.dtype == value.dtype.numpy() and tuple(array.shape) == tuple(value.shape.numpy())
