# SPDX-License-Identifier: Apache-2.0
"""Plot of a sweep: the whole model's curves, and a map of each layer's fidelity at each density. SVG, PNG or PDF."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sparsec.compiler.errors import RecipeError
from sparsec.compiler.sweep.curves import Curve
from sparsec.compiler.sweep.sweep import LayerSweep, Sweep
from sparsec.compiler.text import distinct, shortened

METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": "sparsec"},
    "png": {"Software": "sparsec"},
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": "sparsec", "Producer": None},
}
"""By suffix, what a file says of its making: nothing that differs from run to run."""
SETTINGS: Any = {"svg.hashsalt": "sparsec", "text.parse_math": False, "figure.dpi": 100, "font.size": 9}
_ROW = 0.17
"""Inches of a layer in the map."""
_MOST_LAYERS = 400


def check_suffix(path: Path) -> str:
    """The format of a plot file.

    Raises:
        RecipeError: If the suffix is none of those that can be drawn.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in METADATA:
        msg = f"Plot file '{path}': the suffix is '{path.suffix}', expected one of .{', .'.join(METADATA)}."
        raise RecipeError(msg)
    return suffix


def draw(sweep: Sweep, stream: BinaryIO, kind: str, title: str) -> None:
    """Write the plot; the same sweep gives the same bytes.

    Args:
        sweep: With curves of the whole model.
        stream: A binary file.
        kind: ``svg``, ``png`` or ``pdf``.
        title: Name of the model.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    patterns = [curve.pattern for curve in sweep.whole]
    rows = [layer for layer in sweep.layers if layer.curves][:_MOST_LAYERS]
    maps = patterns if rows else []
    with mpl.rc_context(SETTINGS):
        height = max(4.0, 1.6 + _ROW * len(rows))
        figure = Figure(figsize=(5.5 + 5.0 * len(maps), height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 1 + len(maps), squeeze=False)[0]
        _draw_curves(axes[0], sweep.whole, shortened(title, 40))
        for axis, pattern in zip(axes[1:], maps, strict=True):
            image = _draw_map(axis, rows, pattern)
        if maps:
            figure.colorbar(image, ax=list(axes[1:]), label="fidelity of the model", shrink=min(1.0, 3 / height))
        figure.savefig(stream, format=kind, metadata=METADATA[kind])


def draw_lines(
    lines: Mapping[str, Sequence[tuple[float, float]]], stream: BinaryIO, kind: str, title: str, measure: str
) -> None:
    """Write a plot of one number against density; the same lines give the same bytes.

    Args:
        lines: What the legend calls a line -> its (density, number) points.
        stream: A binary file.
        kind: ``svg``, ``png`` or ``pdf``.
        title: Over the plot.
        measure: What the number is.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(5.5, 4.0), layout="constrained")
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        for name, points in lines.items():
            x, y = zip(*points, strict=True)
            axis.plot(x, y, marker="o", markersize=4, label=name)
        axis.set(title=title, xlabel="density", ylabel=measure, ylim=(-0.03, 1.03))
        axis.invert_xaxis()
        axis.grid(alpha=0.3)
        axis.legend(loc="lower left")
        figure.savefig(stream, format=kind, metadata=METADATA[kind])


def _draw_curves(axis: Any, curves: Sequence[Curve], title: str) -> None:
    """Fidelity of the whole model against density; a ring marks the knee."""
    for number, curve in enumerate(curves):
        x = [1.0, *(point.density for point in curve.points)]
        y = [1.0, *(point.quality for point in curve.points)]
        axis.plot(x, y, marker="o", markersize=3, color=f"C{number % 10}", label=curve.pattern)
        knee = next((point for point in curve.points if point.density == curve.knee), None)
        if knee is not None:
            axis.plot([knee.density], [knee.quality], "o", markersize=10, fillstyle="none", color=f"C{number % 10}")
    axis.set(title=f"{title}: all layers", xlabel="density", ylabel="fidelity", xlim=(1.03, -0.03))
    axis.grid(alpha=0.3)
    axis.legend(loc="lower left")


def _draw_map(axis: Any, layers: Sequence[LayerSweep], pattern: str) -> Any:
    """One row a layer, one column a density: fidelity of the model with this layer pruned alone."""
    curves = [next((c for c in layer.curves if c.pattern == pattern), None) for layer in layers]
    densities = sorted({point.density for curve in curves if curve for point in curve.points}, reverse=True)
    values = np.full((len(layers), len(densities)), np.nan)
    for row, curve in enumerate(curves):
        for point in curve.points if curve else ():
            values[row, densities.index(point.density)] = point.quality
    image = axis.imshow(values, aspect="auto", cmap="viridis", vmin=0.0, vmax=1.0, interpolation="nearest")
    axis.set_xticks(range(len(densities)), [f"{density:g}" for density in densities])
    axis.set_yticks(range(len(layers)), distinct([layer.name for layer in layers], 28), fontsize=7)
    axis.set(title=f"{pattern}: one layer", xlabel="density")
    return image
