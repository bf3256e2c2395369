# SPDX-License-Identifier: Apache-2.0
"""Will pruning help? The predicted gain of each pattern over the best dense kernel, at every density, before pruning.

Everything comes from the back end's prices: a random weight of the pattern stands for the real one, so that the map
needs no model. Patterns and precisions are those that the back end's kernels offer.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isqrt, prod

import numpy as np

from sparsec.compiler.errors import RecipeError
from sparsec.compiler.lowering.expression import Builder
from sparsec.compiler.lowering.kernel import Array, Backend, KernelSpec
from sparsec.compiler.lowering.ops import Convolution, Epilogue, GroupedLinear, Linear
from sparsec.compiler.lowering.program import LayerChoice
from sparsec.compiler.lowering.repricing import (
    pays_from,
    possible_densities,
    price_specs,
    repricer,
)
from sparsec.compiler.pattern import NM, Block, Pattern, parse_pattern

_PATTERNS = tuple(
    parse_pattern(text)
    for text in (
        "block(8x4)", "block(4x4)", "block(2x4)", "block(1x4)", "block(8x1)", "block(4x1)", "block(2x1)",
        "unstructured", "nm(2:4)",
    )
)  # fmt: skip
"""Asked for unless others are; what no kernel of the back end exploits is left out."""
_GROUPS = tuple(Block(1, size) for size in (16, 32, 64, 128))
"""Of 4-bit weights: whole groups are zero, and a group has a scale of its own."""
PRECISIONS = ("float32", "int8", "int4")
"""Of weights; activations are float32 with int4 weights, else as the weights."""
MOST_CURVES = 6
"""Of one report."""
_MOST_REPORTED = 1 << 22
"""Weights of a layer that gets a curve in a report: large ones take seconds."""
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Points of a curve, where the pattern can have any density."""
_Operation = Convolution | Linear | GroupedLinear
_SEED = 0
_MOST_WEIGHTS = 1 << 26
_TEXT = re.compile(r"(\d{1,5})x(\d{1,5})x(\d{1,6})(?:x(\d{1,2})x(\d{1,2}))?")


@dataclass(frozen=True, slots=True)
class Shape:
    """A layer: a matrix product, or a convolution of stride 1 that keeps the size of the image.

    Attributes:
        outputs: Rows of the weight, or filters.
        inputs: Columns of the weight, or channels.
        positions: Tokens, or pixels; 1 for a product of matrix and vector.
        kernel: Height and width.
    """

    outputs: int
    inputs: int
    positions: int
    kernel: tuple[int, int] = (1, 1)

    def __str__(self) -> str:
        taps = "" if self.kernel == (1, 1) else f"x{self.kernel[0]}x{self.kernel[1]}"
        return f"{self.outputs}x{self.inputs}x{self.positions}{taps}"

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Read ``OUTxINxPOSITIONS`` or ``OUTxINxPOSITIONSxHEIGHTxWIDTH``; the inverse of ``str(shape)``.

        Raises:
            RecipeError: If the text is none, or a side is 0 or too large.
        """
        match = _TEXT.fullmatch(text.strip())
        sides = [int(side) for side in match.groups(default="1")] if match else [0]
        if 0 in sides or sides[0] * sides[1] * prod(sides[3:]) > _MOST_WEIGHTS:
            msg = (
                f"Shape '{text}': expected OUTxINxPOSITIONS such as '256x256x196', or OUTxINxPOSITIONSxHEIGHTxWIDTH "
                "for a convolution such as '64x64x3136x3x3', with at most 64 Mi weights."
            )
            raise RecipeError(msg)
        return cls(sides[0], sides[1], sides[2], (sides[3], sides[4]))


SHAPES = tuple(
    Shape.parse(text)
    for text in (
        "64x64x3136", "128x128x784", "256x256x196", "512x512x196", "384x64x196", "192x1152x49", "1024x1024x49",
        "384x384x128", "1000x1280x1", "2048x768x1", "64x64x784x3x3",
    )
)  # fmt: skip
"""Pointwise layers from large images to 7x7, tokens, matrix and vector, and one convolution of 3x3."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The predicted gain of one pattern for one layer.

    Attributes:
        shape: Of the layer.
        pattern: Text form.
        precision: One of `PRECISIONS`.
        densities: Share of the pattern's units that are kept, ascending.
        ratios: The best dense kernel's price over the best sparse one's, at each density.
        pays_from: The highest density at which selection takes the sparse kernel; None if there is none.
        rival: The dense kernel's price in microseconds.
    """

    shape: Shape
    pattern: str
    precision: str
    densities: tuple[float, ...]
    ratios: tuple[float, ...]
    pays_from: float | None
    rival: float


def curves(
    backend: Backend,
    shapes: Sequence[Shape] = SHAPES,
    patterns: Sequence[str] | None = None,
    precisions: Sequence[str] = PRECISIONS,
    densities: Sequence[float] = DENSITIES,
) -> list[Curve]:
    """The whole map; combinations that no kernel of the back end exploits are left out.

    Args:
        backend: Of the target, with the profile to price by.
        shapes: Of layers.
        patterns: Text forms over the weight seen as [out, in x height x width]; None for those of `patterns_for`.
        precisions: Of `PRECISIONS`.
        densities: Points of each curve; those of a pattern ``nm(n:m)`` are all m-ths.
    """
    return [found for shape in shapes for found in curves_of(backend, shape, patterns, precisions, densities)]


def curves_of(
    backend: Backend,
    shape: Shape,
    patterns: Sequence[str] | None = None,
    precisions: Sequence[str] = PRECISIONS,
    densities: Sequence[float] = DENSITIES,
) -> Iterator[Curve]:
    """The map's part of one layer; see `curves`."""
    for precision in precisions:
        known: dict[int, _Problem | None] = {}
        for pattern in patterns or patterns_for(shape, _GROUPS if precision == "int4" else _PATTERNS):
            group = _group(pattern) if precision == "int4" else 0
            if group not in known:
                known[group] = _Problem.of(backend, shape, precision, group)
            problem = known[group]
            curve = problem.curve(pattern, densities) if problem else None
            if curve is not None:
                yield curve


