# SPDX-License-Identifier: Apache-2.0
"""The page: sections as values, laid out by `page.html`.

Names come from models, which may be anyone's. The template engine escapes every value, after its control and formatting
characters were made visible; and the page forbids its reader's browser any script but its own, by that one's hash.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from sparsec.compiler.lowering.program import Port
from sparsec.compiler.report_html import breakeven, layers, passes, schema, summary
from sparsec.compiler.report_html.summary import Facts
from sparsec.compiler.text import printable

if TYPE_CHECKING:
    from jinja2 import Template

    from sparsec.compiler.artifact import Artifact

FILE = "report.html"
Json = Mapping[str, Any]


def page(report: Json, facts: Facts, place: str = FILE) -> str:
    """The page for the content of `report.json`; equal reports and facts give equal pages.

    Args:
        report: See `docs/report.md`.
        facts: From the manifest.
        place: The artifact's folder, for an error's message.

    Raises:
        ArtifactError: If the report is damaged.
    """
    schema.check(report, place)
    style, script = _text("style.css"), _text("sort.js")
    return _template().render(
        style=style,
        script=script,
        script_sha256=b64encode(sha256(script.encode()).digest()).decode(),
        head=summary.head(report, facts),
        cards=summary.cards(report),
        before_after=summary.before_after(report, facts),
        warnings=summary.warnings(report),
        passes=passes.rows(report["steps"]),
        trajectory=passes.trajectory(report),
        times=layers.time_bars(report["layers"]),
        sizes=layers.byte_bars(report["layers"]),
        operators=layers.operators(report["layers"]),
        breakeven=breakeven.plot(report),
        columns=layers.COLUMNS,
        table=layers.table(report["layers"]),
    )


def of_artifact(artifact: "Artifact") -> str:
    """The page of an artifact, anew: the one it carries, if the same sparsec made that.

    Raises:
        ArtifactError: If its report is damaged.
    """
    made = artifact.manifest
    facts = Facts(
        sparsec=made.sparsec,
        recipe=made.recipe,
        code_bytes=made.code_bytes,
        arena_bytes=made.arena_bytes,
        ports=named(made.inputs, made.outputs),
        threads=made.threads,
    )
    return page(artifact.report(), facts, str(artifact.folder))


def named(inputs: Sequence[Port], outputs: Sequence[Port]) -> tuple[tuple[str, str, str, tuple[int, ...]], ...]:
    """Inputs and outputs as `Facts` has them."""
    return tuple(
        (kind, port.name, port.dtype, port.shape)
        for kind, ports in (("input", inputs), ("output", outputs))
        for port in ports
    )


def _text(name: str) -> str:
    return files("sparsec.compiler.report_html").joinpath(name).read_text("utf-8")


@cache
def _template() -> "Template":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_text),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _visible(value: Any) -> Any:
    """Text with its control and formatting characters as escapes; what the template made itself stays."""
    return value if type(value) is not str or value.isprintable() else printable(value)
