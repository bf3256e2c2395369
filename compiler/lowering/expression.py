# SPDX-License-Identifier: Apache-2.0
"""Elementwise arithmetic as a value: what runs on each element after an anchor, or as a kernel of its own.

An `Expression` is a list of steps in evaluation order; a step names an operation of `OPERATIONS` and the earlier
steps it reads. It is hashable, so it can be part of a `KernelSpec`, and it is evaluated with any table of functions:
numpy here (the reference), TIR in the back ends. All arithmetic is float32; operands of other types are converted
when they are loaded and the result is converted when it is stored.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import erf
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
Step = tuple[str | int | float, ...]

OPERATIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "add": (2, np.add),
    "sub": (2, np.subtract),
    "mul": (2, np.multiply),
    "div": (2, np.divide),
    "max": (2, np.maximum),
    "min": (2, np.minimum),
    "neg": (1, np.negative),
    "abs": (1, np.abs),
    "sqrt": (1, np.sqrt),
    "exp": (1, np.exp),
    "log": (1, np.log),
    "tanh": (1, np.tanh),
    "erf": (1, np.vectorize(erf, otypes=[np.float32])),
    "sigmoid": (1, lambda x: 1 / (1 + np.exp(-x))),
    "floor": (1, np.floor),
    "ceil": (1, np.ceil),
    "round": (1, np.rint),
    "less": (2, lambda a, b: np.where(a < b, np.float32(1), np.float32(0))),
    "equal": (2, lambda a, b: np.where(a == b, np.float32(1), np.float32(0))),
    "select": (3, lambda c, a, b: np.where(c != 0, a, b)),
}
"""Name: number of operands and numpy meaning. `round` is half to even; `max` and `min` keep NaN."""


@dataclass(frozen=True, slots=True)
class Expression:
    """Steps in evaluation order; the last is the result.

    A step is ``("arg", i)``: operand number i; ``("const", value)``: a float32 literal that becomes part of the
    code (use an operand for scales, so that layers share code); or ``(operation, step index...)``.
    """

    steps: tuple[Step, ...]

    @property
    def arguments(self) -> int:
        """How many operands are read: one more than the largest index."""
        return 1 + max((int(step[1]) for step in self.steps if step[0] == "arg"), default=-1)

    def evaluate(self, args: Sequence[T], table: Mapping[str, Callable[..., T]], const: Callable[[float], T]) -> T:
        """Run the steps with the given operands, functions and maker of literals."""
        values: list[T] = []
        for name, *operands in self.steps:
            if name == "arg":
                values.append(args[int(operands[0])])
            elif name == "const":
                values.append(const(float(operands[0])))
            else:
                values.append(table[str(name)](*(values[int(i)] for i in operands)))
        return values[-1]

    def __call__(self, *args: Any) -> Any:
        """The numpy meaning, in float32."""
        table = {name: function for name, (_, function) in OPERATIONS.items()}
        floats = [np.asarray(arg, np.float32) for arg in args]
        with np.errstate(all="ignore"):
            return np.asarray(self.evaluate(floats, table, lambda value: np.asarray(value, np.float32)), np.float32)

    def __str__(self) -> str:
        """Nested form, as read by people: ``min(max(add(a0, a1), 0), 6)``."""
        table = {name: _printer(name) for name in OPERATIONS}
        names = [f"a{i}" for i in range(self.arguments)]
        return self.evaluate(names, table, lambda value: f"{value:g}")


IDENTITY = Expression((("arg", 0),))


def _printer(name: str) -> Callable[..., str]:
    return lambda *operands: f"{name}({', '.join(operands)})"


class Builder:
    """Collects steps, sharing equal ones."""

    def __init__(self) -> None:
        self._steps: dict[Step, int] = {}

    def arg(self, index: int) -> int:
        """The step that reads operand `index`."""
        return self._add(("arg", index))

    def const(self, value: float) -> int:
        """The step that is a literal, rounded to float32."""
        return self._add(("const", float(np.float32(value))))

    def call(self, name: str, *operands: int) -> int:
        """The step that applies an operation of `OPERATIONS` to earlier steps."""
        assert len(operands) == OPERATIONS[name][0], name
        return self._add((name, *operands))

    def build(self, result: int) -> Expression:
        """The expression whose result is the given step; later and unused steps are dropped."""
        steps = list(self._steps)
        needed = sorted(_reach(steps, result))
        place = {old: new for new, old in enumerate(needed)}
        return Expression(tuple(_renumber(steps[old], place) for old in needed))

    def _add(self, step: Step) -> int:
        return self._steps.setdefault(step, len(self._steps))


def _reach(steps: Sequence[Step], result: int) -> set[int]:
    reached: set[int] = set()
    todo = [result]
    while todo:
        index = todo.pop()
        if index not in reached:
            reached.add(index)
            todo += [] if steps[index][0] in ("arg", "const") else [int(i) for i in steps[index][1:]]
    return reached


def _renumber(step: Step, place: Mapping[int, int]) -> Step:
    return step if step[0] in ("arg", "const") else (step[0], *(place[int(i)] for i in step[1:]))
