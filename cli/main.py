# SPDX-License-Identifier: Apache-2.0
"""The program `sparsec`: its commands, and the one place where errors become exit codes."""

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

import sparsec
from sparsec.cli.bench import bench
from sparsec.cli.breakeven import breakeven
from sparsec.cli.compile import compile_command
from sparsec.cli.exit_codes import guarded
from sparsec.cli.inspect import inspect_command
from sparsec.cli.list import list_command
from sparsec.cli.parameters import Settings, debug_option
from sparsec.cli.report import report
from sparsec.cli.run import run
from sparsec.cli.sweep import sweep_command
from sparsec.cli.tune import tune
from sparsec.cli.verify import verify


class Program(click.Group):
    """The group of all commands, whose errors leave as exit codes and one message."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command line and exit.

        Args:
            args: Without the program's name; None for those of the process.
            prog_name: Not used: the program is always called sparsec.
            **extra: Settings of the context, as click's test runner gives them.
        """
        words, settings = list(sys.argv[1:] if args is None else args), Settings()

        def work() -> None:
            with self.make_context("sparsec", words, obj=settings, **extra) as context:
                self.invoke(context)

        sys.exit(guarded(work, settings))


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 the model, recipe, data or toolchain is at fault, 2 wrong usage, 3 a budget is "
    "broken.",
)
@click.version_option(sparsec.__version__, prog_name="sparsec", message="%(prog)s %(version)s")
@debug_option
def main() -> None:
    """Compress a trained network and compile it, ahead of time, to sparse kernels for one target."""


for _command in (
    compile_command,
    sweep_command,
    run,
    bench,
    inspect_command,
    report,
    breakeven,
    tune,
    verify,
    list_command,
):
    main.add_command(_command)
