# SPDX-License-Identifier: Apache-2.0
"""``sparsec tune``: measure this machine, and write the profile by which kernels are priced for it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparsec.cli.output_file import check_file, write_file
from sparsec.cli.parameters import PATH, TargetType, debug_option, json_option
from sparsec.cli.progress import progress_bar
from sparsec.cli.tables import print_json, print_line, print_table
from sparsec.compiler.target import Target
from sparsec.compiler.text import in_percent

if TYPE_CHECKING:
    from sparsec.compiler.machine_profile import Tuned


@click.command("tune", short_help="Measure this machine for selection.")
@click.option("--target", type=TargetType(), default="host", help="x86, arm or wasm, with +features (default: host).")
@click.option("-o", "--output", type=PATH, metavar="FILE", help="Where to write (default: sparsec-profile-ISA.json).")
@click.option(
    "--milliseconds",
    type=click.FloatRange(1, 10_000),
    help="To time each kernel for (default: 100); more where other programs run.",
)
@json_option
@debug_option
def tune(target: Any, output: Path | None, milliseconds: float | None, as_json: bool) -> None:
    """Time kernels on this machine and write its profile, for compile --profile and breakeven --profile.

    x86 and arm are measured natively, wasm in Node, or in wasmtime where there is no Node. Let nothing else run.
    """
    from sparsec.compiler import pricing

    chosen = target if isinstance(target, Target) else Target.parse(target)
    path = output or Path(f"sparsec-profile-{pricing.profile_for(chosen, None).isa}.json")
    check_file(path)
    with progress_bar() as reporter:
        found = pricing.measure(chosen, reporter, milliseconds)
    write_file(path, lambda stream: stream.write(str(found.new).encode()))
    if as_json:
        print_json(_facts(found, path))
    else:
        _print(found, path)


def _facts(found: "Tuned", path: Path) -> dict[str, Any]:
    return {
        "profile": str(path),
        "isa": found.new.isa,
        "machine": found.new.machine,
        "engine": found.engine,
        "kernels": found.kernels,
        "old_error": found.errors[0],
        "new_error": found.errors[1],
        "old_loss": found.losses[0],
        "new_loss": found.losses[1],
        "old": dict(found.old.costs),
        "new": dict(found.new.costs),
    }


def _print(found: "Tuned", path: Path) -> None:
    print_line(f"{found.new.isa}: {found.kernels} kernels timed on {found.new.machine}")
    rows = [
        (name, f"{old:g}", f"{new:g}", f"{new / old:.2f}x" if old else "-")
        for name, old, new in ((name, old, found.new.costs[name]) for name, old in sorted(found.old.costs.items()))
    ]
    print_table(("cost", "before", "now", ""), rows, (1, 2, 3))
    print_line(f"before     {found.old.machine}")
    print_line(f"error      half of the prices were off by {in_percent(found.errors[0])} or less, "
               f"now by {in_percent(found.errors[1])}")  # fmt: skip
    print_line(f"choice     kernels picked by price were {in_percent(found.losses[0])} slower than the fastest, "
               f"now {in_percent(found.losses[1])}")  # fmt: skip
    print_line(f"profile    {path}")
