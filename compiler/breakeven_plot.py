# SPDX-License-Identifier: Apache-2.0
"""Plot of a break-even map: two panels a precision, the density from which each pattern pays, and gain by density."""

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from sparsec.compiler.breakeven import Curve, label
from sparsec.compiler.lowering.repricing import MARGIN
from sparsec.compiler.sweep.plot import METADATA, SETTINGS
from sparsec.compiler.text import shortened

_ROW = 0.24
"""Inches of a shape."""
_MOST_SHAPES = 40
_MARKERS = "osD^v<>Phx"


def draw(curves: Sequence[Curve], stream: BinaryIO, kind: str, title: str) -> None:
    """Write the plot; the same map gives the same bytes.

    Args:
        curves: At least one.
        stream: A binary file.
        kind: ``svg``, ``png`` or ``pdf``.
        title: Target and machine.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    precisions = list(dict.fromkeys(curve.precision for curve in curves))
    shapes = list(dict.fromkeys(curve.shape for curve in curves))[:_MOST_SHAPES]
    patterns = list(dict.fromkeys(label(curve) for curve in curves))
    with mpl.rc_context(SETTINGS):
        height = max(3.2, 1.3 + _ROW * len(shapes))
        figure = Figure(figsize=(11.5, 0.9 + height * len(precisions)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(precisions), 2, squeeze=False)
        for (left, right), precision in zip(axes, precisions, strict=True):
            own = [curve for curve in curves if curve.precision == precision and curve.shape in shapes]
            _draw_densities(left, own, shapes, patterns, precision)
            _draw_gains(right, own, patterns, precision)
        handles, names = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False)
        figure.suptitle(shortened(title, 110))
        figure.savefig(stream, format=kind, metadata=METADATA[kind])


def _draw_densities(
    axis: Any, curves: Sequence[Curve], shapes: Sequence[Any], patterns: Sequence[str], precision: str
) -> None:
    """One row a layer; a mark at the density from which on downwards a pattern pays."""
    for number, pattern in enumerate(patterns):
        found = {curve.shape: curve.pays_from for curve in curves if label(curve) == pattern}
        points = [(found[shape], row) for row, shape in enumerate(shapes) if found.get(shape) is not None]
        lift = 0.5 * (number / max(1, len(patterns) - 1) - 0.5)
        axis.plot(
            [density for density, _ in points], [row + lift for _, row in points],
            _MARKERS[number % len(_MARKERS)], color=f"C{number % 10}", markersize=4.5, label=pattern,
        )  # fmt: skip
    axis.set_yticks(range(len(shapes)), [str(shape) for shape in shapes])
    axis.set(title=f"{precision}: pays from this density down", xlabel="density", xlim=(-0.02, 1.02))
    axis.set_ylim(len(shapes) - 0.5, -0.5)
    axis.grid(alpha=0.3)


def _draw_gains(axis: Any, curves: Sequence[Curve], patterns: Sequence[str], precision: str) -> None:
    """Each layer's curve thin, the median of all layers thick."""
    for number, pattern in enumerate(patterns):
        own, colour = [curve for curve in curves if label(curve) == pattern], f"C{number % 10}"
        for curve in own:
            axis.plot(curve.densities, curve.ratios, color=colour, linewidth=0.6, alpha=0.35)
        common = [curve for curve in own if curve.densities == own[0].densities]
        if common:
            middle = np.median([curve.ratios for curve in common], axis=0)
            axis.plot(
                common[0].densities,
                middle,
                color=colour,
                linewidth=1.8,
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=3,
            )
    axis.axhline(1 / MARGIN, color="0.3", linewidth=0.8, linestyle="--")
    axis.text(0.0, 1 / MARGIN * 1.03, f"needed: {1 / MARGIN:.2f}x", color="0.3", fontsize=7)
    axis.set_yscale("log", base=2)
    axis.set_ylim(0.5, 16)
    axis.set_yticks([0.5, 1, 2, 4, 8, 16], ["0.5x", "1x", "2x", "4x", "8x", "16x"])
    axis.set(title=f"{precision}: gain over the best dense kernel", xlabel="density", xlim=(-0.02, 1.02))
    axis.grid(alpha=0.3)
