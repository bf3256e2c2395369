# SPDX-License-Identifier: Apache-2.0
"""A pass's options: from text or YAML to its dataclass, type-checked, and back to ``name{option=value ...}``."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from sparsec.compiler.errors import RecipeError

T = TypeVar("T")
NAME = r"[A-Za-z][\w.-]*"
_TOKEN = re.compile(r"""\s*(?:(?P<word>[^\s,\[\]{}='"]+)|(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<mark>[\[\]{}=,]))""")


class Word(str):
    """A value as written in a pass text; it becomes what the option's type says."""

    __slots__ = ()


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not in `known`, with the nearest one that is."""
    names = sorted(set(known))
    near = get_close_matches(word, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"Unknown {kind} '{word}'; expected one of: {', '.join(names) or '(none)'}.{hint}"


def parse_call(text: str) -> tuple[str, dict[str, object]]:
    """Split ``name{key=value list=[a,b] other="two words"}`` into name and options, the values being `Word`.

    Raises:
        RecipeError: On text of another form, or an option given twice.
    """
    tokens = _tokens(text)
    if not tokens or tokens[0][0] != "word" or not re.fullmatch(NAME, tokens[0][1]):
        raise _malformed(text, "a pass name comes first")
    name, rest = tokens[0][1], tokens[1:]
    if rest and (rest[0] != ("mark", "{") or rest[-1] != ("mark", "}") or len(rest) < 2):
        raise _malformed(text, "options stand between '{' and '}'")
    return name, _assignments(rest[1:-1], text)


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if not match:
            raise _malformed(text, f"the character {text[position]!r} does not fit")
        found.append((str(match.lastgroup), str(match[str(match.lastgroup)])))
        position = match.end()
    return found


def _assignments(tokens: list[tuple[str, str]], text: str) -> dict[str, object]:
    options: dict[str, object] = {}
    queue = list(reversed(tokens))
    while queue:
        kind, key = queue.pop()
        if (kind, key) == ("mark", ",") and options:
            continue
        if kind != "word" or not queue or queue.pop() != ("mark", "="):
            raise _malformed(text, f"'{key}' is not of the form option=value")
        if key in options:
            raise _malformed(text, f"option '{key}' is given twice")
        options[key] = _value(queue, text, key)
    return options


def _value(queue: list[tuple[str, str]], text: str, key: str) -> object:
    kind, token = queue.pop() if queue else ("mark", "")
    if kind != "mark":
        return _word(kind, token)
    items: list[Word] = []
    while token == "[" and queue:
        kind, item = queue.pop()
        if (kind, item) == ("mark", "]"):
            return items
        if kind != "mark":
            items.append(_word(kind, item))
        elif item == "=":
            raise _malformed(text, f"a text that holds '=' needs quotes in the list of option '{key}'")
        elif item != ",":
            break
    raise _malformed(text, f"option '{key}' has no value, or a list without its ']'")


def _word(kind: str, token: str) -> Word:
    return Word(json.loads(token) if kind == "quoted" else token)


def _malformed(text: str, why: str) -> RecipeError:
    return RecipeError(f"Pass text '{text}': {why}; expected a form such as 'prune-blocks{{rows=4 density=0.5}}'.")


def render(name: str, instance: object) -> str:
    """The text form of a dataclass: its name and every field but those that are None, which stands for not given.

    `parse_call` and `build` read it back.
    """
    values = {entry.name: getattr(instance, entry.name) for entry in fields(instance)}  # type: ignore[arg-type]
    pairs = [f"{name}={_text(value)}" for name, value in values.items() if value is not None]
    return name + ("{" + " ".join(pairs) + "}" if pairs else "")


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ",".join(_text(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not re.fullmatch(r"""[^\s,\[\]{}='"]+""", value):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def build(kind: type[T], name: str, options: Mapping[str, object]) -> T:
    """Make the pass `kind` from options, checking names and types against its fields.

    Args:
        kind: A dataclass whose fields are bool, int, float, str, Literal of str, or tuple[str, ...]; or one of them
            and None, the default, for an option that may be left out.
        name: The pass's name, for messages.
        options: From `parse_call` or YAML.

    Raises:
        RecipeError: On an unknown, missing or ill-typed option, or one that the pass itself refuses.
    """
    hints, known = get_type_hints(kind), fields(kind)  # type: ignore[arg-type]
    names = [field.name for field in known if field.init]
    for option in options:
        if option not in names:
            raise RecipeError(f"Pass '{name}': " + unknown("option", option, names))
    for field in known:
        if field.name not in options and field.default is MISSING and field.default_factory is MISSING:
            msg = f"Pass '{name}': option '{field.name}' is missing; it has no default."
            raise RecipeError(msg)
    return kind(**{key: _convert(value, hints[key], name, key) for key, value in options.items()})


def _convert(value: object, hint: Any, name: str, option: str) -> object:
    kind = _without_none(hint)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise RecipeError(f"Pass '{name}', option '{option}': " + unknown("value", str(value), get_args(kind)))
        return str(value)
    if get_origin(kind) is tuple:
        items = [value] if isinstance(value, str) else value
        if isinstance(items, list | tuple) and all(isinstance(item, str) for item in items):
            return tuple(map(str, items))
        raise _ill_typed(value, "a list of texts", name, option)
    readers: Mapping[Any, tuple[Callable[[object], object], str]] = {
        bool: (_bool, "true or false"),
        int: (_int, "an integer"),
        float: (_float, "a number"),
        str: (_str, "a text"),
    }
    if kind not in readers:
        msg = f"Pass '{name}': option '{option}' has type {kind}; expected bool, int, float, str, Literal, tuple[str]."
        raise RecipeError(msg)
    read, expected = readers[kind]
    try:
        return read(value)
    except (ValueError, TypeError):
        raise _ill_typed(value, expected, name, option) from None


def _without_none(hint: Any) -> Any:
    """``int`` of ``int | None``; any other type as it is."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if get_origin(hint) is UnionType else [hint]
    return kinds[0] if len(kinds) == 1 else hint


def _bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}[value] if value in ("true", "false") else _refuse()


def _int(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, Word) else _refuse()


def _float(value: object) -> float:
    number = float(value) if isinstance(value, Word | int | float) and not isinstance(value, bool) else _refuse()
    return number if abs(number) < float("inf") else _refuse()


def _str(value: object) -> str:
    return str(value) if isinstance(value, str) else _refuse()


def _refuse() -> Any:
    raise ValueError


def _ill_typed(value: object, expected: str, name: str, option: str) -> RecipeError:
    return RecipeError(f"Pass '{name}': option '{option}' is {_text(value)}, expected {expected}.")
