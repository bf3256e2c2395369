# SPDX-License-Identifier: Apache-2.0
"""Dead units: channels behind a ReLU-like activation that never fire, and how often the living ones are silent.

The rate of silent units, averaged over inputs, is the dynamic dead-neuron rate of "Activate-While-Pruning", 2023. A
unit that is zero on every sample and position can be removed without loss.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.graph import constant_of, only_consumer, scalar_of
from sparsec.compiler.layers import layer_name, layers
from sparsec.compiler.pass_manager import Reporter, silent
from sparsec.compiler.pattern import Mask

_THROUGH = ("Add", "Mul", "BatchNormalization", "Identity")
"""Operators with one computed operand that may stand between a layer and its activation."""


@dataclass(frozen=True, slots=True)
class DeadUnits:
    """The channels of one activation over all samples.

    Attributes:
        units: Number of channels.
        dead: Share of them that are zero on all samples and positions.
        silent: Share of zeros among all values of the activation.
    """

    units: int
    dead: float
    silent: float


def find_dead_units(model: ir.Model, calibration: Calibration, reporter: Reporter = silent) -> dict[str, DeadUnits]:
    """Dead units of each layer that feeds a ReLU, a Clip from 0 or a HardSwish; by layer name.

    Args:
        model: The model, run by onnxruntime.
        calibration: Its inputs.
        reporter: Told of each sample.

    Raises:
        DataError: If the samples do not fit the model.
    """
    from sparsec.compiler.oracle import Oracle

    calibration.check(model)
    watched = {layer.name: value for layer in layers(model) if (value := _activation(layer.node)) is not None}
    if not watched:
        return {}
    axes = {layer_name(layer.node): 1 if layer.node.op_type == "Conv" else -1 for layer in layers(model)}
    oracle = Oracle(model, [str(value.name) for value in watched.values()])
    fired: dict[str, Mask] = {}
    zeros, counts = dict.fromkeys(watched, 0), dict.fromkeys(watched, 0)
    for number, values in enumerate(oracle.stream(calibration.feeds(model))):
        for name, value in watched.items():
            moving = np.moveaxis(values[str(value.name)] != 0, axes[name], 0)
            channels = moving.reshape(len(moving), -1)
            fired[name] = channels.any(axis=1) | fired.get(name, False)
            zeros[name] += int(channels.size - np.count_nonzero(channels))
            counts[name] += channels.size
        reporter("find dead units", number + 1, calibration.samples)
    return {
        name: DeadUnits(len(fired[name]), float(1 - fired[name].mean()), zeros[name] / counts[name]) for name in watched
    }


def _activation(node: ir.Node) -> ir.Value | None:
    """The result of the ReLU-like activation behind a layer; None without one."""
    following = only_consumer(node.outputs[0])
    while following is not None and following.domain in ("", "ai.onnx"):
        test = _ACTIVATIONS.get(following.op_type)
        if test is not None:
            return following.outputs[0] if test(following) else None
        computed = [value for value in following.inputs if value is not None and constant_of(value) is None]
        if following.op_type not in _THROUGH or len(computed) != 1:
            return None
        following = only_consumer(following.outputs[0])
    return None


def _clips_at_zero(node: ir.Node) -> bool:
    return len(node.inputs) > 1 and scalar_of(node.inputs[1]) == 0


_ACTIVATIONS = {"Relu": lambda node: True, "HardSwish": lambda node: True, "Clip": _clips_at_zero}
