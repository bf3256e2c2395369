# SPDX-License-Identifier: Apache-2.0
"""ONNX operators that TVM's front end lacks, or gets wrong in some use, in terms of others that it knows.

Each rewrite is the text of a few nodes in ONNX's own syntax, from inputs i0, i1, ... to outputs o0, o1, ...
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx.parser import parse_graph

from sparsec.compiler.graph import attribute, shape_of

_INT32, _FLOAT, _DOUBLE = (int(kind) for kind in (ir.DataType.INT32, ir.DataType.FLOAT, ir.DataType.DOUBLE))


@dataclass(frozen=True, slots=True)
class Use:
    """A node, and what its outputs are called; an output that nobody wants has no name."""

    node: ir.Node
    outputs: tuple[str, ...]

    def kind(self, index: int) -> int:
        """ONNX's number of an input's type."""
        value = self.node.inputs[index]
        assert value is not None
        assert value.dtype is not None
        return int(value.dtype)

    def shape(self, index: int) -> tuple[int, ...]:
        """An input's shape."""
        value = self.node.inputs[index]
        assert value is not None
        return shape_of(value)

    def has(self, index: int) -> bool:
        """Whether an optional input is there."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None


Rewrite = Callable[[Use], str]


def rewritten(node: ir.Node, outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that stand for `node`; none where it can stand itself.

    Args:
        node: An ONNX node; its inputs are called i0, i1, ... in the result.
        outputs: The names of its outputs in the result, by position; empty for absent ones.
    """
    rewrite = REWRITES.get(node.op_type)
    text = rewrite(Use(node, tuple(outputs))) if rewrite else ""
    nodes = list(parse_graph(f"g () => () {{ {text} }}").node) if text else []
    for made in nodes:
        if made.op_type == "Conv":
            made.attribute.extend(ir.to_proto(kept) for kept in node.attributes.values())
    return nodes


def _integers(name: str, values: Sequence[int]) -> str:
    return f"{name} = Constant <value = int64[{len(values)}] {{{', '.join(map(str, values))}}}> ()\n"


def _centred(use: Use, name: str, index: int, zero: int, shape: Sequence[int]) -> str:
    """Input `index` as int32, less its zero point, which is seen in `shape`."""
    if not use.has(zero):
        return f"{name} = Cast <to = {_INT32}> (i{index})\n"
    return (
        f"{name}_wide = Cast <to = {_INT32}> (i{index})\n"
        f"{name}_zero = Cast <to = {_INT32}> (i{zero})\n"
        + _reshaped(f"{name}_off", f"{name}_zero", shape)
        + f"{name} = Sub ({name}_wide, {name}_off)\n"
    )


def _reshaped(name: str, source: str, shape: Sequence[int]) -> str:
    return _integers(f"{name}_shape", shape) + f"{name} = Reshape ({source}, {name}_shape)\n"


def _is_inf(use: Use) -> str:
    signs = {"Greater": "detect_positive", "Less": "detect_negative"}
    wanted = [op for op, name in signs.items() if attribute(use.node, name, 1)]
    if len(wanted) != 1:
        return ""
    return f"""any = IsInf (i0)
        zero = Constant <value = float {{0}}> ()
        typed = Cast <to = {use.kind(0)}> (zero)
        side = {wanted[0]} (i0, typed)
        o0 = And (any, side)"""


def _power(use: Use) -> str:
    base, exponent = use.kind(0), use.kind(1)
    if ir.DataType(base).is_floating_point():
        return "" if base == exponent else f"e = Cast <to = {base}> (i1)\n o0 = Pow (i0, e)"
    return f"""x = Cast <to = {_DOUBLE}> (i0)
        e = Cast <to = {_DOUBLE}> (i1)
        p = Pow (x, e)
        o0 = Cast <to = {base}> (p)"""


def _mod(use: Use) -> str:
    if attribute(use.node, "fmod", 0) or not ir.DataType(use.kind(0)).is_floating_point():
        return ""
    return f"""r = Mod <fmod = 1> (i0, i1)
        number = Constant <value = float {{0}}> ()
        zero = Cast <to = {use.kind(0)}> (number)
        below = Less (r, zero)
        divisor_below = Less (i1, zero)
        differ = Xor (below, divisor_below)
        exact = Equal (r, zero)
        rest = Not (exact)
        wrong = And (differ, rest)
        moved = Add (r, i1)
        o0 = Where (wrong, moved, r)"""


def _one_hot(use: Use) -> str:
    """Whole numbers as indices, and an axis that TVM counts as ONNX does."""
    axis = attribute(use.node, "axis", -1) % (len(use.shape(0)) + 1)
    return f"whole = Cast <to = {int(ir.DataType.INT64)}> (i0)\n o0 = OneHot <axis = {axis}> (whole, i1, i2)"


def _dropout(use: Use) -> str:
    if not any(use.outputs[1:]):
        return ""
    return f"""o0 = Identity (i0)
        nan = IsNaN (i0)
        number = Not (nan)
        {use.outputs[1]} = Or (nan, number)"""


