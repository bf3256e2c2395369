# SPDX-License-Identifier: Apache-2.0
"""ConvTranspose in two dimensions as ordinary convolutions, one for each residue of the output position.

With stride s and padding p, output s*j + a is the sum over u of w[r + s*u] * x[j + q - u], where q and r are quotient
and remainder of (a + p) / s: a convolution of the input with every s-th tap, flipped. Its results are interleaved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import onnx_ir as ir

from sparsec.compiler.graph import attribute, constant_of, shape_of
from sparsec.compiler.lowering import layout
from sparsec.compiler.lowering.anchors.anchor import Anchor, floats, report_plain
from sparsec.compiler.lowering.emitter import Emitter, View
from sparsec.compiler.lowering.expression import IDENTITY, Builder
from sparsec.compiler.lowering.kernel import Array
from sparsec.compiler.lowering.ops import PLAIN, Convolution, Elementwise, Epilogue, Operand
from sparsec.compiler.lowering.regions import CHANNEL, Region


@dataclass(frozen=True, slots=True)
class _Phase:
    """One residue along one axis: outputs `start`, `start + stride`, ...

    Attributes:
        start: The residue.
        count: Outputs of this residue.
        taps: Indices of the kernel's taps in the order of the equivalent convolution.
        before: Padding in front of the input.
        after: Padding behind it.
    """

    start: int
    count: int
    taps: tuple[int, ...]
    before: int
    after: int


def accepts(node: ir.Node) -> bool:
    """Two spatial axes, no dilation, constants for weight and bias, and every residue reached by a tap."""
    weight = constant_of(node.inputs[1])
    known = all(constant_of(value) is not None for value in node.inputs[1:] if value is not None)
    if not floats(node) or not known or weight is None or weight.ndim != 4 or any(d != 1 for d in _dilations(node)):
        return False
    phases = [phase for axis in (0, 1) for phase in _phases(node, axis)]
    return all(phase.taps and phase.before >= 0 and phase.after >= 0 and phase.count > 0 for phase in phases)


def emit(emitter: Emitter, region: Region) -> None:
    """Image by image, residue by residue."""
    node = region.nodes[0]
    data, target = node.inputs[0], emitter.make(region.output)
    assert data is not None
    batch, filters, *out = shape_of(region.output)
    source, price = emitter.read(data), 0.0
    for rows, columns in product(_phases(node, 0), _phases(node, 1)):
        op, weight, constants = _convolution(node, rows, columns)
        for image in range(batch):
            part = emitter.scratch(4 * filters * rows.count * columns.count)
            start = source.at(4 * image * op.channels * op.size[0] * op.size[1])
            price += _convolve(emitter, region, op, weight, constants, start, part)
            price += _interleave(emitter, region, (rows, columns), part, target, image, (filters, *out))
    report_plain(emitter, region, "convolution transposed", price)


def _convolution(node: ir.Node, rows: _Phase, columns: _Phase) -> tuple[Convolution, Array, list[Array]]:
    assert node.inputs[0] is not None
    _, channels, height, width = shape_of(node.inputs[0])
    weight, bias = constant_of(node.inputs[1]), constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
    assert weight is not None
    groups = attribute(node, "group", 1)
    taps = weight[:, :, rows.taps][:, :, :, columns.taps]
    grouped = taps.reshape(groups, channels // groups, *taps.shape[1:]).swapaxes(1, 2)
    kernel = np.ascontiguousarray(grouped.reshape(-1, channels // groups, *taps.shape[2:]))
    pads = (rows.before, columns.before, rows.after, columns.after)
    op = Convolution(
        "float32", channels, len(kernel), (height, width), (len(rows.taps), len(columns.taps)),
        pads=pads, groups=groups, epilogue=_epilogue(bias is not None),
    )  # fmt: skip
    return op, kernel, [] if bias is None else [bias]


def _epilogue(biased: bool) -> Epilogue:
    b = Builder()
    return Epilogue(b.build(b.call("add", b.arg(0), b.arg(1))), ("channel",)) if biased else Epilogue(IDENTITY)


def _convolve(
    emitter: Emitter, region: Region, op: Convolution, weight: Array, extra: Sequence[Array], source: View, out: View
) -> float:
    choice = emitter.choose(op, weight)
    assert choice is not None, op
    assert choice.spec.output == PLAIN or layout.for_kernel(choice.spec.output, CHANNEL).kind != "channels4"
    operands = [emitter.constant(array) for array in extra]
    emitter.call_packed(emitter.pack(choice.spec, weight), source, operands, out, region.name)
    return choice.price


def _interleave(
    emitter: Emitter,
    region: Region,
    phases: tuple[_Phase, _Phase],
    part: View,
    target: View,
    image: int,
    shape: tuple[int, ...],
) -> float:
    (rows, columns), (filters, height, width) = phases, shape
    strides = _strides(region.nodes[0])
    counts = (filters, rows.count, columns.count)
    operand = Operand("float32", (rows.count * columns.count, columns.count, 1))
    across = (height * width, strides[0] * width, strides[1])
    start = image * filters * height * width + rows.start * width + columns.start
    op = Elementwise(counts, (operand,), out_strides=across, out_offset=start)
    return emitter.run(op, [part, target], region.name)


def _phases(node: ir.Node, axis: int) -> list[_Phase]:
    assert node.inputs[0] is not None
    assert node.inputs[1] is not None
    length, out = shape_of(node.inputs[0])[2 + axis], shape_of(node.outputs[0])[2 + axis]
    taps, stride = shape_of(node.inputs[1])[2 + axis], _strides(node)[axis]
    pad = (attribute(node, "pads") or [0] * 4)[axis]
    return [_phase(start, length, out, taps, stride, pad) for start in range(stride)]


def _phase(start: int, length: int, out: int, taps: int, stride: int, pad: int) -> _Phase:
    shift, first = divmod(start + pad, stride)
    used = tuple(reversed(range(first, taps, stride)))
    count = -(-(out - start) // stride)
    before = len(used) - 1 - shift
    return _Phase(start, count, used, before, count - length - before + len(used) - 1)


def _strides(node: ir.Node) -> Sequence[int]:
    return attribute(node, "strides") or [1, 1]


def _dilations(node: ir.Node) -> Sequence[int]:
    return attribute(node, "dilations") or [1, 1]


ANCHORS = {"ConvTranspose": Anchor(accepts, emit)}
