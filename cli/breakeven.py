# SPDX-License-Identifier: Apache-2.0
"""``sparsec breakeven``: will pruning help? Predicted gains by layer, pattern, precision and density."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparsec.cli.output_file import check_file, write_file
from sparsec.cli.parameters import PATH, TargetType, debug_option, json_option, profile_option
from sparsec.cli.progress import progress_bar
from sparsec.cli.tables import print_json, print_line, print_table
from sparsec.compiler.errors import RecipeError
from sparsec.compiler.target import Target
from sparsec.compiler.text import in_percent, in_time

if TYPE_CHECKING:
    from sparsec.compiler.breakeven import Curve, Shape

_SHOWN = 0.5
"""Density at which the table gives the gain."""


class LayerShapeType(click.ParamType[Any]):
    """``OUTxINxPOSITIONS``."""

    name = "OUTxINxPOSITIONS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read `Shape.parse`'s form."""
        from sparsec.compiler.breakeven import Shape

        try:
            return Shape.parse(str(value))
        except RecipeError as error:
            self.fail(str(error), param, ctx)


class ZeroPatternType(click.ParamType[str]):
    """A pattern's text form."""

    name = "PATTERN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it."""
        from sparsec.compiler.pattern import parse_pattern

        try:
            return str(parse_pattern(str(value)))
        except RecipeError as error:
            self.fail(str(error), param, ctx)


@click.command("breakeven", short_help="Show from which density on pruning pays.")
@click.option("--target", type=TargetType(), required=True, help="x86, arm or wasm, with +features; or host.")
@profile_option
@click.option(
    "--shape",
    "shapes",
    type=LayerShapeType(),
    multiple=True,
    metavar="OUTxINxPOSITIONS",
    help="A layer to map, such as 256x256x196; x3x3 at the end for a convolution; repeat (default: a spread).",
)
@click.option("--model", type=PATH, metavar="FILE", help="Map the layers of this ONNX model.")
@click.option("--pattern", "patterns", type=ZeroPatternType(), multiple=True, help="Zeros, such as block(4x4); repeat.")
@click.option("--plot", type=PATH, metavar="FILE", help="Draw the map: .svg, .png or .pdf.")
@json_option
@debug_option
def breakeven(
    target: Any,
    profile: Path | None,
    shapes: Sequence["Shape"],
    model: Path | None,
    patterns: Sequence[str],
    plot: Path | None,
    as_json: bool,
) -> None:
    """Predict, before anyone prunes, from which density on the sparse kernels beat the best dense one by 5 %.

    Everything comes from the machine's profile; no model is needed.
    """
    from sparsec.compiler import pricing
    from sparsec.compiler.breakeven import SHAPES
    from sparsec.compiler.machine_profile import note

    if shapes and model is not None:
        msg = "--shape and --model both say what to map; give one of them."
        raise click.UsageError(msg)
    kind = _checked_plot(plot, model)
    chosen = target if isinstance(target, Target) else Target.parse(target)
    machine = pricing.profile_for(chosen, profile)
    with progress_bar() as reporter:
        layers = list(shapes) or (pricing.shapes_in(model, chosen, reporter) if model else list(SHAPES))
        found = pricing.map_of(chosen, machine, layers, patterns or None, reporter)
    if not found:
        msg = f"Option --pattern: no kernel of '{chosen}' exploits zeros of {' or '.join(patterns)} in these layers."
        raise RecipeError(msg)
    warning = note(machine, chosen)
    if plot is not None:
        _draw(found, plot, kind, f"{chosen}, priced for {machine.machine}")
    if as_json:
        print_json({"target": str(chosen), "profile": _profile(machine), "note": warning, "curves": _rows(found)})
        return
    print_line(f"{chosen}: pays from this density down, and gain over the best dense kernel at density {_SHOWN}")
    _print(found)
    print_line(f"note       {warning}" if warning else f"prices     for {machine.machine}, which is this machine")
    if plot is not None:
        print_line(f"plot       {plot}")


def _checked_plot(plot: Path | None, model: Path | None) -> str:
    if plot is None:
        return ""
    from sparsec.compiler.sweep.plot import check_suffix

    check_file(plot, keep=model)
    return check_suffix(plot)


def _draw(found: Sequence["Curve"], path: Path, kind: str, title: str) -> None:
    from sparsec.compiler.breakeven_plot import draw

    drawn = BytesIO()
    draw(found, drawn, kind, title)
    write_file(path, lambda stream: stream.write(drawn.getvalue()))


def _profile(machine: Any) -> dict[str, str]:
    return {key: getattr(machine, key) for key in ("machine", "source", "cpu", "isa")}


def _rows(found: Sequence["Curve"]) -> list[dict[str, Any]]:
    from dataclasses import asdict

    return [{**asdict(curve), "shape": str(curve.shape)} for curve in found]


def _print(found: Sequence["Curve"]) -> None:
    from sparsec.compiler.breakeven import label

    for precision in dict.fromkeys(curve.precision for curve in found):
        own = [curve for curve in found if curve.precision == precision]
        patterns = list(dict.fromkeys(label(curve) for curve in own))
        print_line()
        print_table([f"{precision} layer", "dense", *patterns], _lines(own, patterns), range(1, 2 + len(patterns)))


def _lines(own: Sequence["Curve"], patterns: Sequence[str]) -> list[list[str]]:
    from sparsec.compiler.breakeven import label

    lines = []
    for shape in dict.fromkeys(curve.shape for curve in own):
        here = {label(curve): curve for curve in own if curve.shape == shape}
        dense = in_time(next(iter(here.values())).rival)
        lines.append([str(shape), dense, *(_cell(here[p]) if p in here else "-" for p in patterns)])
    return lines


def _cell(curve: "Curve") -> str:
    gain = next((f" {r:.2f}x" for d, r in zip(curve.densities, curve.ratios, strict=True) if d == _SHOWN), "")
    return ("never" if curve.pays_from is None else in_percent(curve.pays_from).replace(".0 ", " ")) + gain
