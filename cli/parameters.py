# SPDX-License-Identifier: Apache-2.0
"""Kinds of arguments that the commands share; what does not fit is wrong usage."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from sparsec.compiler.errors import RecipeError, TargetError
from sparsec.compiler.target import Target

Shape = tuple[str, tuple[int, ...]]


@dataclass(slots=True)
class Settings:
    """What holds for the whole command line.

    Attributes:
        debug: Whether errors show a traceback.
        signal: The signal that ended it; 0 while none has.
    """

    debug: bool = False
    signal: int = 0


def _remember(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    settings = context.find_object(Settings)
    if settings is not None and value:
        settings.debug = True


debug_option = click.option(
    "--debug", is_flag=True, is_eager=True, expose_value=False, callback=_remember, help="Show a traceback on errors."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


class NearestChoice(click.Choice[str]):
    """A choice that names the nearest valid value."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Say what is valid."""
        near = get_close_matches(str(value), self.choices, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return f"'{value}' is not one of {', '.join(self.choices)}.{hint}"


class TargetType(click.ParamType[Any]):
    """A target's text; ``host`` stays a word, as only the machine at hand can say what it is."""

    name = "target"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read `Target.parse`'s form."""
        try:
            return "host" if value == "host" else Target.parse(value)
        except TargetError as error:
            self.fail(str(error), param, ctx)


class ShapeType(click.ParamType[Shape]):
    """``INPUT=1x3x224x224``; nothing after the ``=`` is a scalar."""

    name = "INPUT=1x3x224x224"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shape:
        """Split at the last ``=``: names of inputs may hold one."""
        name, separator, sides = str(value).rpartition("=")
        if not (separator and name and re.fullmatch(r"(\d{1,18}(x\d{1,18})*)?", sides)):
            self.fail(f"'{value}': expected a form such as 'image=1x3x224x224'.", param, ctx)
        shape = tuple(int(side) for side in sides.split("x")) if sides else ()
        if 0 in shape:
            self.fail(f"'{value}': a side is 0, expected at least 1.", param, ctx)
        return name, shape


class PassType(click.ParamType[str]):
    """A pass's text form, checked with all its options."""

    name = "'NAME{...}'"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Try to make the pass."""
        from sparsec.compiler.registry import parse_pass

        try:
            parse_pass(str(value))
        except RecipeError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class Tolerance(click.ParamType[float]):
    """A finite number that is not negative."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            self.fail(f"'{value}': expected a number of at least 0, such as 1e-3.", param, ctx)
        return number


def one_shape_each(context: click.Context, parameter: click.Parameter, given: Sequence[Shape]) -> Mapping[str, Any]:
    """The shapes by input name; a callback of options."""
    shapes = dict(given)
    if len(shapes) < len(given):
        names = [name for name, _ in given]
        twice = next(name for name in names if names.count(name) > 1)
        raise click.BadParameter(f"input '{twice}' is given twice.", context, parameter)  # noqa: EM102
    return shapes


shape_option = click.option(
    "--shape",
    "shapes",
    type=ShapeType(),
    multiple=True,
    metavar="INPUT=1x3x224x224",
    callback=one_shape_each,
    help="Whole shape of an input with dynamic dimensions; repeat for each.",
)
PATH = click.Path(path_type=Path)
profile_option = click.option(
    "--profile", type=PATH, metavar="FILE", help="Machine to price kernels for, as 'sparsec tune' writes it."
)
