# SPDX-License-Identifier: Apache-2.0
"""``sparsec report``: an artifact's report as a page, made anew."""

from pathlib import Path

import click

from sparsec.cli.output_file import check_file, write_file
from sparsec.cli.parameters import PATH, debug_option
from sparsec.cli.tables import print_line
from sparsec.compiler.errors import ArtifactError


@click.command("report", short_help="Make an artifact's report page anew.")
@click.argument("artifact", type=PATH)
@click.option(
    "-o", "--output", type=PATH, metavar="FILE.html", default=Path("report.html"),
    help="Where the page is to stand (default: report.html in the current folder).",
)  # fmt: skip
@debug_option
def report(artifact: Path, output: Path) -> None:
    """Write the page of ARTIFACT from its report.json: that of an artifact of an older sparsec, say."""
    from sparsec.compiler.load import load
    from sparsec.compiler.report_html.page import of_artifact

    check_file(output)
    _check_outside(output, artifact)
    with load(artifact) as loaded:
        page = of_artifact(loaded).encode()
    write_file(output, lambda stream: stream.write(page))
    print_line(f"page       {output}")


def _check_outside(output: Path, artifact: Path) -> None:
    """The manifest has a hash of each file of the artifact, so none of them is replaced."""
    if artifact.is_dir() and output.parent.resolve() == artifact.resolve():
        msg = f"Output file '{output}' is in the artifact, whose manifest it would break. Choose another file with -o."
        raise ArtifactError(msg)
