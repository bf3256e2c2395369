# SPDX-License-Identifier: Apache-2.0
"""The profile of a machine: measured costs by which kernels are priced, and the file it is kept in.

`docs/selection.md` describes the file. The names of the costs are those of `backends/kernels/cost.py` and its
neighbours; a file must have exactly those of the profile that comes with sparsec for the same instruction set.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sparsec.compiler.errors import DataError, TargetError
from sparsec.compiler.target import Target, host
from sparsec.compiler.text import shortened

VERSION = 1
"""Of the file; a reader refuses any other."""
BUILT_IN, FROM_FILE = "built-in", "file"
_LARGEST_FILE = 1 << 16
_LONGEST_TEXT = 200
_BOUNDS = {"_per_us": (1e-3, 1e9), "_us": (0.0, 1e3), "": (1e-3, 1024.0)}
"""By the end of a cost's name, what it may be: no machine is outside."""


@dataclass(frozen=True, slots=True)
class MachineProfile:
    """What kernels cost on one machine.

    Attributes:
        isa: Instruction set of the kernels measured; a key of `backends.isa.ISAS`.
        cpu: The processor, as `cpu_name` gives it; empty if nothing was measured.
        machine: Processor and engine, for people.
        costs: Names to numbers.
        source: ``built-in``, or ``file`` for one that was given.
    """

    isa: str
    cpu: str
    machine: str
    costs: Mapping[str, float]
    source: str = BUILT_IN

    def __str__(self) -> str:
        """The content of the file."""
        data = {
            "version": VERSION,
            "isa": self.isa,
            "cpu": self.cpu,
            "machine": self.machine,
            "costs": dict(sorted(self.costs.items())),
        }
        return json.dumps(data, indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class Tuned:
    """What measuring a machine gave.

    Attributes:
        old: The profile known before.
        new: The measured one.
        kernels: How many were timed.
        engine: What ran them; empty for native code.
        errors: Typical error of a price by the old and the new profile: 0.1 is ten percent.
        losses: How much slower than the best the kernel is that prices pick, by the old and the new profile.
    """

    old: MachineProfile
    new: MachineProfile
    kernels: int
    engine: str
    errors: tuple[float, float]
    losses: tuple[float, float]


def parse(text: str, place: str, source: str = FROM_FILE) -> MachineProfile:
    """Read the content of a profile's file.

    Args:
        text: JSON.
        place: Where it comes from, for messages.
        source: See `MachineProfile`.

    Raises:
        DataError: Naming the part that is wrong.
    """
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _wrong(place, f"it is no JSON ({error})") from error
    if not isinstance(data, dict) or data.keys() != {"version", "isa", "cpu", "machine", "costs"}:
        raise _wrong(place, "expected an object with the keys version, isa, cpu, machine and costs, and no others")
    if type(data["version"]) is not int or data["version"] != VERSION:
        raise _wrong(place, f"key 'version' is {_shown(data['version'])}, expected {VERSION}")
    for key in ("isa", "cpu", "machine"):
        if not isinstance(data[key], str) or len(data[key]) > _LONGEST_TEXT:
            raise _wrong(place, f"key '{key}' is {_shown(data[key])}, expected at most {_LONGEST_TEXT} characters")
    if not isinstance(data["costs"], dict):
        raise _wrong(place, f"key 'costs' is {_shown(data['costs'])}, expected an object of numbers")
    for name, cost in data["costs"].items():
        _check_cost(place, name, cost)
    costs = {name: float(cost) for name, cost in data["costs"].items()}
    return MachineProfile(data["isa"], data["cpu"], data["machine"], costs, source)


def read(path: Path, known: MachineProfile, target: Target) -> MachineProfile:
    """Read the profile in a file for a target whose own profile is `known`.

    Raises:
        DataError: If the file cannot be read, is malformed, or is for another instruction set or version of sparsec.
    """
    found = parse(_content(path), str(path))
    if found.isa != known.isa:
        other = f"it is for instruction set '{found.isa}', target '{target}' uses '{known.isa}'"
        raise _wrong(str(path), other, f" --target {target}")
    for name in sorted(found.costs.keys() - known.costs.keys()):
        near = get_close_matches(name, known.costs, n=1)
        hint = f", the nearest is '{near[0]}'" if near else ""
        raise _wrong(str(path), f"the cost '{shortened(name)}' is not known{hint}")
    missing = sorted(known.costs.keys() - found.costs.keys())
    if missing:
        raise _wrong(str(path), f"the cost '{missing[0]}' is missing")
    return found


def note(profile: MachineProfile, target: Target) -> str:
    """A warning that prices were not measured on the machine at hand; empty if they were."""
    here = _here()
    runs_here = target.name == "wasm" or (here is not None and target.name == here.name)
    if runs_here and profile.cpu and profile.cpu == cpu_name():
        return ""
    command = "sparsec tune" if target == here else f"sparsec tune --target {target}"
    which = "measures this one" if runs_here else "measures the machine it runs on"
    return f"prices are for {profile.machine}, not measured here; '{command}' {which}"


def cpu_name() -> str:
    """The processor at hand, as exactly as Linux names it: model, family and number, or ARM's implementer and part."""
    path = Path("/proc/cpuinfo")
    first = path.read_text("utf-8", "replace").split("\n\n")[0] if path.exists() else ""
    lines = [line.partition(":") for line in first.splitlines()]
    fields = {key.strip().lower(): value.strip() for key, _, value in lines}
    told = [f"{title}{fields[key]}" for key, title in _FIELDS if fields.get(key)]
    return ", ".join(told)[:_LONGEST_TEXT] or platform.processor() or platform.machine()


_FIELDS = (
    ("model name", ""),
    ("cpu family", "family "),
    ("model", "model "),
    ("cpu implementer", "implementer "),
    ("cpu part", "part "),
)


def _here() -> Target | None:
    try:
        return host()
    except TargetError:
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand there once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        msg = "a key stands there twice"
        raise ValueError(msg)
    return found


def _content(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise _wrong(str(path), f"it has more than {_LARGEST_FILE:,} bytes")
        return content.decode("utf-8")
    except OSError as error:
        msg = f"Profile '{path}': {error.strerror or error}. Give a file that 'sparsec tune' has written."
        raise DataError(msg) from error
    except UnicodeDecodeError as error:
        raise _wrong(str(path), "it is no text") from error


def _check_cost(place: str, name: str, cost: Any) -> None:
    low, high = next(bounds for end, bounds in _BOUNDS.items() if name.endswith(end))
    if not isinstance(cost, int | float) or isinstance(cost, bool) or not low <= cost <= high:
        wanted = f"expected a number from {low:g} to {high:g}"
        raise _wrong(place, f"the cost '{shortened(name)}' is {_shown(cost)}, {wanted}")


def _shown(value: Any) -> str:
    return shortened(json.dumps(value), 40)


def _wrong(place: str, found: str, options: str = "") -> DataError:
    return DataError(f"Profile '{place}': {found}. Write a new one with 'sparsec tune{options}'.")
