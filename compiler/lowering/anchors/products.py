# SPDX-License-Identifier: Apache-2.0
"""MatMul and Gemm: with a constant weight, or of two computed operands."""

from math import prod

import numpy as np
import onnx_ir as ir

from sparsec.compiler.graph import attribute, constant_of, shape_of
from sparsec.compiler.lowering import layout
from sparsec.compiler.lowering.anchors.anchor import (
    Anchor,
    emit_operands,
    floats,
    integer_input,
    integer_tail,
    relayout_price,
    report,
    report_plain,
    tail,
)
from sparsec.compiler.lowering.chain import Source
from sparsec.compiler.lowering.codes import Codes
from sparsec.compiler.lowering.emitter import Emitter
from sparsec.compiler.lowering.kernel import Array
from sparsec.compiler.lowering.ops import BatchMatMul, Epilogue, GroupedLinear, Linear
from sparsec.compiler.lowering.regions import LAST, Region, operand_kind
from sparsec.compiler.lowering.weights import Weight, weight_of

_GROUPS_WORTH = 2.0
"""Groups are kept up to so many times the price of float32 values, which take six or eight times the bytes."""


def accepts_matmul(node: ir.Node) -> bool:
    """Float32, ranks of at least 2, and batches that are equal or one."""
    if not floats(node) or any(len(shape_of(v)) < 2 for v in _present(node)):
        return False
    if _constant_matrix(node.inputs[1]):
        return True
    left, right = (shape_of(v)[:-2] for v in _present(node))
    return left == right or prod(left) == 1 or prod(right) == 1


def accepts_gemm(node: ir.Node) -> bool:
    """No transposed data; a weight known now, or no transposition and no factors."""
    if not floats(node) or attribute(node, "transA", 0):
        return False
    plain = attribute(node, "alpha", 1.0) == 1.0 and not attribute(node, "transB", 0)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    kind = None if bias is None else operand_kind(bias, shape_of(node.outputs[0]), LAST)
    biased = bias is None or (attribute(node, "beta", 1.0) == 1.0 and kind is not None)
    scaled = bias is not None and constant_of(bias) is not None and kind in ("channel", "scalar")
    return (biased or scaled) and (constant_of(node.inputs[1]) is not None or plain)


def emit(emitter: Emitter, region: Region) -> None:
    """As `Linear` with a constant matrix on the right, in integers where both are quantized; else as `BatchMatMul`."""
    node = region.nodes[0]
    if not _constant_matrix(node.inputs[1]):
        _emit_batch(emitter, region)
        return
    transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
    weight = _scaled(weight_of(node.inputs[1], 0 if transposed else 1), node)  # type: ignore[arg-type]
    if weight.groups is not None:
        _emit_groups(emitter, region, weight)
        return
    codes = integer_input(node.inputs[0], weight)
    if codes is None or not _emit_linear(emitter, region, weight, codes):
        done = _emit_linear(emitter, region, weight.in_float(), None)
        assert done, region.name


def _emit_groups(emitter: Emitter, region: Region, weight: Weight) -> None:
    """With the groups as they are stored, unless the values that they stand for are far cheaper to compute with."""
    data = region.nodes[0].inputs[0]
    assert data is not None
    assert weight.groups is not None
    epilogue, _ = tail(region, _bias(region.nodes[0]))
    positions = prod(shape_of(data)[:-1])
    price = relayout_price(emitter, data, LAST, region.output)
    forms = ((1.0, weight.in_groups(), weight.groups), (_GROUPS_WORTH, weight.in_float(), weight.values))
    found = [
        (worth * choice.price, form)
        for worth, form, array in forms
        if (choice := emitter.choose(_op(form, None, positions, epilogue), array, weight.pattern, relayout=price))
    ]
    done = _emit_linear(emitter, region, min(found, key=lambda pair: pair[0])[1], None)
    assert done, region.name


def _emit_linear(emitter: Emitter, region: Region, weight: Weight, codes: Codes | None) -> bool:
    node = region.nodes[0]
    bias = _bias(node)
    if codes is not None and isinstance(bias, ir.Value):
        return False
    epilogue, sources = integer_tail(region, codes, weight, bias) if codes else tail(region, bias)  # type: ignore[arg-type]
    data = codes.value if codes else node.inputs[0]
    assert data is not None
    array = weight.codes if codes else weight.groups if weight.groups is not None else weight.values
    assert array is not None
    op = _op(weight, codes, prod(shape_of(data)[:-1]), epilogue)
    price = relayout_price(emitter, data, LAST, region.output)
    choice = emitter.choose(op, array, weight.pattern, relayout=price)
    if choice is None:
        return False
    packed = emitter.pack(choice.spec, array)
    source = emitter.read(data, layout.for_kernel(choice.spec.inputs[0], LAST))
    extra = emit_operands(emitter, choice.spec, sources, epilogue.operands, LAST)
    target = emitter.make(region.output, layout.for_kernel(choice.spec.output, LAST))
    emitter.call_packed(packed, source, extra, target, region.name)
    report(emitter, region, choice, weight, packed.arrays, op.positions * array.size)
    return True


def _op(weight: Weight, codes: Codes | None, positions: int, epilogue: Epilogue) -> Linear | GroupedLinear:
    outputs, inputs = weight.values.shape
    if codes is None and weight.groups is not None:
        return GroupedLinear(positions, inputs, outputs, weight.group, epilogue)
    return Linear("uint8" if codes else "float32", positions, inputs, outputs, epilogue)


def _emit_batch(emitter: Emitter, region: Region) -> None:
    node = region.nodes[0]
    left, right = _present(node)[:2]
    *left_batch, m, k = shape_of(left)
    *right_batch, _, n = shape_of(right)
    batches = (prod(left_batch), prod(right_batch))
    epilogue, sources = tail(region, _bias(node))
    op = BatchMatMul(max(batches), m, k, n, *batches, epilogue)
    choice = emitter.choose(op)
    assert choice is not None, op
    views = [emitter.read(left), emitter.read(right)]
    extra = emit_operands(emitter, choice.spec, sources, epilogue.operands, LAST)
    emitter.call(choice.spec, [*views, *extra, emitter.make(region.output)], region.name)
    report_plain(emitter, region, choice.spec.family, choice.price)


def _bias(node: ir.Node) -> Source | None:
    """Gemm's third operand, `beta` folded in; a vector of all channels where it is known now."""
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    array = constant_of(bias)
    if bias is None or array is None:
        return bias
    shape = shape_of(node.outputs[0])
    if operand_kind(bias, shape, LAST) == "full" and shape[0] != 1:
        return bias
    return np.broadcast_to(array.reshape(-1) * np.float32(attribute(node, "beta", 1.0)), shape[-1:]).copy()


def _scaled(weight: Weight, node: ir.Node) -> Weight:
    alpha = attribute(node, "alpha", 1.0) if node.op_type == "Gemm" else 1.0
    if alpha == 1.0:
        return weight
    return Weight(weight.values * np.float32(alpha), None, None, weight.pattern, weight.density, weight.widened)


def _constant_matrix(value: ir.Value | None) -> bool:
    array: Array | None = constant_of(value)
    return array is not None and array.ndim == 2


def _present(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


ANCHORS = {"MatMul": Anchor(accepts_matmul, emit, LAST), "Gemm": Anchor(accepts_gemm, emit, LAST)}