def _group(pattern: str) -> int:
    """The group size of 4-bit weights of which whole groups are zero; 1, of which there is no kernel, for others."""
    parsed = parse_pattern(pattern)
    return parsed.cols if isinstance(parsed, Block) and parsed.rows == 1 else 1


def patterns_for(shape: Shape, patterns: Sequence[Pattern] = _PATTERNS) -> list[str]:
    """Patterns as passes name them, over a layer's weight: blocks of a convolution are blocks of whole kernels."""
    taps = prod(shape.kernel)
    known = patterns if taps == 1 else [pattern for pattern in patterns if not isinstance(pattern, NM)]
    return [str(Block(p.rows, p.cols * taps) if isinstance(p, Block) else p) for p in known]


def label(curve: Curve) -> str:
    """The curve's pattern as passes name it: blocks of whole kernels, whatever the kernel's size."""
    pattern, taps = parse_pattern(curve.pattern), prod(curve.shape.kernel)
    if not isinstance(pattern, Block) or pattern.cols % taps:
        return curve.pattern
    return str(Block(pattern.rows, pattern.cols // taps))


def for_layers(backend: Backend, layers: Sequence[LayerChoice], most: int = MOST_CURVES) -> list[Curve]:
    """Curves for the layers with zeros: one for each pattern and precision, for the layer whose dense price is highest.

    Args:
        backend: Of the target.
        layers: As selection left them; those without a pattern, or with groups, have no curve.
        most: So many curves, the dearest layers' first.
    """
    dearest: dict[tuple[str, str], LayerChoice] = {}
    for layer in sorted(layers, key=lambda layer: (-(layer.rival_price or 0.0), layer.name)):
        if layer.pattern != "dense" and layer.rival_price and _shape_of(layer):
            dearest.setdefault((layer.pattern, layer.precision), layer)
    found = []
    for (pattern, precision), layer in list(dearest.items())[:most]:
        shape = _shape_of(layer)
        found += list(curves_of(backend, shape, [pattern], [precision])) if shape else []
    return found


def shapes_of(layers: Sequence[LayerChoice], most: int) -> list[Shape]:
    """The different shapes of a model's layers with weights, but those of grouped convolutions; the dearest first."""
    dearest = sorted(layers, key=lambda layer: (-(layer.rival_price or 0.0), layer.name))
    return list(dict.fromkeys(shape for layer in dearest if (shape := _shape_of(layer))))[:most]


def _shape_of(layer: LayerChoice) -> Shape | None:
    """None without a weight, where it is so large that pricing takes long, and for depthwise convolutions."""
    weights = prod(layer.shape)
    if len(layer.shape) not in (2, 3, 4) or not 0 < weights <= _MOST_REPORTED or layer.precision not in PRECISIONS:
        return None
    outputs, inputs, *taps = layer.shape
    positions, rest = divmod(layer.macs, weights)
    if rest or not positions or (taps and inputs == 1):
        return None
    return Shape(outputs, inputs, positions, (taps[0] if len(taps) > 1 else 1, taps[-1]) if taps else (1, 1))


@dataclass(frozen=True, slots=True)
class _Problem:
    """A layer in one precision (and group size), with its dense price and a weight without zeros."""

    backend: Backend
    shape: Shape
    precision: str
    op: _Operation
    weight: Array
    rival: float

    @classmethod
    def of(cls, backend: Backend, shape: Shape, precision: str, group: int) -> "_Problem | None":
        op, weight = operation(shape, precision, group), full_weight(shape, precision)
        dense = price_specs(backend, _candidates(backend, op, "dense"), weight)
        return cls(backend, shape, precision, op, weight, dense[0][0]) if dense else None

    def curve(self, pattern: str, densities: Sequence[float]) -> Curve | None:
        parsed = parse_pattern(pattern)
        possible = possible_densities(parsed)
        points = sorted(d for d in densities if 0 < d <= 1) if len(possible) > 32 else possible
        specs = [spec for spec in _candidates(self.backend, self.op, pattern) if spec.pattern != "dense"]
        if not specs or not points:
            return None
        prices = repricer(self.backend, specs, self.weight, pattern)
        ratios = tuple(self.rival / prices.price(density) for density in points)
        paying = pays_from(prices.price, self.rival, possible)
        return Curve(self.shape, pattern, self.precision, tuple(points), ratios, paying, self.rival)


def _candidates(backend: Backend, op: _Operation, pattern: str) -> list[KernelSpec]:
    return [spec for kernel in backend.kernels.values() for spec in kernel.candidates(op, pattern, backend.lanes)]


def operation(shape: Shape, precision: str, group: int = 0) -> _Operation:
    """What a layer of this shape computes: a bias and an activation follow, and codes where codes came.

    Args:
        shape: Of the layer.
        precision: One of `PRECISIONS`.
        group: Weights that share a scale, for ``int4``.
    """
    if precision == "int4":
        return GroupedLinear(shape.positions, shape.inputs, shape.outputs, group, _EPILOGUES["float32"])
    dtype = "uint8" if precision == "int8" else "float32"
    if shape.positions == 1 and shape.kernel == (1, 1):
        return Linear(dtype, 1, shape.inputs, shape.outputs, _EPILOGUES[precision])
    pads = [((k - 1) // 2, k // 2) for k in shape.kernel]
    return Convolution(
        dtype,
        shape.inputs,
        shape.outputs,
        _sides(shape.positions),
        shape.kernel,
        pads=(pads[0][0], pads[1][0], pads[0][1], pads[1][1]),
        epilogue=_EPILOGUES[precision],
    )


_ONE_AND_EIGHT = 0x3C00_8080
"""An element of a 4-bit group of scale 1 and zero point 8, of code 0."""


def _sides(positions: int) -> tuple[int, int]:
    """Height and width, as nearly square as the number of positions allows."""
    height = next(side for side in range(isqrt(positions), 0, -1) if positions % side == 0)
    return height, positions // height


def full_weight(shape: Shape, precision: str) -> Array:
    """Seeded random weights without a zero: float32, int8 codes, or elements of 4-bit groups (see `groups.join`)."""
    generator = np.random.default_rng(_SEED)
    taps = shape.kernel if shape.kernel != (1, 1) or shape.positions > 1 else ()
    if precision == "int4":
        return generator.integers(_ONE_AND_EIGHT, _ONE_AND_EIGHT + 16, (shape.outputs, shape.inputs), dtype=np.uint32)
    values = generator.uniform(0.5, 1.0, (shape.outputs, shape.inputs, *taps)).astype(np.float32)
    return np.round(127 * values).astype(np.int8) if precision == "int8" else values


def _requantizing() -> Epilogue:
    b = Builder()
    value = b.call("add", b.call("mul", b.arg(0), b.arg(1)), b.arg(2))
    clamped = b.call("min", b.call("max", value, b.const(0)), b.const(127))
    return Epilogue(b.build(b.call("round", clamped)), ("channel", "channel"), "uint8")


def _biased() -> Epilogue:
    b = Builder()
    value = b.call("add", b.arg(0), b.arg(1))
    return Epilogue(b.build(b.call("max", value, b.const(0))), ("channel",))


_EPILOGUES = {"float32": _biased(), "int8": _requantizing()}
