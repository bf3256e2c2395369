# SPDX-License-Identifier: Apache-2.0
"""ONNX's elementwise operators as steps of an `Expression`: a table, one line an operator.

A rule takes the builder, the node and the steps of its inputs (None for an absent one) and returns the step of the
result, or None if this use of the operator is not expressible.
"""

from collections.abc import Callable
from functools import reduce
from math import pi, sqrt

import onnx_ir as ir

from sparsec.compiler.graph import attribute, dtype_of, scalar_of
from sparsec.compiler.lowering.expression import Builder

Inputs = list[int | None]
Rule = Callable[[Builder, ir.Node, Inputs], int | None]


def is_elementwise(node: ir.Node) -> bool:
    """Whether a node has a rule and computes float32 from float32."""
    return (
        node.domain in ("", "ai.onnx")
        and node.op_type in RULES
        and len(node.outputs) == 1
        and all(v is None or dtype_of(v) == "float32" for v in (*node.inputs, *node.outputs))
        and express(Builder(), node, list(range(len(node.inputs)))) is not None
    )


def express(builder: Builder, node: ir.Node, inputs: Inputs) -> int | None:
    """The step that computes the node from the steps of its inputs; None if its rule declines."""
    present = [None if value is None else step for value, step in zip(node.inputs, inputs, strict=True)]
    return RULES[node.op_type](builder, node, present)


def _call(name: str) -> Rule:
    def rule(b: Builder, _node: ir.Node, x: Inputs) -> int | None:
        steps = [step for step in x if step is not None]
        return b.call(name, *steps)

    return rule


def _fold(name: str) -> Rule:
    return lambda b, _node, x: reduce(lambda left, right: b.call(name, left, right), [s for s in x if s is not None])


def _unary(build: Callable[[Builder, ir.Node, int], int | None]) -> Rule:
    def rule(b: Builder, node: ir.Node, x: Inputs) -> int | None:
        assert x[0] is not None
        return build(b, node, x[0])

    return rule


def clamp(b: Builder, x: int, low: float, high: float) -> int:
    """min(max(x, low), high)."""
    return b.call("min", b.call("max", x, b.const(low)), b.const(high))


def _clip(b: Builder, node: ir.Node, x: Inputs) -> int | None:
    bounds = [*x[1:], None, None][:2]
    for name, step, key in zip(("max", "min"), bounds, ("min", "max"), strict=True):
        literal = attribute(node, key)
        step = b.const(literal) if literal is not None else step
        x = [b.call(name, x[0], step)] if step is not None and x[0] is not None else x
    return x[0]


def _pow(b: Builder, node: ir.Node, x: Inputs) -> int | None:
    base, exponent = x[0], scalar_of(node.inputs[1])
    if base is None or exponent not in (-1.0, -0.5, 0.5, 1.0, 2.0, 3.0, 4.0):
        return None
    magnitude = {0.5: lambda: b.call("sqrt", base), 1.0: lambda: base}.get(
        abs(exponent), lambda: reduce(lambda left, _: b.call("mul", left, base), range(int(abs(exponent)) - 1), base)
    )()
    return magnitude if exponent > 0 else b.call("div", b.const(1), magnitude)


def _prelu(b: Builder, _node: ir.Node, x: Inputs) -> int | None:
    assert x[0] is not None
    assert x[1] is not None
    return b.call("select", b.call("less", x[0], b.const(0)), b.call("mul", x[0], x[1]), x[0])


def _where_negative(b: Builder, x: int, negative: int, positive: int) -> int:
    return b.call("select", b.call("less", x, b.const(0)), negative, positive)


def _leaky(b: Builder, node: ir.Node, x: int) -> int:
    return _where_negative(b, x, b.call("mul", x, b.const(attribute(node, "alpha", 0.01))), x)


def _hard_sigmoid(b: Builder, x: int, alpha: float, beta: float) -> int:
    return clamp(b, b.call("add", b.call("mul", x, b.const(alpha)), b.const(beta)), 0, 1)


