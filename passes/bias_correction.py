# SPDX-License-Identifier: Apache-2.0
"""Bias correction: takes the mean of a layer's compression error, for each output channel, out of its bias.

Pruned or rounded weights and clipped activations shift the mean of what a layer computes, and shifts add up with
depth. For each layer the difference between the compressed layer and the original one, both fed with the original
model's activations, is averaged over samples and positions (Nagel et al., "Data-Free Quantization through Weight
Equalization and Bias Correction", 2019, section 4.2, measured on samples rather than derived).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.graph import attribute, constant_of, free_name, only_consumer, shape_of, source_of, value_names
from sparsec.compiler.layers import Layer, layer_name, layers
from sparsec.compiler.pass_manager import Reporter, silent
from sparsec.compiler.pattern import Array

SAMPLES = 128
"""At most this many samples are used; means need no more."""
LEAST_OPSET = 18
"""The first opset whose ReduceMean takes its axes as an input."""


def correct_biases(
    original: ir.Model,
    changed: ir.Model,
    names: Iterable[str],
    calibration: Calibration,
    reporter: Reporter = silent,
) -> set[str]:
    """Correct the biases of `changed` in place.

    Conv, Gemm with beta 1, and MatMul followed by a sum with a constant vector are corrected, from opset 18 on.

    Args:
        original: The model before its weights were compressed.
        changed: The same layers, compressed.
        names: Layers to correct.
        calibration: Samples.
        reporter: Told of each sample.

    Returns:
        Names of the layers corrected.
    """
    if original.graph.opset_imports.get("", 0) < LEAST_OPSET:
        return set()
    places = {layer.name: place for layer in layers(changed) if (place := _place(layer)) is not None}
    wanted = [name for name in names if name in places]
    if not wanted:
        return set()
    errors = _mean_errors(original, changed, wanted, calibration, reporter)
    constants = _Constants(changed.graph)
    for name in wanted:
        places[name].subtract(constants, errors[name])
    return set(wanted)


def has_bias(layer: Layer) -> bool:
    """Whether a layer has a bias that `correct_biases` can correct, or a place for one."""
    return _place(layer) is not None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a layer's bias is: input `index` of `node`."""

    node: ir.Node
    index: int

    def subtract(self, constants: "_Constants", error: Array) -> None:
        if len(self.node.inputs) <= self.index:
            self.node.resize_inputs(self.index + 1)
        old = self.node.inputs[self.index]
        bias = constant_of(old)
        array = ((0 if bias is None else bias) - error).astype(np.float32)
        if old is not None and len(old.uses()) == 1 and bias is not None and bias.shape == array.shape:
            old.const_value = ir.tensor(array, name=old.name)
            return
        self.node.replace_input_with(self.index, constants.add(f"{layer_name(self.node)}.corrected_bias", array))


def _place(layer: Layer) -> _Place | None:
    """None where there is no constant bias, nor a place for one."""
    node = layer.node
    if node.op_type == "MatMul":
        add = only_consumer(node.outputs[0])
        if add is None or add.graph is not node.graph or source_of(add.outputs[0], "Add") is None:
            return None
        index = next(n for n, value in enumerate(add.inputs) if value is not node.outputs[0])
        bias = constant_of(add.inputs[index])
        return _Place(add, index) if bias is not None and bias.shape == (layer.shape[layer.axis],) else None
    computed = len(node.inputs) > 2 and node.inputs[2] is not None and constant_of(node.inputs[2]) is None
    return None if computed or attribute(node, "beta", 1.0) != 1 else _Place(node, 2)


def _mean_errors(
    original: ir.Model, changed: ir.Model, names: list[str], calibration: Calibration, reporter: Reporter
) -> Mapping[str, Array]:
    """Mean error of each layer, float64 ``[out]``: one run of the original with each layer's twin beside it."""
    from sparsec.compiler.oracle import Oracle

    model = original.clone()
    compressed = {layer.name: layer for layer in layers(changed)}
    nodes = {layer_name(node): node for node in model.graph}
    constants = _Constants(model.graph)
    outputs = {name: _twin(constants, nodes[name], compressed[name]) for name in names}
    oracle = Oracle(model, [str(value.name) for value in outputs.values()])
    sums = dict.fromkeys(names, np.zeros(()))
    samples = min(SAMPLES, calibration.samples)
    for number, feed in enumerate(calibration.feeds(model, samples)):
        values = oracle.run(feed)
        sums = {name: sums[name] + values[str(outputs[name].name)].astype(np.float64) for name in names}
        reporter("correct biases", number + 1, samples)
    return {name: total / samples for name, total in sums.items()}


def _twin(constants: "_Constants", node: ir.Node, layer: Layer) -> ir.Value:
    """Add the compressed layer beside the original one; the value of their mean difference."""
    graph, name, data = constants.graph, layer.name, node.inputs[0]
    assert data is not None
    for step in _quantizer(layer.node):
        data = _add(graph, step.op_type, [data, *_copies(constants, step, f"{name}.{step.op_type}")])
    weight = constants.add(f"{name}.twin_weight", layer.tensor.numpy())
    twin = _add(graph, node.op_type, [data, weight, *node.inputs[2:]], node.attributes)
    difference = _add(graph, "Sub", [twin, node.outputs[0]])
    rank = len(shape_of(node.outputs[0]))
    channel = rank - 1 if node.op_type == "MatMul" else 1
    axes = np.array([axis for axis in range(rank) if axis != channel], np.int64)
    given = constants.add(f"{name}.twin_axes", axes)
    return _add(graph, "ReduceMean", [difference, given], {"keepdims": ir.AttrInt64("keepdims", 0)})


def _quantizer(node: ir.Node) -> list[ir.Node]:
    """The Clip, QuantizeLinear and DequantizeLinear that a compressed layer reads through, in order."""
    chain: list[ir.Node] = []
    for op_type in ("DequantizeLinear", "QuantizeLinear", "Clip"):
        found = source_of((chain[0] if chain else node).inputs[0], op_type)
        if found is None:
            break
        chain.insert(0, found)
    return chain


def _copies(constants: "_Constants", node: ir.Node, name: str) -> list[ir.Value]:
    arrays = [constant_of(value) for value in node.inputs[1:]]
    return [constants.add(f"{name}.{n}", array) for n, array in enumerate(arrays) if array is not None]


def _add(
    graph: ir.Graph,
    op_type: str,
    inputs: list[ir.Value | None],
    attributes: Mapping[str, ir.Attr] | None = None,
) -> ir.Value:
    node = ir.Node("", op_type, inputs, list((attributes or {}).values()))
    graph.append(node)
    return node.outputs[0]


class _Constants:
    """Makes initializers of a graph, under names that no value has."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph, self._taken = graph, value_names(graph)

    def add(self, wanted: str, array: Array) -> ir.Value:
        name = free_name(wanted, self._taken)
        value = ir.val(name, const_value=ir.tensor(array, name=name))
        self.graph.register_initializer(value)
        return value
