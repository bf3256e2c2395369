# SPDX-License-Identifier: Apache-2.0
"""Finds passes by name: sparsec's own table, and installed packages through the entry points `sparsec.passes`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points

from sparsec.compiler.errors import RecipeError
from sparsec.compiler.options import build, parse_call, unknown
from sparsec.compiler.pass_manager import Pass

GROUP = "sparsec.passes"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a pass comes from.

    Attributes:
        name: The pass's name.
        home: ``module:Class``, imported on first use.
        owner: The package that brings it.
    """

    name: str
    home: str
    owner: str


def catalogue() -> dict[str, Entry]:
    """All passes that can be named, by name; nothing is imported but the table of sparsec's own.

    Raises:
        RecipeError: If two packages bring a pass of the same name.
    """
    table: Mapping[str, str] = import_module("sparsec.passes").PASSES
    own = [Entry(name, home, "sparsec") for name, home in table.items()]
    return _unique([*own, *_installed()])


def load(name: str) -> type[Pass]:
    """The class of a pass.

    Raises:
        RecipeError: If no package brings it, or the package that does cannot be imported.
    """
    known = catalogue()
    if name not in known:
        raise RecipeError(unknown("pass", name, known))
    return _import(known[name])


def create(name: str, options: Mapping[str, object]) -> Pass:
    """A pass with options.

    Raises:
        RecipeError: On an unknown pass or a wrong option.
    """
    return build(load(name), name, options)


def parse_pass(text: str) -> Pass:
    """A pass from its text form, ``prune-blocks{rows=4 cols=4 density=0.5}``.

    Raises:
        RecipeError: On malformed text, an unknown pass or a wrong option.
    """
    return create(*parse_call(text))


def _installed() -> list[Entry]:
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    return [Entry(p.name, p.value, p.dist.name if p.dist else "unknown package") for p in points]


def _unique(entries: Iterable[Entry]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for entry in entries:
        if entry.name in found:
            msg = (
                f"Pass '{entry.name}' is brought by two packages, '{found[entry.name].owner}' and '{entry.owner}'. "
                "Uninstall one of them."
            )
            raise RecipeError(msg)
        found[entry.name] = entry
    return found


def _import(entry: Entry) -> type[Pass]:
    module, _, attribute = entry.home.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # a package may fail in any way while it is imported
        msg = f"Pass '{entry.name}' of package '{entry.owner}': importing '{entry.home}' failed: {error!r}."
        raise RecipeError(msg) from error
    if not (isinstance(found, type) and issubclass(found, Pass) and getattr(found, "name", None) == entry.name):
        msg = (
            f"Pass '{entry.name}' of package '{entry.owner}': '{entry.home}' is not a subclass of Pass "
            f"with name = '{entry.name}'."
        )
        raise RecipeError(msg)
    return found
