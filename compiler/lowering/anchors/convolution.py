# SPDX-License-Identifier: Apache-2.0
"""Conv in one and two dimensions, with a constant weight."""

import numpy as np
import onnx_ir as ir

from sparsec.compiler.graph import attribute, constant_of, itemsize, shape_of
from sparsec.compiler.lowering import layout
from sparsec.compiler.lowering.anchors.anchor import (
    Anchor,
    emit_operands,
    floats,
    integer_input,
    integer_tail,
    operand_layout,
    relayout_price,
    report,
    tail,
)
from sparsec.compiler.lowering.chain import Source
from sparsec.compiler.lowering.codes import Codes
from sparsec.compiler.lowering.emitter import Emitter, Packed
from sparsec.compiler.lowering.kernel import Array
from sparsec.compiler.lowering.ops import Convolution, Epilogue
from sparsec.compiler.lowering.regions import CHANNEL, Region
from sparsec.compiler.lowering.weights import Weight, weight_of


def accepts(node: ir.Node) -> bool:
    """A weight known now, one or two spatial axes, a bias known now or none."""
    constants = all(constant_of(value) is not None for value in node.inputs[1:] if value is not None)
    return floats(node) and constants and node.inputs[1] is not None and len(shape_of(node.inputs[1])) in (3, 4)


def emit(emitter: Emitter, region: Region) -> None:
    """In integers where both operands are quantized and a kernel does it, else in float32."""
    node = region.nodes[0]
    weight = weight_of(node.inputs[1], 0)  # type: ignore[arg-type]
    codes = integer_input(node.inputs[0], weight)
    if codes is None or not _emit(emitter, region, weight, codes):
        done = _emit(emitter, region, weight.in_float(), None)
        assert done, region.name


def _emit(emitter: Emitter, region: Region, weight: Weight, codes: Codes | None) -> bool:
    node = region.nodes[0]
    bias = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
    epilogue, sources = integer_tail(region, codes, weight, bias) if codes else tail(region, bias)
    data = codes.value if codes else node.inputs[0]
    assert data is not None
    op = _op(node, codes, epilogue)
    array = _array(weight, codes)
    price = relayout_price(emitter, data, CHANNEL, region.output)
    choice = emitter.choose(op, array, weight.pattern, relayout=price)
    if choice is None:
        return False
    packed = emitter.pack(choice.spec, array)
    _calls(emitter, region, data, (sources, epilogue.operands), packed)
    batch = shape_of(region.output)[0]
    macs = batch * op.out_size[0] * op.out_size[1] * array.size
    report(emitter, region, choice, weight, packed.arrays, macs)
    return True


def _calls(
    emitter: Emitter,
    region: Region,
    data: ir.Value,
    operands: tuple[list[Source], tuple[str, ...]],
    packed: Packed,
) -> None:
    """One call an image of the batch."""
    spec = packed.spec
    where_in, where_out = (layout.for_kernel(kind, CHANNEL) for kind in (spec.inputs[0], spec.output))
    source = emitter.read(data, where_in)
    extra = emit_operands(emitter, spec, operands[0], operands[1], CHANNEL)
    target = emitter.make(region.output, where_out)
    steps_in = _image_bytes(where_in, data)
    for image in range(shape_of(data)[0]):
        moved = [
            view.at(image * _image_bytes(operand_layout(spec, kind, CHANNEL), value))
            if isinstance(value, ir.Value) and kind in ("full", "codes")
            else view
            for view, value, kind in zip(extra, *operands, strict=True)
        ]
        out = target.at(image * _image_bytes(where_out, region.output))
        emitter.call_packed(packed, source.at(image * steps_in), moved, out, region.name)


def _image_bytes(where: layout.Layout, value: ir.Value) -> int:
    return where.image_elements(shape_of(value)) * itemsize(value)


def _array(weight: Weight, codes: Codes | None) -> Array:
    array = weight.values if codes is None else weight.codes
    assert array is not None
    return array if array.ndim == 4 else array[:, :, np.newaxis, :]


def _op(node: ir.Node, codes: Codes | None, epilogue: Epilogue) -> Convolution:
    assert node.inputs[0] is not None
    assert node.inputs[1] is not None
    _, channels, *size = shape_of(node.inputs[0])
    filters, _, *kernel = shape_of(node.inputs[1])
    flat = len(size) == 1
    pads = attribute(node, "pads", [0] * 2 * len(size))
    return Convolution(
        dtype="uint8" if codes else "float32",
        channels=channels,
        filters=filters,
        size=_pair(size, 1),
        kernel=_pair(kernel, 1),
        stride=_pair(attribute(node, "strides", [1] * len(size)), 1),
        dilation=_pair(attribute(node, "dilations", [1] * len(size)), 1),
        pads=(0, pads[0], 0, pads[1]) if flat else tuple(pads),
        groups=attribute(node, "group", 1),
        pad_code=codes.zero if codes else 0,
        epilogue=epilogue,
    )


def _pair(numbers: "list[int] | tuple[int, ...]", fill: int) -> tuple[int, int]:
    return (fill, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


ANCHORS = {"Conv": Anchor(accepts, emit, CHANNEL)}
