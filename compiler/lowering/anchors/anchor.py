# SPDX-License-Identifier: Apache-2.0
"""What an anchor is, and what the weighted ones share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import onnx_ir as ir

from sparsec.compiler.graph import dtype_of, shape_of
from sparsec.compiler.lowering import layout
from sparsec.compiler.lowering.chain import Affine, Chain, Source, fold_tail
from sparsec.compiler.lowering.codes import Codes, codes_behind
from sparsec.compiler.lowering.emitter import Emitter, View
from sparsec.compiler.lowering.kernel import Array, KernelSpec
from sparsec.compiler.lowering.layout import Layout
from sparsec.compiler.lowering.ops import CHANNELS, CHANNELS4, Epilogue
from sparsec.compiler.lowering.ops import PLAIN as ROW_MAJOR
from sparsec.compiler.lowering.program import LayerChoice
from sparsec.compiler.lowering.regions import CHANNEL, Region
from sparsec.compiler.lowering.select import Choice
from sparsec.compiler.lowering.weights import Weight


@dataclass(frozen=True, slots=True)
class Anchor:
    """One operator's row in the table.

    Attributes:
        accepts: Whether a node is a use that `emit` can do.
        emit: Appends the calls of a region that starts with such a node.
        axis: The channels' axis in its output, for its epilogue; None if it takes none.
    """

    accepts: Callable[[ir.Node], bool]
    emit: Callable[[Emitter, Region], None]
    axis: int | None = None


def floats(node: ir.Node) -> bool:
    """Whether every present input and output is float32."""
    return all(v is None or dtype_of(v) == "float32" for v in (*node.inputs, *node.outputs))


def floats_data(node: ir.Node) -> bool:
    """Whether the first input and the outputs are float32."""
    values = [node.inputs[0], *node.outputs]
    return all(value is not None and value.dtype == ir.DataType.FLOAT for value in values)


def tail(region: Region, bias: Source | None) -> tuple[Epilogue, list[Source]]:
    """The epilogue of a float32 anchor: its bias, then the region's other nodes."""
    chain = Chain(shape_of(region.output), region.axis)
    start = chain.builder.arg(0)
    if bias is not None:
        start = chain.builder.call("add", start, _bias_step(chain, bias))
    chain.steps[region.nodes[0].outputs[0]] = start
    chain.walk(region.nodes[1:])
    return _epilogue(chain, region)


def integer_tail(region: Region, codes: Codes, weight: Weight, bias: Array | None) -> tuple[Epilogue, list[Source]]:
    """The epilogue of an integer anchor: back to real numbers, bias, the region's other nodes."""
    assert weight.scales is not None
    gain = np.float64(codes.scale) * weight.scales.astype(np.float64)
    offset = (0.0 if bias is None else bias.astype(np.float64)) - codes.zero * weight.code_sums * gain
    chain = Chain(shape_of(region.output), region.axis)
    first = region.nodes[0].outputs[0]
    fold_tail(chain, Affine(gain, offset), first, region.nodes[1:])
    return _epilogue(chain, region)


def integer_input(value: ir.Value | None, weight: Weight) -> Codes | None:
    """The codes to compute with, if both operands are quantized the way the integer kernels want."""
    return codes_behind(value) if weight.codes is not None else None


def emit_operands(
    emitter: Emitter, spec: KernelSpec, sources: Sequence[Source], kinds: Sequence[str], axis: int | None
) -> list[View]:
    """Views of the epilogue's operands.

    Those of the output's shape are row-major for a row-major token kernel; else, whatever is stored, float32 in
    ``channels`` and codes in ``channels4``.
    """
    return [
        emitter.constant(source)
        if isinstance(source, np.ndarray)
        else emitter.read(source, operand_layout(spec, kind, axis))
        for source, kind in zip(sources, kinds, strict=True)
    ]


def operand_layout(spec: KernelSpec, kind: str, axis: int | None) -> Layout:
    """The layout in which a kernel reads an epilogue's operand of this kind."""
    packed = {"full": CHANNELS, "codes": CHANNELS4}.get(kind)
    if packed is None or (axis != CHANNEL and spec.output == ROW_MAJOR):
        return layout.PLAIN
    return layout.for_kernel(packed, axis)


def relayout_price(emitter: Emitter, value: ir.Value, axis: int | None, out: ir.Value) -> Callable[[KernelSpec], float]:
    """Prices the copies a spec would cause before and after it."""

    def price(spec: KernelSpec) -> float:
        before, after = layout.for_kernel(spec.inputs[0], axis), layout.for_kernel(spec.output, axis)
        missing = not emitter.has(value, before)
        returned = dtype_of(out) == "float32" and after.simplest(shape_of(out)) != layout.PLAIN
        moved = [v for v, needed in ((value, missing), (out, returned)) if needed]
        return sum(_copy_price(emitter, v, before) for v in moved)

    return price


def report(
    emitter: Emitter, region: Region, choice: Choice, weight: Weight | None, packed: Sequence[Array], macs: int
) -> None:
    """Add the layer's line to the report."""
    emitter.report(
        LayerChoice(
            name=region.name,
            op=region.label,
            pattern=weight.pattern if weight else "dense",
            density=weight.density if weight else 1.0,
            bytes=sum(array.nbytes for array in packed),
            kernel=_kernel_text(choice, weight),
            price=choice.price,
            rival_price=choice.rival_price if weight else None,
            refused=choice.refused,
            macs=macs,
            breakeven_density=choice.breakeven_density,
            shape=weight.values.shape if weight else (),
            precision=_precision(weight),
        )
    )


def _precision(weight: Weight | None) -> str:
    if weight is None:
        return ""
    return "int8" if weight.codes is not None else "int4" if weight.groups is not None else "float32"


def _kernel_text(choice: Choice, weight: Weight | None) -> str:
    """Family and exploited pattern, and a precision that is computed as float32."""
    widened = f" ({weight.widened} as float32)" if weight and weight.widened else ""
    return f"{choice.spec.family} {choice.spec.pattern}{widened}"


def report_plain(emitter: Emitter, region: Region, kernel: str, price: float) -> None:
    """Add the line of a layer without weights."""
    emitter.report(LayerChoice(region.name, region.label, "dense", 1.0, 0, kernel, price, None, ""))


def _copy_price(emitter: Emitter, value: ir.Value, where: Layout) -> float:
    shape = shape_of(value)
    steps = list(layout.copies(shape, dtype_of(value), where, backwards=False)) if where != layout.PLAIN else []
    choices = [emitter.choose(op) for op in steps]
    return reduce(lambda total, choice: total + (choice.price if choice else 0.0), choices, 0.0)


def _bias_step(chain: Chain, bias: Source) -> int:
    if isinstance(bias, np.ndarray):
        return chain.load("channel", bias)
    return chain.value(bias)


def _epilogue(chain: Chain, region: Region) -> tuple[Epilogue, list[Source]]:
    kinds = tuple(kind for kind, _ in chain.operands)
    return (
        Epilogue(chain.finish(region.output), kinds, dtype_of(region.output)),
        [source for _, source in chain.operands],
    )
