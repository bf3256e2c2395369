# SPDX-License-Identifier: Apache-2.0
"""Recipe: a flat, versioned list of passes in YAML.

Read without executing anything: aliases, tags, deep nesting and files over `MAX_BYTES` are refused, and every
error names the line.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import yaml

from sparsec.compiler.errors import RecipeError
from sparsec.compiler.options import parse_call, unknown
from sparsec.compiler.pass_manager import Pass
from sparsec.compiler.registry import create

VERSION = 1
MAX_BYTES = 65_536
_MAX_DEPTH = 6
_SCALARS: Mapping[str, Callable[[str], object]] = {
    "tag:yaml.org,2002:bool": lambda text: text.lower() in ("true", "yes", "on"),
    "tag:yaml.org,2002:int": lambda text: int(text.replace("_", "")),
    "tag:yaml.org,2002:float": lambda text: float(text.replace("_", "")),
    "tag:yaml.org,2002:str": str,
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Passes in order.

    Attributes:
        passes: The pipeline.
        name: Where it came from: a file, the name of a built-in, or ``recipe``.
    """

    passes: tuple[Pass, ...] = ()
    name: str = "recipe"

    @classmethod
    def load(cls, source: str | Path) -> "Recipe":
        """Read a YAML file, or a built-in recipe by name (see `built_in`).

        Raises:
            RecipeError: If there is none, or it is not valid.
        """
        text = str(source)
        if isinstance(source, str) and text in built_in():
            found = files("sparsec.passes.recipes").joinpath(f"{text}.yaml")
            return cls.parse(found.read_text(encoding="utf-8"), text)
        return cls.parse(_read(Path(source), text), text)

    @classmethod
    def parse(cls, text: str, name: str = "recipe") -> "Recipe":
        """Read YAML text; `name` is for messages.

        Raises:
            RecipeError: On malformed YAML, an unknown key, pass or option; the message names the line.
        """
        try:
            root = _compose(text, name)
            keys = _mapping(root, name)
            for key, (node, _) in keys.items():
                if key not in ("version", "passes"):
                    raise _at(node, name, unknown("key", key, ("version", "passes")))
            _check_version(root, keys, name)
            return cls(tuple(_pass(node, name) for node in _items(root, keys, name)), name)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            msg = f"Recipe '{name}'{line}: malformed YAML: {getattr(error, 'problem', None) or error}."
            raise RecipeError(msg) from error

    def __str__(self) -> str:
        """YAML text that `parse` reads back to the same passes."""
        steps = [_entry(step) for step in self.passes]
        return yaml.safe_dump({"version": VERSION, "passes": steps}, sort_keys=False, default_flow_style=None)


def built_in() -> tuple[str, ...]:
    """Names of the recipes that come with sparsec."""
    found = files("sparsec.passes.recipes").iterdir()
    return tuple(sorted(f.name.removesuffix(".yaml") for f in found if f.name.endswith(".yaml")))


def _entry(step: Pass) -> object:
    """A pass with its options; one that is None was not given."""
    options = {key: list(v) if isinstance(v, tuple) else v for key, v in vars(step).items() if v is not None}
    return {step.name: options} if options else step.name


def _read(path: Path, text: str) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        return data.decode("utf-8")
    except FileNotFoundError:
        msg = f"Recipe '{text}' is neither a file nor a built-in. " + unknown("recipe", text, built_in())
        raise RecipeError(msg) from None
    except (OSError, UnicodeDecodeError) as error:
        msg = f"Recipe '{text}' cannot be read: {error}."
        raise RecipeError(msg) from error


def _compose(text: str, name: str) -> yaml.Node:
    """The node tree, after a look at the events alone has ruled out what could blow up."""
    if len(text.encode()) > MAX_BYTES:
        msg = f"Recipe '{name}': more than {MAX_BYTES:,} bytes."
        raise RecipeError(msg)
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            msg = f"Recipe '{name}', line {line}: YAML anchors and aliases are not allowed."
            raise RecipeError(msg)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            msg = f"Recipe '{name}', line {line}: nested too deeply; a recipe is one flat list of passes."
            raise RecipeError(msg)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        msg = f"Recipe '{name}' is empty; expected 'version: {VERSION}' and 'passes:'."
        raise RecipeError(msg)
    return root


def _mapping(node: yaml.Node, name: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """Key text -> (key node, value node)."""
    if not isinstance(node, yaml.MappingNode):
        raise _at(node, name, "expected 'key: value' pairs.")
    found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for key, value in node.value:
        text = str(key.value)
        if text in found:
            raise _at(key, name, f"'{text}' is given twice.")
        found[text] = (key, value)
    return found


def _check_version(root: yaml.Node, keys: Mapping[str, tuple[yaml.Node, yaml.Node]], name: str) -> None:
    if "version" not in keys:
        raise _at(root, name, f"the key 'version' is missing; expected 'version: {VERSION}'.")
    node = keys["version"][1]
    if _plain(node, name) != VERSION:
        raise _at(node, name, f"version is '{node.value}', expected {VERSION}.")


def _items(root: yaml.Node, keys: Mapping[str, tuple[yaml.Node, yaml.Node]], name: str) -> Iterable[yaml.Node]:
    node = keys["passes"][1] if "passes" in keys else root
    if not isinstance(node, yaml.SequenceNode):
        raise _at(node, name, "expected 'passes:' with a list of passes.")
    return list(node.value)


def _pass(node: yaml.Node, name: str) -> Pass:
    """One entry: ``name``, ``name{option=value}`` or ``name: {option: value}``."""
    if isinstance(node, yaml.ScalarNode):
        return _located(node, name, {}, lambda: create(*parse_call(str(node.value))))
    entry = _mapping(node, name)
    if len(entry) != 1:
        raise _at(node, name, "expected one pass an entry: 'name' or 'name: {option: value}'.")
    ((pass_name, (_, value)),) = entry.items()
    empty = isinstance(value, yaml.ScalarNode) and value.tag.endswith(":null")
    options = {} if empty else _mapping(value, name)
    values = {key: _plain(option, name) for key, (_, option) in options.items()}
    return _located(node, name, options, lambda: create(pass_name, values))


def _located(
    node: yaml.Node, name: str, options: Mapping[str, tuple[yaml.Node, yaml.Node]], make: Callable[[], Pass]
) -> Pass:
    try:
        return make()
    except RecipeError as error:
        blamed = [key for option, (key, _) in options.items() if f"option '{option}'" in str(error)]
        raise _at((blamed or [node])[0], name, str(error)) from error


def _plain(node: yaml.Node, name: str) -> object:
    """A scalar or a list of scalars."""
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, name) for item in node.value]
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _SCALARS:
        raise _at(node, name, "expected a number, true or false, a text, or a list of texts.")
    try:
        return _SCALARS[node.tag](str(node.value))
    except ValueError:
        raise _at(node, name, f"'{node.value}' is not a plain decimal number.") from None


def _at(node: yaml.Node, name: str, text: str) -> RecipeError:
    return RecipeError(f"Recipe '{name}', line {node.start_mark.line + 1}: {text}")
