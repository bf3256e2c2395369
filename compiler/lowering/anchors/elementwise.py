# SPDX-License-Identifier: Apache-2.0
"""A chain of elementwise nodes without an anchor, and the borders between float32 and codes."""

from itertools import pairwise
from math import prod

import numpy as np
import onnx_ir as ir

from sparsec.compiler.graph import consumers_of, dtype_of, shape_of
from sparsec.compiler.lowering import layout
from sparsec.compiler.lowering.anchors.anchor import report_plain
from sparsec.compiler.lowering.anchors.movement import row_major
from sparsec.compiler.lowering.chain import Chain, Source
from sparsec.compiler.lowering.codes import Codes, codes_behind
from sparsec.compiler.lowering.emitter import Emitter, View
from sparsec.compiler.lowering.expression import Builder, Expression
from sparsec.compiler.lowering.layout import Box, Layout
from sparsec.compiler.lowering.ops import CHANNELS4, Elementwise, Operand
from sparsec.compiler.lowering.regions import Region


def emit(emitter: Emitter, region: Region) -> None:
    """One kernel over the output's shape; codes for a matrix product are written in the layout it reads."""
    chain = Chain(shape_of(region.output), None, first=0)
    chain.walk(region.nodes)
    sources = [source for _, source in chain.operands]
    expression = chain.finish(region.output)
    packed = _reader_layout(region.output)
    price = None if packed is None else _emit_packed(emitter, region, expression, sources, packed)
    if price is None:
        operands = tuple(_operand(source, chain.shape) for source in sources)
        views = [_view(emitter, source, layout.PLAIN) for source in sources]
        op = Elementwise(chain.shape, operands, expression, dtype_of(region.output))
        price = emitter.run(op, [*views, emitter.make(region.output)], region.name)
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


def _reader_layout(value: ir.Value) -> Layout | None:
    """The packed layout in which a convolution or matrix product would read these codes; None for anything else."""
    if dtype_of(value) != "uint8":
        return None
    numbers = [user.outputs[0] for user in consumers_of(value) if codes_behind(user.outputs[0])]
    readers = [user for number in numbers for user in consumers_of(number) if user.inputs[0] is number]
    views = {"Conv": "image", "MatMul": "tokens", "Gemm": "tokens"}
    found = sorted({views[user.op_type] for user in readers if user.op_type in views})
    return Layout(CHANNELS4, found[0]) if found else None


def _emit_packed(
    emitter: Emitter, region: Region, expression: Expression, sources: list[Source], packed: Layout
) -> float | None:
    """Write the output in a packed layout, box by box; the price, or None if an operand's strides do not allow it."""
    shape = shape_of(region.output)
    boxes = list(layout.boxes(shape, packed))
    walks = [_walk(emitter, source, shape, packed, boxes) for source in sources]
    if any(walk is None for walk in walks):
        return None
    views = [_view(emitter, source, where) for source, (where, _) in zip(sources, filter(None, walks), strict=True)]
    target, price = emitter.make(region.output, packed), 0.0
    for number, box in enumerate(boxes):
        operands = tuple(operands[number] for _, operands in filter(None, walks))
        op = Elementwise(box.sizes, operands, expression, "uint8", box.packed, box.start)
        price += emitter.run(op, [*views, target], region.name)
    return price


def _walk(
    emitter: Emitter, source: Source, shape: tuple[int, ...], packed: Layout, boxes: list[Box]
) -> tuple[Layout, list[Operand]] | None:
    """In which layout an operand is read, and how in each box."""
    if isinstance(source, np.ndarray):
        return layout.PLAIN, [Operand("float32", (0,) * len(box.sizes)) for box in boxes]
    dtype = dtype_of(source)
    if shape_of(source) == shape and emitter.has(source, packed):
        return packed, [Operand(dtype, box.packed, box.start) for box in boxes]
    strides = _channel_strides(_strides(shape_of(source), shape), shape, packed)
    if strides is None:
        return None
    return layout.PLAIN, [Operand(dtype, *box.walk(*strides)) for box in boxes]


def _channel_strides(strides: tuple[int, ...], shape: tuple[int, ...], packed: Layout) -> tuple[int, int, int] | None:
    """Strides per image, channel and position; None if the axes of the positions are not one axis in memory."""
    rank = len(shape)
    batch, channel = (None, rank - 1) if packed.view == "tokens" else (0, 1)
    along = [axis for axis in range(rank) if axis not in (batch, channel) and shape[axis] != 1]
    joined = all(strides[a] == strides[b] * shape[b] for a, b in pairwise(along))
    position = strides[along[-1]] if along else 0
    return (0 if batch is None else strides[0], strides[channel], position) if joined else None


def _strides(found: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    aligned = (1,) * (len(shape) - len(found)) + found
    return tuple(0 if dim == 1 else stride for dim, stride in zip(aligned, row_major(aligned), strict=True))


def _operand(source: Source, shape: tuple[int, ...]) -> Operand:
    if isinstance(source, np.ndarray):
        return Operand("float32", (0,) * len(shape))
    return Operand(dtype_of(source), _strides(shape_of(source), shape))


def _view(emitter: Emitter, source: Source, where: Layout) -> View:
    return emitter.constant(source) if isinstance(source, np.ndarray) else emitter.read(source, where)
