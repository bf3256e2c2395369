# SPDX-License-Identifier: Apache-2.0
"""``sparsec sweep``: what a model loses at which density, layer by layer, before it is compressed."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from sparsec.cli.output_file import check_file, write_file
from sparsec.cli.parameters import PATH, NearestChoice, debug_option, json_option, shape_option
from sparsec.cli.progress import progress_bar
from sparsec.cli.sweep_tables import print_sweep, sweep_json
from sparsec.cli.tables import print_json, print_line
from sparsec.compiler.errors import RecipeError

if TYPE_CHECKING:
    from sparsec.compiler.driver import Job
    from sparsec.compiler.sweep.recipe import Choice
    from sparsec.compiler.sweep.request import Request
    from sparsec.compiler.sweep.sweep import Sweep

SCORES = ("magnitude", "wanda", "ria", "hessian")
MEASURES = ("auto", "agreement", "correlation")


class PatternType(click.ParamType[str]):
    """A pattern's text form, or that of a pruning pass."""

    name = "pattern"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Try to make the pass."""
        from sparsec.compiler.sweep.request import pruning_pass

        try:
            pruning_pass(str(value))
        except RecipeError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class DensitiesType(click.ParamType[tuple[float, ...]]):
    """``0.9,0.5,0.1``."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Read and check them."""
        from sparsec.compiler.sweep.request import check_densities

        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(word) for word in str(value).split(","))
            check_densities(numbers)
        except ValueError:
            self.fail(f"'{value}': expected numbers with commas between them, such as 0.9,0.5,0.1.", param, ctx)
        except RecipeError as error:
            self.fail(str(error), param, ctx)
        return numbers


class Share(click.ParamType[float]):
    """A number over 0 and at most 1."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number <= 1:
            self.fail(f"'{value}': expected a number of more than 0 and at most 1.", param, ctx)
        return number


@dataclass(frozen=True, slots=True)
class Wish:
    """What to do with what is found.

    Attributes:
        model: The source file, which no output may replace.
        recipe: File of the recipe; None for none.
        plot: File of the plot; None for none.
        budget: Share of the weights to keep; None to stop at each layer's knee.
        data_free: Whether densities come from the weights alone.
        as_json: Whether a machine reads stdout.
    """

    model: Path
    recipe: Path | None
    plot: Path | None
    budget: float | None
    data_free: bool
    as_json: bool


@click.command("sweep", short_help="Show what a model loses at which density, before compressing it.")
@click.argument("model", type=PATH)
@click.option("--calibration", type=PATH, metavar="FILE.npz", help="Real inputs, with a leading axis of samples.")
@click.option("--heldout", type=PATH, metavar="FILE.npz", help="Other real inputs, to measure on.")
@click.option(
    "--pattern", "patterns", type=PatternType(), multiple=True, default=("block(4x4)",),
    help="block(RxC), nm(N:M), unstructured, or a pass 'prune-...{...}'; repeat to compare (default: block(4x4)).",
)  # fmt: skip
@click.option(
    "--densities", type=DensitiesType(), metavar="0.9,0.8,...", default=None,
    help="Shares of units to keep (default: 0.9 to 0.1 in steps of 0.1).",
)  # fmt: skip
@click.option("--score", type=NearestChoice(SCORES), default="magnitude", help="What decides which weights stay.")
@click.option("--layers", "only", multiple=True, metavar="NAME|GLOB", help="Layers to sweep; repeat (default: all).")
@click.option("--whole", is_flag=True, help="Sweep the whole model only, not each layer alone.")
@click.option("--measure", type=NearestChoice(MEASURES), default="auto", help="What the knee is found in.")
@click.option("--drop", type=Share(), default=0.01, help="The drop that makes a knee (default: 0.01).")
@click.option("-o", "--output", type=PATH, metavar="FILE.yaml", help="Write a recipe with a density for each layer.")
@click.option("--budget", type=Share(), help="Share of the weights to keep, spent where it hurts least.")
@click.option("--data-free", is_flag=True, help="Spend the budget by the weights' PQ indices, without any samples.")
@click.option("--plot", type=PATH, metavar="FILE.svg|png", help="Draw the curves.")
@click.option("--jobs", type=click.IntRange(1), help="Samples that run at the same time (default: the CPUs).")
@shape_option
@json_option
@debug_option
def sweep_command(
    model: Path,
    calibration: Path | None,
    heldout: Path | None,
    patterns: Sequence[str],
    densities: tuple[float, ...] | None,
    score: str,
    only: Sequence[str],
    whole: bool,
    measure: Any,
    drop: float,
    output: Path | None,
    budget: float | None,
    data_free: bool,
    plot: Path | None,
    jobs: int | None,
    shapes: Mapping[str, tuple[int, ...]],
    as_json: bool,
) -> None:
    """Prune MODEL, an ONNX file, to many densities, and show what each layer and the whole model lose."""
    wish = Wish(model, output, plot, budget, data_free, as_json)
    _check(wish, patterns, whole, calibration or heldout)
    from sparsec.compiler import driver
    from sparsec.compiler.sweep.request import DENSITIES, Request

    request = Request(
        tuple(dict.fromkeys(patterns)), densities or DENSITIES, score, tuple(only), not whole, measure, drop,
        jobs or _cpus(),
    )  # fmt: skip
    notes: list[str] = []
    with progress_bar() as reporter:
        job = driver.job(
            model, "host", None, calibration, shapes, heldout=heldout, reporter=reporter, notice=notes.append,
            measures=not data_free,
        )  # fmt: skip
        found, chosen = (_without_data if data_free else _with_data)(request, job, wish)
        _write(found, chosen, request, wish)
    if as_json:
        print_json(sweep_json(found, chosen, notes))
        return
    print_sweep(found, chosen, model.name, notes)
    for what, path in (("recipe", output), ("plot", plot)):
        if path is not None:
            print_line(f"{what:10} {path}")


def _cpus() -> int:
    """Those that this process may use, where the system tells."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _check(wish: Wish, patterns: Sequence[str], whole: bool, data: Path | None) -> None:
    """Refuse what does not go together."""
    from sparsec.compiler.sweep.request import has_option, pruning_pass

    wrong = {
        "one --pattern goes with -o and --budget: a recipe holds one.": (wish.recipe or wish.budget)
        and len(patterns) > 1,
        "--whole sweeps no layer alone, so it does not go with -o or --budget.": (wish.recipe or wish.budget) and whole,
        "--data-free needs --budget, the share of the weights to keep.": wish.data_free and wish.budget is None,
        "--data-free measures nothing, so it does not go with --plot.": wish.data_free and wish.plot,
        f"pattern '{patterns[0]}' has a density of its own, so -o and --budget have none to choose.": (
            wish.recipe or wish.budget
        )
        and not has_option(pruning_pass(patterns[0]), "densities"),
        "-o and --plot name the same file.": wish.recipe is not None and wish.recipe == wish.plot,
        "a sweep needs real inputs: give --calibration, --heldout, or both; or --data-free with --budget.": not (
            wish.data_free or data
        ),
    }
    for message, holds in wrong.items():
        if holds:
            raise click.UsageError(message)
    if wish.plot is not None:
        from sparsec.compiler.sweep.plot import check_suffix

        try:
            check_suffix(wish.plot)
        except RecipeError as error:
            raise click.BadParameter(str(error), param_hint="--plot") from error
    for path in (wish.recipe, wish.plot):
        if path is not None:
            check_file(path, wish.model)