def _hard_swish(b: Builder, _node: ir.Node, x: int) -> int:
    return b.call("mul", x, _hard_sigmoid(b, x, 1 / 6, 0.5))


def _expm1(b: Builder, x: int) -> int:
    return b.call("sub", b.call("exp", b.call("min", x, b.const(0))), b.const(1))


def _elu(b: Builder, node: ir.Node, x: int) -> int:
    return _where_negative(b, x, b.call("mul", b.const(attribute(node, "alpha", 1.0)), _expm1(b, x)), x)


def _selu(b: Builder, node: ir.Node, x: int) -> int:
    alpha = attribute(node, "alpha", 1.67326319217681884765625)
    gamma = attribute(node, "gamma", 1.05070102214813232421875)
    return b.call("mul", b.const(gamma), _where_negative(b, x, b.call("mul", b.const(alpha), _expm1(b, x)), x))


def _softplus(b: Builder, _node: ir.Node, x: int) -> int:
    """log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)), which does not overflow."""
    tail = b.call("log", b.call("add", b.const(1), b.call("exp", b.call("neg", b.call("abs", x)))))
    return b.call("add", b.call("max", x, b.const(0)), tail)


def _gelu(b: Builder, node: ir.Node, x: int) -> int:
    if attribute(node, "approximate", "none") == "tanh":
        cube = b.call("mul", b.call("mul", x, x), x)
        inner = b.call("add", x, b.call("mul", b.const(0.044715), cube))
        curve = b.call("tanh", b.call("mul", b.const(sqrt(2 / pi)), inner))
    else:
        curve = b.call("erf", b.call("mul", x, b.const(sqrt(0.5))))
    return b.call("mul", b.call("mul", b.const(0.5), x), b.call("add", b.const(1), curve))


def _thresholded(b: Builder, node: ir.Node, x: int) -> int:
    above = b.call("less", b.const(attribute(node, "alpha", 1.0)), x)
    return b.call("select", above, x, b.const(0))


RULES: dict[str, Rule] = {
    "Add": _call("add"),
    "Sub": _call("sub"),
    "Mul": _call("mul"),
    "Div": _call("div"),
    "Max": _fold("max"),
    "Min": _fold("min"),
    "Sum": _fold("add"),
    "Neg": _call("neg"),
    "Abs": _call("abs"),
    "Sqrt": _call("sqrt"),
    "Exp": _call("exp"),
    "Log": _call("log"),
    "Tanh": _call("tanh"),
    "Erf": _call("erf"),
    "Sigmoid": _call("sigmoid"),
    "Floor": _call("floor"),
    "Ceil": _call("ceil"),
    "Round": _call("round"),
    "Clip": _clip,
    "Pow": _pow,
    "PRelu": _prelu,
    "Relu": _unary(lambda b, _, x: b.call("max", x, b.const(0))),
    "Reciprocal": _unary(lambda b, _, x: b.call("div", b.const(1), x)),
    "LeakyRelu": _unary(_leaky),
    "HardSigmoid": _unary(lambda b, n, x: _hard_sigmoid(b, x, attribute(n, "alpha", 0.2), attribute(n, "beta", 0.5))),
    "HardSwish": _unary(_hard_swish),
    "Elu": _unary(_elu),
    "Selu": _unary(_selu),
    "Softplus": _unary(_softplus),
    "Softsign": _unary(lambda b, _, x: b.call("div", x, b.call("add", b.const(1), b.call("abs", x)))),
    "Gelu": _unary(_gelu),
    "Mish": _unary(lambda b, n, x: b.call("mul", x, b.call("tanh", _softplus(b, n, x)))),
    "Swish": _unary(
        lambda b, n, x: b.call("mul", x, b.call("sigmoid", b.call("mul", b.const(attribute(n, "alpha", 1.0)), x)))
    ),
    "ThresholdedRelu": _unary(_thresholded),
    "Identity": _unary(lambda _b, _n, x: x),
}
"""Operators of the standard domain, opset 18 and newer meaning."""
