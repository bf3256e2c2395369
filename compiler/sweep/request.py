# SPDX-License-Identifier: Apache-2.0
"""What a sweep is asked: patterns as pruning passes, densities, and what makes a knee."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from sparsec.compiler.errors import RecipeError
from sparsec.compiler.pass_manager import Pass
from sparsec.compiler.pattern import NM, Block, Unstructured, parse_pattern
from sparsec.compiler.registry import create, parse_pass
from sparsec.compiler.sweep.curves import KNEE, Measure

DENSITIES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


@dataclass(frozen=True, slots=True)
class Request:
    """What to sweep.

    Attributes:
        patterns: Patterns (``block(4x4)``, ``nm(2:4)``, ``unstructured``), or whole pruning passes
            (``prune-blocks{rows=4 cols=4 update=refit}``).
        densities: Shares of units to keep, each in (0, 1]. A pattern with a density of its own has one point.
        score: Importance score of the passes that have one.
        only: Layers by name or glob; empty for all.
        each: Whether to sweep each layer alone, besides the whole model.
        measure: What the knee is found in.
        drop: How much less of it makes a knee.
        jobs: Samples that run at the same time.

    Raises:
        RecipeError: On a density out of range, or a pattern or pass that cannot be swept.
    """

    patterns: tuple[str, ...] = ("block(4x4)",)
    densities: tuple[float, ...] = DENSITIES
    score: str = "magnitude"
    only: tuple[str, ...] = ()
    each: bool = True
    measure: Measure = "auto"
    drop: float = KNEE
    jobs: int = 1

    def __post_init__(self) -> None:
        check_densities(self.densities)
        if not self.patterns:
            msg = "A sweep has no pattern; expected at least one, such as 'block(4x4)'."
            raise RecipeError(msg)
        for text in self.patterns:
            pruning_pass(text, self.score)


def check_densities(densities: Sequence[float]) -> None:
    """Check that there are densities, all in (0, 1].

    Raises:
        RecipeError: Naming the first that is not.
    """
    wrong = next((density for density in densities if not 0 < density <= 1), None)
    if wrong is not None or not densities:
        found = f"Density {wrong:g}" if wrong is not None else "No density"
        msg = f"{found}: expected numbers of more than 0 and at most 1, such as 0.5."
        raise RecipeError(msg)


def pruning_pass(text: str, score: str = "magnitude") -> Pass:
    """The pass that prunes under a pattern, or the pass whose text is given.

    Raises:
        RecipeError: If the text is neither, or the pass does not prune.
    """
    if "{" in text or text.startswith("prune-"):
        step = parse_pass(text)
    else:
        pattern = parse_pattern(text)
        if type(pattern) not in _PASSES:
            msg = f"Pattern '{text}' cannot be swept; expected one of {', '.join(_EXAMPLES)}, or the text of a pass."
            raise RecipeError(msg)
        options = {entry.name: getattr(pattern, entry.name) for entry in fields(cast("Any", pattern))}
        step = create(_PASSES[type(pattern)], {**options, "score": score})
    if step.stage != "prune":
        msg = f"Pass '{step.name}' does not prune weights; a sweep takes passes that do, such as 'prune-blocks'."
        raise RecipeError(msg)
    return step


_PASSES: Mapping[type, str] = {Block: "prune-blocks", NM: "prune-nm", Unstructured: "prune-unstructured"}
_EXAMPLES = ("'block(4x4)'", "'nm(2:4)'", "'unstructured'")


def at_densities(step: Pass, densities: Sequence[float]) -> Iterator[tuple[float | None, Pass]]:
    """The pass at each density, falling; once, with None, where its pattern leaves no choice."""
    if not has_option(step, "density"):
        yield None, step
        return
    for density in sorted(set(densities), reverse=True):
        yield density, with_options(step, density=density)


def narrowed(step: Pass, only: tuple[str, ...]) -> Pass:
    """The pass on the layers asked for, with their weights as the pattern leaves them: no bias is corrected."""
    wanted: dict[str, Any] = {"correct_bias": False, **({"only": only} if only else {})}
    return with_options(step, **{key: value for key, value in wanted.items() if has_option(step, key)})


def has_option(step: Pass, option: str) -> bool:
    """Whether the pass has an option of this name."""
    return any(entry.name == option for entry in fields(cast("Any", step)))


def with_options(step: Pass, **options: Any) -> Pass:
    """The pass with other options."""
    return cast("Pass", replace(cast("Any", step), **options))