def _with_data(request: "Request", job: "Job", wish: Wish) -> "tuple[Sweep, Choice]":
    from sparsec.compiler import driver
    from sparsec.compiler.sweep.recipe import Choice, choose_densities
    from sparsec.compiler.sweep.sweep import sweep

    _, model, context = driver.imported(job)
    found = sweep(model, request, context)
    wanted = wish.recipe is not None or wish.budget is not None
    return found, choose_densities(model, found, request, context, wish.budget) if wanted else Choice()


def _without_data(request: "Request", job: "Job", wish: Wish) -> "tuple[Sweep, Choice]":
    from sparsec.compiler import driver
    from sparsec.compiler.sweep.recipe import Choice, by_index
    from sparsec.compiler.sweep.sweep import Sweep

    assert wish.budget is not None
    layers, chosen = by_index(driver.imported(job)[1], request, wish.budget)
    return Sweep(0, layers), Choice(chosen)


def _write(found: "Sweep", chosen: "Choice", request: "Request", wish: Wish) -> None:
    """The recipe and the plot, once both are made."""
    outputs: list[tuple[Path, bytes]] = []
    if wish.recipe is not None:
        from sparsec.compiler.sweep.recipe import recipe

        outputs.append((wish.recipe, str(recipe(request, request.patterns[0], chosen.densities)).encode()))
    if wish.plot is not None:
        from sparsec.compiler.sweep.plot import check_suffix, draw

        drawn = BytesIO()
        draw(found, drawn, check_suffix(wish.plot), wish.model.stem)
        outputs.append((wish.plot, drawn.getvalue()))
    for path, data in outputs:
        write_file(path, partial(_copy, data), keep=wish.model)


def _copy(data: bytes, stream: BinaryIO) -> None:
    stream.write(data)