def _layer_norm(use: Use) -> str:
    if not any(use.outputs[1:]):
        return ""
    rank = len(use.shape(0))
    names = dict(
        zip(("y", "mean", "inverse"), (name or f"unused{k}" for k, name in enumerate(use.outputs)), strict=False)
    )
    mean, inverse = names.get("mean", "unused1"), names.get("inverse", "unused2")
    scaled = names["y"] if not use.has(2) else "scaled"
    return (
        _integers("axes", range(attribute(use.node, "axis", -1) % rank, rank))
        + f"""x = Cast <to = {_FLOAT}> (i0)
        {mean} = ReduceMean (x, axes)
        d = Sub (x, {mean})
        square = Mul (d, d)
        variance = ReduceMean (square, axes)
        epsilon = Constant <value = float {{{attribute(use.node, "epsilon", 1e-5)!r}}}> ()
        safe = Add (variance, epsilon)
        deviation = Sqrt (safe)
        {inverse} = Reciprocal (deviation)
        normal = Mul (d, {inverse})
        typed = Cast <to = {use.kind(0)}> (normal)
        {scaled} = Mul (typed, i1)\n"""
        + (f"{names['y']} = Add (scaled, i2)" if use.has(2) else "")
    )


def _lp_normalization(use: Use) -> str:
    order = attribute(use.node, "p", 2)
    return (
        _integers("axes", [attribute(use.node, "axis", -1)])
        + f"""n = ReduceL{order} (i0, axes)
        number = Constant <value = float {{0}}> ()
        zero = Cast <to = {use.kind(0)}> (number)
        empty = Equal (n, zero)
        instead = Cast <to = {use.kind(0)}> (empty)
        safe = Add (n, instead)
        o0 = Div (i0, safe)"""
    )


def _global_lp_pool(use: Use) -> str:
    order = attribute(use.node, "p", 2)
    return _integers("axes", range(2, len(use.shape(0)))) + f"o0 = ReduceL{order} (i0, axes)" if order in (1, 2) else ""


def _conv_integer(use: Use) -> str:
    ones = [1] * (len(use.shape(1)) - 1)
    return _centred(use, "x", 0, 2, []) + _centred(use, "w", 1, 3, [-1, *ones]) + "o0 = Conv (x, w)"


def _q_linear_conv(use: Use) -> str:
    ones = [1] * (len(use.shape(3)) - 2)
    text = _centred(use, "x", 0, 2, []) + _centred(use, "w", 3, 5, [-1, 1, *ones]) + "sum = Conv (x, w)\n"
    if use.has(8):
        text += _reshaped("bias", "i8", [1, -1, *ones]) + "total = Add (sum, bias)\n"
    scales = _reshaped("xs", "i1", []) + _reshaped("ws", "i4", [1, -1, *ones]) + _reshaped("ys", "i6", [])
    return text + scales + _requantized(use, "total" if use.has(8) else "sum", 7)


def _q_linear_matmul(use: Use) -> str:
    rows = [-1, 1] if use.shape(2) not in ((), (1,)) else []
    columns = [-1] if use.shape(5) not in ((), (1,)) else []
    text = _centred(use, "x", 0, 2, rows) + _centred(use, "w", 3, 5, columns) + "sum = MatMul (x, w)\n"
    scales = _reshaped("xs", "i1", rows) + _reshaped("ws", "i4", columns) + _reshaped("ys", "i6", [])
    return text + scales + _requantized(use, "sum", 7)


def _requantized(use: Use, total: str, zero: int) -> str:
    """The int32 `total` times xs ws / ys, rounded, moved to the zero point and saturated."""
    kind = use.kind(zero)
    low, high = (0, 255) if kind == int(ir.DataType.UINT8) else (-128, 127)
    return (
        f"""real = Cast <to = {_FLOAT}> ({total})
        a = Cast <to = {_FLOAT}> (xs)
        b = Cast <to = {_FLOAT}> (ws)
        c = Cast <to = {_FLOAT}> (ys)
        ab = Mul (a, b)
        ratio = Div (ab, c)
        scaled = Mul (real, ratio)
        whole = Round (scaled)\n"""
        + _reshaped("z", f"i{zero}", [])
        + f"""offset = Cast <to = {_FLOAT}> (z)
        moved = Add (whole, offset)
        low = Constant <value = float {{{low}}}> ()
        high = Constant <value = float {{{high}}}> ()
        cut = Clip (moved, low, high)
        o0 = Cast <to = {kind}> (cut)"""
    )


REWRITES: Mapping[str, Rewrite] = {
    "ConvInteger": _conv_integer,
    "Dropout": _dropout,
    "GlobalLpPool": _global_lp_pool,
    "IsInf": _is_inf,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_normalization,
    "Mod": _mod,
    "OneHot": _one_hot,
    "Pow": _power,
    "QLinearConv": _q_linear_conv,
    "QLinearMatMul": _q_linear_matmul,
}
"""By operator; an empty text leaves the node as it is."""
