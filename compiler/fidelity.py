# SPDX-License-Identifier: Apache-2.0
"""Fidelity: how far a changed model is from its original on real inputs, and whether something in it has died."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.errors import PassError
from sparsec.compiler.layers import KINDS, layer_name
from sparsec.compiler.pattern import Array

EXACT_DB = 300.0
"""The signal-to-noise ratio reported where there is no difference at all."""
_STILL = 1e-4
"""An output is constant if it varies between samples by less than this share of the reference's variation."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One output, over all samples, against the reference.

    Attributes:
        relative_error: Norm of the difference over the norm of the reference.
        sqnr_db: Signal to quantization noise in decibels; at most `EXACT_DB`.
        correlation: Pearson's, over all elements; 1.0 where both are constant and equal.
        top1: Share of samples whose greatest element is at the same place; None unless the output is one row a
            sample, as class scores are.
        kl: Mean Kullback-Leibler divergence of the softmax in nats; None where `top1` is.
    """

    relative_error: float
    sqnr_db: float
    correlation: float
    top1: float | None = None
    kl: float | None = None


def compare(reference: Sequence[Array], found: Sequence[Array]) -> Comparison:
    """Compare one output, an array a sample, with the reference's.

    Args:
        reference: One array a sample, any numeric type.
        found: As many arrays of the same shapes.
    """
    want, got = np.stack(reference).astype(np.float64), np.stack(found).astype(np.float64)
    noise, signal = float(np.linalg.norm(want - got)), float(np.linalg.norm(want))
    error = noise / signal if signal else (0.0 if not noise else math.inf)
    ratio = 20 * math.log10(signal / noise) if noise and signal else EXACT_DB
    classes = _classes(want)
    return Comparison(
        error,
        min(ratio, EXACT_DB),
        _correlation(want.ravel(), got.ravel()),
        float((want.argmax(-1) == got.argmax(-1)).mean()) if classes else None,
        float(_divergence(want, got).mean()) if classes else None,
    )


def measure(
    original: ir.Model, changed: ir.Model, calibration: Calibration, limit: int | None = None
) -> dict[str, Comparison]:
    """Compare each output of two models over the samples (at most `limit`), with onnxruntime.

    Raises:
        DataError: If the samples do not fit the model.
        ModelError: If onnxruntime refuses a model.
    """
    calibration.check(original)
    want, got = Recording.of(original, calibration, limit), Recording.of(changed, calibration, limit)
    return {name: compare(want.outputs[name], got.outputs[name]) for name in want.outputs}


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """What a model did on the samples.

    Attributes:
        outputs: Name -> an array a sample.
        alive: Layer name -> whether its result was finite, and whether it had an element other than 0.
    """

    outputs: Mapping[str, Sequence[Array]]
    alive: Mapping[str, tuple[bool, bool]]

    @classmethod
    def of(cls, model: ir.Model, calibration: Calibration, limit: int | None = None) -> "Recording":
        """Run the samples (at most `limit`) with onnxruntime."""
        from sparsec.compiler.oracle import Oracle

        layers = {str(n.outputs[0].name): layer_name(n) for n in model.graph if n.op_type in KINDS}
        oracle = Oracle(model, list(layers))
        own = [str(value.name) for value in model.graph.outputs]
        outputs: dict[str, list[Array]] = {name: [] for name in own}
        alive = dict.fromkeys(layers.values(), (True, False))
        for values in oracle.stream(calibration.feeds(model, limit)):
            for name in own:
                outputs[name].append(values[name])
            for value, layer in layers.items():
                finite, moving = alive[layer]
                alive[layer] = (finite and _finite(values[value]), moving or bool(values[value].any()))
        return cls(outputs, alive)


def check_collapse(step: str, reference: Recording, found: Recording) -> None:
    """Raise where a pass has killed something that lived in the reference.

    Args:
        step: The pass's name, for the message.
        reference: The original on some samples.
        found: The changed model on the same ones.

    Raises:
        PassError: On a layer or output that is not finite, all zero, or the same for every sample.
    """
    for what, name, harm in _harms(reference, found):
        msg = (
            f"Pass '{step}' on '{name}': the {what} is now {harm}, which it was not in the original. "
            "Loosen the pass, or add the layer to 'ignore'."
        )
        raise PassError(msg)


def _harms(reference: Recording, found: Recording) -> Iterable[tuple[str, str, str]]:
    for layer, (finite, moving) in found.alive.items():
        was_finite, was_moving = reference.alive.get(layer, (False, False))
        if was_finite and not finite:
            yield "layer's result", layer, "not finite (NaN or infinity)"
        if was_moving and not moving:
            yield "layer's result", layer, "zero everywhere"
    for name, want in reference.outputs.items():
        got = found.outputs[name]
        if all(map(_finite, want)) and not all(map(_finite, got)):
            yield "output", name, "not finite (NaN or infinity)"
        if any(map(np.any, want)) and not any(map(np.any, got)):
            yield "output", name, "zero everywhere"
        if _variation(got) < _STILL * _variation(want):
            yield "output", name, "the same for every sample"


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _variation(samples: Sequence[Array]) -> float:
    stacked = np.stack(samples)
    return float(np.std(stacked.astype(np.float64), axis=0).mean()) if stacked.size else 0.0


def _classes(stacked: Array) -> bool:
    """Whether each sample is one row of at least two scores: ``[samples, classes]`` or ``[samples, 1, classes]``."""
    return stacked.shape[-1] > 1 and stacked.ndim >= 2 and stacked.size == stacked.shape[0] * stacked.shape[-1]


def _correlation(want: Array, got: Array) -> float:
    deviations = want - want.mean(), got - got.mean()
    scale = float(np.linalg.norm(deviations[0]) * np.linalg.norm(deviations[1]))
    return float(deviations[0] @ deviations[1]) / scale if scale else float(np.array_equal(want, got))


def _divergence(want: Array, got: Array) -> Array:
    """KL(want || got) of each row; rows that are probabilities already are taken as they are."""
    probabilities = bool((want >= 0).all()) and np.allclose(want.sum(-1), 1, atol=1e-3)
    p, q = (_logs(rows, probabilities) for rows in (want, got))
    return np.asarray((np.exp(p) * (p - q)).sum(-1))


def _logs(rows: Array, probabilities: bool) -> Array:
    if probabilities:
        return np.asarray(np.log(np.clip(rows, 1e-12, None)))
    shifted = rows - rows.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
