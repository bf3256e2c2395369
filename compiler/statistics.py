# SPDX-License-Identifier: Apache-2.0
"""Statistics of what each layer's weight is multiplied with, streamed over calibration samples.

For a weight seen as ``[out, in]`` an input vector is one token, or one patch of a convolution in the order of the
weight's columns. Sums of squares, absolute values and peaks are what Wanda, RIA, AWQ and SmoothQuant need; the second
moments are the Hessian of SparseGPT and GPTQ. Nothing but the sums is kept.

Transformers give a few tokens, mostly the first, activations a thousand times as large as all others' (Sun et al.,
"Massive Activations in Large Language Models", 2024). One such vector would decide a sum of squares by itself, so a
vector counts with no more energy than `LOUD` times what nine of ten vectors of its sample stay under.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.errors import DataError
from sparsec.compiler.graph import attribute
from sparsec.compiler.layers import Layer
from sparsec.compiler.pass_manager import Reporter, silent
from sparsec.compiler.pattern import Array

Doubles = npt.NDArray[np.float64]
LOUD = 10.0
"""So many times the usual energy is the most that a vector counts with."""
_RESOLVED = 1e-5
"""Inputs whose variance is less than this share of their mean square are constant as far as float32 can tell."""
MOST = 0.9
"""The share of a sample's vectors that says what is usual."""


@dataclass(slots=True, eq=False)
class LayerStatistics:
    """Sums over the input vectors of one layer.

    Attributes:
        sums: float64 ``[in]``.
        squares: float64 ``[in]``, sum of squares.
        absolutes: float64 ``[in]``, sum of absolute values.
        peaks: float64 ``[in]``, greatest absolute value.
        products: float64 ``[in, in]``, sum of outer products; None where it was not asked for.
        rows: Number of input vectors.
    """

    sums: Doubles
    squares: Doubles
    absolutes: Doubles
    peaks: Doubles
    products: Doubles | None
    rows: int = 0

    @property
    def norms(self) -> Doubles:
        """Root of the mean square of each input, float64 ``[in]``."""
        return np.asarray(np.sqrt(self.squares / max(1, self.rows)))

    @property
    def overflows(self) -> bool:
        """Whether a sum of squares was too large for float32, in which outer products are summed."""
        return self.products is not None and not bool(np.isfinite(np.diag(self.products)).all())

    @property
    def hessian(self) -> Doubles:
        """``(2 / rows) X X^T``, float64 ``[in, in]``: second derivative of the layer's squared output error."""
        assert self.products is not None, "collected without the Hessian"
        return np.asarray(self.products * (2 / max(1, self.rows)))

    @property
    def centred_hessian(self) -> Doubles:
        """The Hessian of a layer whose bias follows, so that the mean of its output keeps: float64 ``[in, in]``.

        Where the inputs hardly vary, this would be rounding and nothing else; then it is the `hessian`.
        """
        means, hessian = self.sums / max(1, self.rows), self.hessian
        centred = np.asarray(hessian - 2 * np.outer(means, means))
        return centred if np.trace(centred) > _RESOLVED * np.trace(hessian) else hessian

    @classmethod
    def empty(cls, inputs: int, hessian: bool) -> "LayerStatistics":
        """No input vector yet."""
        zeros = [np.zeros(inputs) for _ in range(4)]
        return cls(zeros[0], zeros[1], zeros[2], zeros[3], np.zeros((inputs, inputs)) if hessian else None)

    def add(self, vectors: Array) -> None:
        """Take in the vectors of one sample, ``[rows, in]``; the peaks are those of the vectors as they are."""
        np.maximum(self.peaks, np.abs(vectors).max(axis=0), out=self.peaks)
        vectors = quietened(vectors)
        self.sums += vectors.sum(axis=0, dtype=np.float64)
        self.squares += np.einsum("ri,ri->i", vectors, vectors, dtype=np.float64)
        self.absolutes += np.abs(vectors).sum(axis=0, dtype=np.float64)
        if self.products is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                self.products += vectors.T @ vectors
        self.rows += len(vectors)


