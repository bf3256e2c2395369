# SPDX-License-Identifier: Apache-2.0
"""The elementwise nodes of a region as one `Expression` and the operands it reads."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from sparsec.compiler.graph import constant_of, scalar_of, shape_of
from sparsec.compiler.lowering.codes import TOP, Codes, codes_behind, quantizer
from sparsec.compiler.lowering.elementwise import clamp, express
from sparsec.compiler.lowering.expression import Builder, Expression
from sparsec.compiler.lowering.kernel import Array
from sparsec.compiler.lowering.regions import operand_kind

Source = Array | ir.Value
"""An operand: a constant, or a computed value (of float32, or of codes)."""


@dataclass(slots=True)
class Chain:
    """Steps and operands collected while walking a region's nodes.

    Attributes:
        shape: Of the region's output.
        axis: The channels' axis in it, for an anchored region.
        builder: The steps.
        operands: Kind (see `ops.Epilogue`; ``full`` also for what an elementwise kernel walks by strides), source.
        steps: The step of each value computed inside the region.
        first: Index of the first operand (1 where operand 0 is the anchor's result).
    """

    shape: tuple[int, ...]
    axis: int | None
    first: int = 1
    builder: Builder = field(default_factory=Builder)
    operands: list[tuple[str, Source]] = field(default_factory=list)
    steps: dict[ir.Value, int] = field(default_factory=dict)

    def load(self, kind: str, source: Source) -> int:
        """The step that reads an operand."""
        for index, (_, known) in enumerate(self.operands):
            if known is source:
                return self.builder.arg(self.first + index)
        self.operands.append((kind, source))
        return self.builder.arg(self.first + len(self.operands) - 1)

    def scalar(self, number: float) -> int:
        """The step that reads a number from memory, so that layers which differ in it share their code."""
        return self.load("scalar", np.array([number], np.float32))

    def value(self, value: ir.Value) -> int:
        """The step of a value, inside the region or out."""
        if value in self.steps:
            return self.steps[value]
        literal, codes = scalar_of(value), codes_behind(value)
        if literal is not None:
            return self.builder.const(literal)
        if codes is not None:
            return self._dequantize(codes)
        return self.load(self._kind(value), self._source(value))

    def walk(self, nodes: Sequence[ir.Node]) -> None:
        """Express the nodes, in order."""
        for node in nodes:
            codes = quantizer(node)
            self.steps[node.outputs[0]] = self._quantize(node, codes) if codes is not None else self._express(node)

    def finish(self, value: ir.Value) -> Expression:
        """The expression of a value."""
        return self.builder.build(self.steps[value])

    def _express(self, node: ir.Node) -> int:
        step = express(self.builder, node, [None if v is None else self.value(v) for v in node.inputs])
        assert step is not None, node.op_type
        return step

    def _quantize(self, node: ir.Node, codes: Codes) -> int:
        assert node.inputs[0] is not None
        scaled = self.builder.call("div", self.value(node.inputs[0]), self.scalar(codes.scale))
        code = self.builder.call("add", self.builder.call("round", scaled), self.builder.const(codes.zero))
        return clamp(self.builder, code, 0, TOP)

    def _dequantize(self, codes: Codes) -> int:
        same = shape_of(codes.value) == self.shape
        code = self.load("codes" if same else "full", codes.value)
        centred = self.builder.call("sub", code, self.builder.const(codes.zero)) if codes.zero else code
        return self.builder.call("mul", centred, self.scalar(codes.scale))

    def _kind(self, value: ir.Value) -> str:
        return operand_kind(value, self.shape, self.axis) or "full"

    def _source(self, value: ir.Value) -> Source:
        """Constants that are vectors or single elements by content, everything else by value."""
        array = constant_of(value)
        flat = array is not None and self.axis is not None and self._kind(value) in ("channel", "scalar")
        return array.reshape(-1) if flat and array is not None else value


@dataclass(frozen=True, slots=True)
class Affine:
    """result * gain[c] + offset[c] + sum of codes * factor, then clamped: what an integer layer's tail mostly is."""

    gain: Array
    offset: Array
    codes: tuple[tuple[Codes, float], ...] = ()
    low: float = -np.inf
    high: float = np.inf


def fold_tail(chain: Chain, affine: Affine, start: ir.Value, nodes: Sequence[ir.Node]) -> None:
    """Express the nodes after an integer anchor, whose exact result is `affine` of operand 0.

    Adds, clamps and the final quantization are folded into the affine form where that is all there is; then a code
    costs one multiply-add, one more for each residual, a clamp and a rounding.
    """
    folded = _fold(chain, affine, start, nodes)
    if folded is not None:
        chain.steps[nodes[-1].outputs[0]] = _rounded(chain, folded)
        return
    chain.steps[start] = _plain(chain, affine)
    chain.walk(nodes)


def _fold(chain: Chain, affine: Affine, value: ir.Value, nodes: Sequence[ir.Node]) -> Affine | None:
    for node in nodes:
        codes = quantizer(node)
        step = _scaled(affine, codes) if codes is not None else _absorb(chain, affine, value, node)
        if step is None:
            return None
        affine, value = step, node.outputs[0]
    return affine if nodes and quantizer(nodes[-1]) is not None else None


def _absorb(chain: Chain, affine: Affine, value: ir.Value, node: ir.Node) -> Affine | None:
    clamped = np.isfinite(affine.low) or np.isfinite(affine.high)
    if node.op_type == "Add" and not clamped:
        other = next((v for v in node.inputs if v is not value), None)
        return None if other is None else _add(chain, affine, other)
    if node.op_type == "Relu":
        return Affine(affine.gain, affine.offset, affine.codes, max(affine.low, 0.0), affine.high)
    if node.op_type == "Clip":
        low, high = ([*node.inputs[1:], None, None])[:2]
        floor = -np.inf if low is None else scalar_of(low)
        roof = np.inf if high is None else scalar_of(high)
        if floor is not None and roof is not None:
            return Affine(affine.gain, affine.offset, affine.codes, max(affine.low, floor), min(affine.high, roof))
    return None


def _add(chain: Chain, affine: Affine, other: ir.Value) -> Affine | None:
    codes, array = codes_behind(other), constant_of(other)
    if codes is not None and shape_of(codes.value) == chain.shape:
        return Affine(affine.gain, affine.offset, (*affine.codes, (codes, 1.0)))
    if array is not None and operand_kind(other, chain.shape, chain.axis) in ("channel", "scalar"):
        return Affine(affine.gain, affine.offset + array.reshape(-1).astype(np.float64), affine.codes)
    return None


def _scaled(affine: Affine, to: Codes) -> Affine:
    """In units of the output's codes."""
    bounds = np.rint(np.clip(np.array([affine.low, affine.high]) / to.scale + to.zero, 0, TOP))
    offset = affine.offset - sum(codes.scale * codes.zero * factor for codes, factor in affine.codes)
    factors = tuple((codes, factor * codes.scale / to.scale) for codes, factor in affine.codes)
    return Affine(affine.gain / to.scale, offset / to.scale + to.zero, factors, float(bounds[0]), float(bounds[1]))


def _plain(chain: Chain, affine: Affine) -> int:
    gained = chain.builder.call("mul", chain.builder.arg(0), chain.load("channel", affine.gain.astype(np.float32)))
    return chain.builder.call("add", gained, chain.load("channel", affine.offset.astype(np.float32)))


def _rounded(chain: Chain, affine: Affine) -> int:
    step = _plain(chain, affine)
    for codes, factor in affine.codes:
        term = chain.builder.call("mul", chain.load("codes", codes.value), chain.scalar(factor))
        step = chain.builder.call("add", step, term)
    return chain.builder.call("round", clamp(chain.builder, step, affine.low, affine.high))
