# SPDX-License-Identifier: Apache-2.0
"""``sparsec verify``: hash an artifact's files, run its golden inputs, compare."""

from pathlib import Path

import click

from sparsec.cli.parameters import PATH, debug_option
from sparsec.cli.tables import print_line
from sparsec.compiler.text import in_error, shortened


@click.command("verify", short_help="Check that an artifact is whole and right.")
@click.argument("artifact", type=PATH)
@debug_option
def verify(artifact: Path) -> None:
    """Check that ARTIFACT is whole, and computes here what it should."""
    from sparsec.compiler.load import load

    with load(artifact) as loaded:
        errors = loaded.verify()
        for name, error in errors.items():
            print_line(
                f"'{shortened(name)}' relative error {in_error(error)}, at most {loaded.manifest.tolerance:g} allowed"
            )
        print_line(f"{len(loaded.manifest.files)} files whole, {len(errors)} outputs right: {artifact}")