def quietened(vectors: Array) -> Array:
    """Vectors ``[rows, in]``, the few that are far louder than the rest scaled down; the same array if there are none.

    Where fewer than one in ten is not 0, nothing is usual, and all stay.
    """
    energy = np.einsum("ri,ri->r", vectors, vectors, dtype=np.float64)
    most = LOUD * np.quantile(energy, MOST)
    if most <= 0 or energy.max() <= most:
        return vectors
    return np.asarray(vectors * np.sqrt(most / np.maximum(energy, most))[:, None].astype(vectors.dtype))


@dataclass(frozen=True, slots=True)
class _View:
    """How a layer sees its operand: equal views of one value share their statistics."""

    value: str
    transposed: bool = False
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()


def collect(
    model: ir.Model,
    calibration: Calibration,
    layers: Iterable[Layer],
    *,
    hessian: bool = False,
    reporter: Reporter = silent,
) -> dict[str, LayerStatistics]:
    """Statistics of each layer's input, by layer name. Layers that read the same value share one object.

    Args:
        model: The model, run by onnxruntime.
        calibration: Its inputs.
        layers: Layers of `model` with one group, weights of rank 2 or convolutions.
        hessian: Whether to sum outer products too.
        reporter: Told of each sample.

    Raises:
        DataError: If the samples do not fit the model, or make a layer's input that is not finite, or whose second
            moments are not.
    """
    views = {layer.name: (_view(layer), layer) for layer in layers}
    calibration.check(model)
    found = {view: LayerStatistics.empty(_inputs(layer), hessian) for view, layer in views.values()}
    for feed, number in zip(_values(model, calibration, found), range(calibration.samples), strict=False):
        for view, statistics in found.items():
            vectors = input_vectors(view, feed[view.value])
            if not np.isfinite(vectors).all():
                msg = f"Value '{view.value}' is not finite on calibration sample {number}."
                raise DataError(msg)
            statistics.add(vectors)
            if statistics.overflows:
                msg = (
                    f"Value '{view.value}' reaches {statistics.peaks.max():.3g} on calibration sample {number}, and "
                    "sums of its squares overflow float32. Give samples on the scale of the model's real inputs."
                )
                raise DataError(msg)
        reporter("collect statistics", number + 1, calibration.samples)
    return {name: found[view] for name, (view, _) in views.items()}


def _values(
    model: ir.Model, calibration: Calibration, views: Mapping[_View, LayerStatistics]
) -> Iterable[Mapping[str, Array]]:
    """The values that the views name, sample by sample."""
    from sparsec.compiler.oracle import Oracle

    inputs = {value.name for value in model.graph.inputs}
    oracle = Oracle(model, sorted({view.value for view in views} - inputs))
    for feed in calibration.feeds(model):
        yield {**feed, **oracle.run(feed)}


def _inputs(layer: Layer) -> int:
    return int(np.prod(layer.shape)) // layer.shape[layer.axis]


def _view(layer: Layer) -> _View:
    data, node = layer.node.inputs[0], layer.node
    assert data is not None
    name = str(data.name)
    if node.op_type != "Conv":
        return _View(name, transposed=bool(attribute(node, "transA", 0)))
    kernel = layer.shape[2:]
    rank = len(kernel)
    return _View(
        name,
        kernel=kernel,
        strides=tuple(attribute(node, "strides", None) or (1,) * rank),
        pads=tuple(attribute(node, "pads", None) or (0,) * 2 * rank),
        dilations=tuple(attribute(node, "dilations", None) or (1,) * rank),
    )


def input_vectors(view: _View, value: Array) -> Array:
    """A value as vectors ``[rows, in]``; patches of a convolution in the order channel, then tap."""
    if not view.kernel:
        return value.T if view.transposed else value.reshape(-1, value.shape[-1])
    rank = len(view.kernel)
    sides = zip(view.pads[:rank], view.pads[rank:], strict=True)
    padded = np.pad(value, ((0, 0), (0, 0), *sides))
    spans = [(taps - 1) * gap + 1 for taps, gap in zip(view.kernel, view.dilations, strict=True)]
    axes = tuple(range(2, 2 + rank))
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
    steps = tuple(slice(None, None, step) for step in view.strides)
    gaps = tuple(slice(None, None, gap) for gap in view.dilations)
    chosen = windows[(slice(None), slice(None), *steps, *gaps)]
    last = np.moveaxis(chosen, 1, rank + 1)
    return last.reshape(-1, value.shape[1] * int(np.prod(view.kernel)))
