# SPDX-License-Identifier: Apache-2.0
"""Run every benchmark against peers and write docs/benchmarks.md: `python -m benchmarks [--only SECTION]...`.

What this machine cannot run is left out, and the page says what is missing. With --only, tables are printed alone.
"""

import argparse
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sparsec
from benchmarks import (
    efficientnet,
    gqsa,
    inner_loops,
    instructions,
    instructions_qemu,
    kernel_sparsity,
    kernels,
    peers_stacks,
    peers_start,
    threads,
    timing,
)

DOC = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


@dataclass(frozen=True, slots=True)
class Section:
    """Part of the page.

    Attributes:
        title: Its heading.
        text: What is measured, as a docstring; its first paragraph is not shown.
        tables: Makes the tables in Markdown.
        missing: What this machine lacks, if anything.
    """

    title: str
    text: str | None
    tables: Callable[[], Iterable[str]]
    missing: Callable[[], str | None] = lambda: None


SECTIONS = {
    "efficientnet": Section("EfficientNet-Lite0", efficientnet.__doc__, efficientnet.tables),
    "start": Section("Size and first answer", peers_start.__doc__, lambda: [peers_start.table()], timing.missing),
    "stacks": Section("Layers on WebAssembly", peers_stacks.__doc__, peers_stacks.tables, timing.missing),
    "kernels": Section("Sparse kernels against dense ones", kernels.__doc__, kernels.tables),
    "mobilenet": Section("MobileNet-v1 with kernel sparsity", kernel_sparsity.__doc__, kernel_sparsity.tables),
    "threads": Section("Two threads", threads.__doc__, lambda: ["\n".join(threads.table()) + "\n"], threads.missing),
    "gqsa": Section("4-bit groups times a vector", gqsa.__doc__, gqsa.tables),
    "instructions": Section(
        "ARM instructions", instructions.__doc__, lambda: [instructions.table()], instructions_qemu.missing
    ),
    "loops": Section("ARM inner loops", inner_loops.__doc__, lambda: [inner_loops.table()], inner_loops.missing),
}
"""By the name for --only."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=tuple(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS))
    only = parser.parse_args(arguments).only
    parts = [
        "# Benchmarks\n",
        "Written by `make bench`. One thread unless it says two; medians of interleaved rounds; above 1x is faster.\n",
        f"Machine: {_machine()}. sparsec {sparsec.__version__}, {', '.join(efficientnet.versions())}.\n",
    ]
    for name in only or SECTIONS:
        for part in _section(SECTIONS[name]):
            print(part, flush=True)
            parts.append(part)
    if not only:
        DOC.write_text("\n".join(parts), "utf-8")


def _section(section: Section) -> Iterable[str]:
    yield f"## {section.title}\n"
    yield (section.text or "").partition("\n\n")[2]
    lacking = section.missing()
    if lacking:
        yield f"Left out: {lacking}.\n"
    else:
        yield from section.tables()


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
