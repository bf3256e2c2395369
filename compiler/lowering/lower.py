# SPDX-License-Identifier: Apache-2.0
"""From a model to a program: regions, then calls with layouts and kernels chosen, then memory."""

from collections.abc import Callable, Iterable
from functools import partial
from math import prod

import onnx_ir as ir

from sparsec.compiler.errors import UnsupportedError
from sparsec.compiler.graph import constant_of, itemsize, shape_of
from sparsec.compiler.importers.finish import expand_function_ops
from sparsec.compiler.lowering import halves
from sparsec.compiler.lowering.anchors import (
    convolution,
    elementwise,
    movement,
    products,
    recurrent,
    reinterpret,
    resize,
    rows,
    tokens,
    transposed,
)
from sparsec.compiler.lowering.anchors.anchor import Anchor, report_plain
from sparsec.compiler.lowering.codes import codes_behind, quantizer
from sparsec.compiler.lowering.decompose import decompose
from sparsec.compiler.lowering.elementwise import RULES, is_elementwise
from sparsec.compiler.lowering.emitter import Buffer, Emitter, NoKernelError, View
from sparsec.compiler.lowering.kernel import Backend
from sparsec.compiler.lowering.layout import PLAIN
from sparsec.compiler.lowering.program import Program, Ref
from sparsec.compiler.lowering.regions import Region, form

ANCHORS: dict[str, Anchor] = (
    convolution.ANCHORS
    | products.ANCHORS
    | rows.ANCHORS
    | reinterpret.ANCHORS
    | resize.ANCHORS
    | transposed.ANCHORS
    | movement.ANCHORS
    | recurrent.ANCHORS
    | tokens.ANCHORS
)
"""Operators with kernels of their own."""

_REFUSED = {
    "If": "its condition is not known at compile time",
    **dict.fromkeys(("LinearAttention", "Loop", "Scan"), "loops are not compiled"),
    **dict.fromkeys(("Bernoulli", "Multinomial"), "its result is random"),
    **dict.fromkeys(("RandomNormal", "RandomNormalLike"), "its result is random"),
    **dict.fromkeys(("RandomUniform", "RandomUniformLike"), "its result is random"),
}


def lower(
    model: ir.Model,
    backend: Backend,
    name: str,
    progress: Callable[[int, int], None] | None = None,
    threads: int = 1,
) -> Program:
    """Lower a normalised model (see `importers`) for one back end.

    Args:
        model: One opset, static shapes, weights as initializers. It is not changed but for the order of its nodes.
        backend: Kernels, prices and fallback of the target.
        name: C identifier, prefix of the exported symbols.
        progress: Told how many regions of how many are done.
        threads: How many threads shall run it.

    Raises:
        UnsupportedError: If an operator, or a use of it, has neither kernel nor fallback.
    """
    model = decompose(model, lambda node: node.op_type in ANCHORS and ANCHORS[node.op_type].accepts(node))
    expanded = expand_function_ops(model, {*ANCHORS, *RULES, *_REFUSED, *backend.operators})
    expanded.graph.sort()
    graph = halves.widened(expanded).graph
    emitter = Emitter(backend, threads)
    _seed(emitter, graph)
    regions = form(graph, {key: (anchor.accepts, anchor.axis) for key, anchor in ANCHORS.items()})
    for done, region in enumerate(regions):
        _emit(emitter, region)
        if progress is not None:
            progress(done + 1, len(regions))
    return emitter.finish(name, graph)


def _seed(emitter: Emitter, graph: ir.Graph) -> None:
    """What is there before the first call: the inputs; and real numbers behind codes, written when first read."""
    for index, value in enumerate(graph.inputs):
        emitter.bind(value, PLAIN, View(Buffer(prod(shape_of(value)) * itemsize(value), Ref("input", index))))
    for node in graph:
        codes = codes_behind(node.outputs[0]) if node.outputs else None
        if codes is not None:
            value = node.outputs[0]
            emitter.lazy[value] = partial(elementwise.dequantize, emitter, value, codes)


def _emit(emitter: Emitter, region: Region) -> None:
    node = region.nodes[0]
    if region.anchored:
        _emit_anchored(emitter, region)
    elif is_elementwise(node) or quantizer(node) is not None:
        elementwise.emit(emitter, region)
    else:
        _fall_back(emitter, region)


def _refuse_empty(region: Region, values: Iterable[ir.Value | None]) -> None:
    node = region.nodes[0]
    for value in values:
        if value is not None and value.name and 0 in shape_of(value):
            msg = f"Layer '{region.name}': operator '{node.op_type}' works on an empty tensor, which is not supported."
            raise UnsupportedError(msg)


def _emit_anchored(emitter: Emitter, region: Region) -> None:
    node = region.nodes[0]
    _refuse_empty(region, (node.inputs[0], node.outputs[0]))
    try:
        ANCHORS[node.op_type].emit(emitter, region)
    except NoKernelError:
        if len(region.nodes) > 1:
            raise
        _fall_back(emitter, region)


def _fall_back(emitter: Emitter, region: Region) -> None:
    node = region.nodes[0]
    if node.op_type in _REFUSED:
        msg = f"Layer '{region.name}': operator '{node.op_type}' is not supported: {_REFUSED[node.op_type]}."
        raise UnsupportedError(msg)
    _refuse_empty(region, (*node.inputs, *node.outputs))
    fallback = emitter.backend.fallback(node, [constant_of(value) for value in node.inputs])
    inputs = [None if value is None else emitter.read(value) for value in node.inputs]
    outputs = [emitter.make(value) for value in node.outputs if value.name]
    emitter.call_fallback(fallback, inputs, outputs, region.name)
    report_plain(emitter, region, "fallback", 0.0)
