# SPDX-License-Identifier: Apache-2.0
"""``sparsec list``: what there is to choose from, with one line on each."""

from collections.abc import Callable, Iterator, Mapping

import click

from sparsec.cli.parameters import NearestChoice, debug_option
from sparsec.cli.tables import print_table
from sparsec.compiler.errors import RecipeError
from sparsec.compiler.target import FEATURES

Rows = Iterator[tuple[str, str]]

TARGETS: Mapping[str, str] = {
    "x86": "x86-64 with AVX2 and FMA: static and shared library with a C header",
    "x86+avx512vnni": "the same with AVX-512 and its dot product of bytes",
    "arm": "AArch64 with NEON: static and shared library with a C header",
    "arm+dotprod": "the same with the dot product of bytes, as in most phones since 2018",
    "wasm": "WebAssembly with SIMD: modules with and without relaxed SIMD, loader for pages and Node.js",
    "wasm+relaxed-simd": "the same, its kernels chosen for engines with relaxed SIMD",
}


@click.command("list", short_help="List passes, recipes, targets or models.")
@click.argument("what", type=NearestChoice(("passes", "recipes", "targets", "models")))
@debug_option
def list_command(what: str) -> None:
    """List the passes, recipes, targets or catalog models."""
    heading, rows, hint = _LISTS[what]
    print_table((heading, "what it is"), rows())
    if hint:
        click.echo(hint)


def _passes() -> Rows:
    """A pass whose package cannot be imported has its error for a line."""
    from sparsec.compiler.registry import catalogue, load

    for name, entry in sorted(catalogue().items()):
        try:
            line = _first_line(load(name), name)
        except RecipeError as error:
            line = f"not available: {error}"
        yield name, line if entry.owner == "sparsec" else f"{line} [{entry.owner}]"


def _first_line(kind: type, name: str) -> str:
    """From ``name: what it does`` on top of the module, else from the class."""
    import inspect
    import sys

    module = (sys.modules[kind.__module__].__doc__ or "").strip()
    text = module.removeprefix(f"{name}: ") if module.startswith(f"{name}: ") else inspect.getdoc(kind) or ""
    return text.split("\n\n")[0].split("\n")[0]


def _recipes() -> Rows:
    """The comment on top of each built-in recipe."""
    from importlib.resources import files

    from sparsec.compiler.recipe import built_in

    for name in built_in():
        text = files("sparsec.passes.recipes").joinpath(f"{name}.yaml").read_text("utf-8")
        yield name, text.splitlines()[0].removeprefix("#").strip()


def _targets() -> Rows:
    """Each target alone, then with each feature."""
    for name, features in FEATURES.items():
        for text in (name, *(f"{name}+{feature}" for feature in features)):
            yield text, TARGETS.get(text, "")


def _models() -> Rows:
    """Name and summary; nothing is downloaded."""
    from sparsec.models.catalog import MODELS

    yield from ((model.name, model.summary) for model in MODELS.values())


_LISTS: Mapping[str, tuple[str, Callable[[], Rows], str]] = {
    "passes": ("pass", _passes, ""),
    "recipes": ("recipe", _recipes, ""),
    "targets": ("target", _targets, "'host' stands for the machine at hand, with the features it has."),
    "models": ("model", _models, "Write one to a file with: python -m sparsec.models NAME"),
}
