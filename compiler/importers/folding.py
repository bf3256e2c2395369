# SPDX-License-Identifier: Apache-2.0
"""Shape arithmetic and other constant nodes become initializers, within limits on what they may grow to."""

import math
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

from sparsec.compiler.importers.limits import FOLDING_ROUNDS, MAX_FOLDED_BYTES, MAX_FOLDED_TOTAL_BYTES
from sparsec.compiler.importers.shapes import infer_shapes

FOLDABLE = frozenset(
    """Abs Add And ArgMax ArgMin Cast Ceil Clip Compress Concat ConstantOfShape CumSum Div Equal Erf Exp Expand
    Flatten Floor Gather GatherElements GatherND Greater GreaterOrEqual Identity Less LessOrEqual Log Max Min Mod
    Mul Neg Not OneHot Or Pad Pow Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Reshape Round
    ScatterElements ScatterND Shape Sign Sin Cos Size Slice Sqrt Squeeze Sub Tanh Tile Transpose Trilu Unsqueeze Where
    Xor""".split()
)
"""Operators that numpy evaluates exactly, cheaply, and to a size known beforehand."""


@dataclass
class _Budget:
    """How many bytes folding may still create."""

    left: int

    def allows(self, node: ir.Node) -> bool:
        if node.domain != "" or node.op_type not in FOLDABLE:
            return False
        sizes = [_nbytes(value) for value in node.outputs]
        if None in sizes:
            return False
        created = sum(size for size in sizes if size is not None)
        consumed = sum(v.const_value.nbytes for v in node.inputs if v is not None and v.const_value is not None)
        if created > max(MAX_FOLDED_BYTES, consumed) or created > self.left:
            return False
        self.left -= created
        return True


def _nbytes(value: ir.Value) -> int | None:
    if value.shape is None or value.dtype is None or not value.shape.is_static():
        return None
    return math.prod(value.shape.numpy()) * value.dtype.itemsize if value.shape.dims else 1


def fold(model: ir.Model) -> str | None:
    """Alternate shape inference and constant folding until nothing changes, in place.

    `If` with a constant condition is replaced by the branch it takes.

    Args:
        model: a model with static inputs and without local functions that must be inlined.

    Returns:
        What strict shape inference objected to in the last round, if it did.
    """
    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    budget = _Budget(MAX_FOLDED_TOTAL_BYTES + 2 * weights)
    objection = infer_shapes(model)
    for _ in range(FOLDING_ROUNDS):
        if not _fold_once(model, budget):
            break
        objection = infer_shapes(model)
    return objection


def _fold_once(model: ir.Model, budget: _Budget) -> bool:
    functions = dict(model.functions)
    model.functions.clear()
    result = optimizer.fold_constants_ir(
        model,
        onnx_shape_inference=False,
        output_size_limit=MAX_FOLDED_BYTES,
        should_fold=budget.allows,
    )
    common.RemoveUnusedNodesPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.LiftSubgraphInitializersToMainGraphPass()(model)
    model.functions.update(functions)
    return bool(result.modified)
