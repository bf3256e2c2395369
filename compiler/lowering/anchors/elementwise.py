# SPDX-License-Identifier: Apache-2.0
"""A chain of elementwise nodes without an anchor, and the borders between float32 and codes."""

from math import prod

import numpy as np
import onnx_ir as ir

from sparsec.compiler.graph import consumers_of, dtype_of, shape_of, source_of
from sparsec.compiler.lowering import layout
from sparsec.compiler.lowering.anchors.anchor import report_plain
from sparsec.compiler.lowering.anchors.movement import row_major
from sparsec.compiler.lowering.chain import Chain, Source
from sparsec.compiler.lowering.codes import Codes, codes_behind
from sparsec.compiler.lowering.emitter import Emitter
from sparsec.compiler.lowering.expression import Builder
from sparsec.compiler.lowering.layout import Layout
from sparsec.compiler.lowering.ops import CHANNELS4, Elementwise, Operand
from sparsec.compiler.lowering.regions import Region


def emit(emitter: Emitter, region: Region) -> None:
    """One kernel over the output's shape; over flat bytes where everything is codes in one packed layout."""
    chain = Chain(shape_of(region.output), None, first=0)
    chain.walk(region.nodes)
    sources = [source for _, source in chain.operands]
    expression, dtype = chain.finish(region.output), dtype_of(region.output)
    packed = _packed(emitter, region, sources)
    where = packed or layout.PLAIN
    shape = (where.elements(chain.shape),) if packed else chain.shape
    operands = tuple(_operand(source, shape, flat=packed is not None) for source in sources)
    views = [
        emitter.constant(source) if isinstance(source, np.ndarray) else emitter.read(source, where)
        for source in sources
    ]
    op = Elementwise(shape, operands, expression, dtype)
    price = emitter.run(op, [*views, emitter.make(region.output, where)], region.name)
    report_plain(emitter, region, "elementwise", price)


def dequantize(emitter: Emitter, value: ir.Value, codes: Codes) -> None:
    """Write the real numbers behind codes; done only when somebody reads them."""
    b = Builder()
    centred = b.call("sub", b.arg(0), b.const(codes.zero)) if codes.zero else b.arg(0)
    expression = b.build(b.call("mul", centred, b.arg(1)))
    n = prod(shape_of(value))
    op = Elementwise((n,), (Operand("uint8", (1,)), Operand("float32", (0,))), expression)
    views = [emitter.read(codes.value), emitter.constant(np.array([codes.scale], np.float32))]
    emitter.run(op, [*views, emitter.make(value)], f"dequantize {codes.value.name}")


def _packed(emitter: Emitter, region: Region, sources: list[Source]) -> Layout | None:
    """The packed layout to work in: all operands have it (numbers aside), and a consumer wants it."""
    values = [source for source in sources if isinstance(source, ir.Value)]
    same = all(shape_of(v) == shape_of(region.output) and dtype_of(v) == "uint8" for v in values)
    if dtype_of(region.output) != "uint8" or not values or not same:
        return None
    for view in ("image", "tokens"):
        where = Layout(CHANNELS4, view)
        fits = view == "tokens" or len(shape_of(region.output)) > 2
        if fits and all(emitter.has(v, where) for v in values):
            return where
    return None


def _operand(source: Source, shape: tuple[int, ...], *, flat: bool) -> Operand:
    if isinstance(source, np.ndarray):
        return Operand("float32", (0,) * len(shape))
    if flat:
        return Operand(dtype_of(source), (1,))
    found = shape_of(source)
    aligned = (1,) * (len(shape) - len(found)) + found
    strides = tuple(0 if dim == 1 else stride for dim, stride in zip(aligned, row_major(aligned), strict=True))
    return Operand(dtype_of(source), strides)


def is_integer_input(value: ir.Value) -> bool:
    """Whether codes go to a matrix product or convolution."""
    readers = [user.outputs[0] for user in consumers_of(value) if codes_behind(user.outputs[0])]
    return any(source_of(user.outputs[0], "Conv", "MatMul", "Gemm") for v in readers for user in consumers_of(v))
