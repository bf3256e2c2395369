# SPDX-License-Identifier: Apache-2.0
"""The whole suite on x86, written to docs/conformance.md; and one passing case an operator, for the tests."""

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from tests.conformance.cases import PARAMETERS, cases
from tests.conformance.judge import CRASHED, PASSED, REFUSED, WRONG, Verdict, judge, shortened

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
PASSING = Path(__file__).with_name("passing.txt")
"""Per operator with a passing case one such case; `test_conformance.py` runs them."""
_INTRODUCTION = """# Conformance

The backend test suite of the `onnx` package, version {onnx}, judges sparsec {sparsec} on x86 with AVX2. Written by
`make conformance`; do not edit.

| cases | passed | refused, with a reason | wrong | crashed or hung |
| --- | --- | --- | --- | --- |
| {total} | {passed} | {refused} | {wrong} | {crashed} |

**{operators} operators** of {known} in the suite have a case that passes ({alone} of them in a case of their own).

## What is judged, and how

- Each case is a model, inputs, and the outputs that ONNX says are right. It is imported, lowered, compiled by LLVM,
  linked and run on this machine; outputs must have the type and shape of the expected ones, and their values within
  the suite's own tolerances (rtol 1e-3, atol 1e-7 unless the case has others). One exception: DFT is given atol
  1e-6, as the expected values hold the rounding errors of a float32 FFT where the result is 0.
- Refused: sparsec raised its own error, before any code ran. Wrong: the code ran and an output differs. Crashed: any
  other exception, a dead process, or {silence} seconds of silence.
- **Parameters are handed over as constants.** The suite passes everything at run time: axes, shapes, pads, scales,
  zero points, weights of recurrent layers. Exported models hold these as constants, and a compiler to static shapes
  needs them so. The inputs in the table at the end became initializers; data inputs never did.
- An empty input that no node reads (what is left of a CastLike) is left out.
- Many programs share one library, to save the linker's time. A fixed subset is compiled and run as whole artifacts,
  on WebAssembly and ARM too, by `make test`.
"""


def page(verdicts: Sequence[Verdict]) -> str:
    """The page as Markdown."""
    count = Counter(verdict.outcome for verdict in verdicts)
    good = [verdict for verdict in verdicts if verdict.outcome == PASSED]
    numbers = {
        "onnx": version("onnx"),
        "sparsec": version("sparsec"),
        "total": len(verdicts),
        "operators": len(_operators(good)),
        "alone": len(_operators(v for v in good if len(v.operators) == 1)),
        "known": len(_operators(verdicts)),
        "silence": 300,
    } | {outcome: count[outcome] for outcome in (PASSED, REFUSED, WRONG, CRASHED)}
    sections = (_faults, _by_operator, _reasons, _parameters)
    return _INTRODUCTION.format(**numbers) + "".join("\n" + "\n".join(section(verdicts)) + "\n" for section in sections)


def passing(verdicts: Sequence[Verdict]) -> list[str]:
    """For each operator a case that passes, with as few other operators as can be; by operator."""
    good = [verdict for verdict in verdicts if verdict.outcome == PASSED]
    choices = (
        min((v for v in good if operator in v.operators), key=lambda v: (len(v.operators), v.name))
        for operator in sorted(_operators(good))
    )
    return list(dict.fromkeys(verdict.name for verdict in choices))


def _operators(verdicts: Iterable[Verdict]) -> set[str]:
    return {operator for verdict in verdicts for operator in verdict.operators}


def _faults(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "## Wrong or crashed\n"
    found = [f"- `{v.name}`: {v.outcome}, {_cell(v.detail)}" for v in verdicts if v.outcome in (WRONG, CRASHED)]
    yield from found or ["None."]


def _by_operator(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "## By operator\n"
    yield "A case counts for each operator in its graph.\n"
    yield "| operator | passed | refused | wrong | crashed |\n| --- | --- | --- | --- | --- |"
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for verdict in verdicts:
        for operator in verdict.operators:
            counts[operator][verdict.outcome] += 1
    for operator in sorted(counts):
        cells = [counts[operator][outcome] or "" for outcome in (PASSED, REFUSED, WRONG, CRASHED)]
        yield f"| {operator} | " + " | ".join(map(str, cells)) + " |"


def _reasons(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "## Reasons of refusal\n"
    yield "Names, numbers and shapes are left out, so that equal reasons stand together.\n"
    yield "| cases | reason | operators in the graphs |\n| --- | --- | --- |"
    groups: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.outcome == REFUSED:
            groups[_general(verdict.detail)].append(verdict)
    for reason, group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        names = Counter(operator for verdict in group for operator in verdict.operators)
        most = [name for name, _ in sorted(names.items(), key=lambda item: (-item[1], item[0]))]
        yield f"| {len(group)} | {_cell(reason)} | {', '.join(most[:6])}{', ...' if len(most) > 6 else ''} |"


def _general(detail: str) -> str:
    """A message without what is particular to one case."""
    quoted = re.sub(r"(?<![a-z])'[^']*'", "'…'", detail)
    return re.sub(r"\([^()]*\)", "(…)", re.sub(r"-?\b\d+(\.\d+)?\b", "…", quoted))[:200]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _parameters(_verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "## Inputs handed over as constants\n"
    yield "By position, from 0.\n"
    yield "| operator | inputs |\n| --- | --- |"
    for operator, places in sorted(PARAMETERS.items()):
        if places:
            yield f"| {operator} | {', '.join(map(str, places))} |"


def main() -> None:
    """Judge every case; write the page. Exit code 1 if any is wrong or crashed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--keep", type=Path, help="file for the verdicts, a line of JSON each")
    arguments = parser.parse_args()
    every, verdicts = cases(), []
    for verdict in judge(every, "x86"):
        verdicts.append(shortened(verdict))
        print(f"\r{len(verdicts)}/{len(every)}", end="", file=sys.stderr, flush=True)
    verdicts.sort(key=lambda verdict: verdict.name)
    if arguments.keep:
        arguments.keep.write_text("".join(json.dumps(asdict(v)) + "\n" for v in verdicts), "utf-8")
    PAGE.write_text(page(verdicts), "utf-8")
    PASSING.write_text("".join(f"{name}\n" for name in passing(verdicts)), "utf-8")
    print(f"\n{dict(Counter(v.outcome for v in verdicts))}; see {PAGE}", file=sys.stderr)
    sys.exit(any(v.outcome in (WRONG, CRASHED) for v in verdicts))


if __name__ == "__main__":
    main()
