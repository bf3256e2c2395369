# SPDX-License-Identifier: Apache-2.0
"""``sparsec compile``: a model becomes an artifact, or is shown at a stage on the way."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparsec.cli.output_file import write_file
from sparsec.cli.parameters import (
    PATH,
    NearestChoice,
    PassType,
    TargetType,
    debug_option,
    json_option,
    profile_option,
    shape_option,
)
from sparsec.cli.progress import progress_bar
from sparsec.cli.tables import print_compiled, print_findings, print_json, print_line, print_steps
from sparsec.compiler.findings import idle_lines, warning_lines
from sparsec.compiler.text import printable

if TYPE_CHECKING:
    from sparsec.compiler.artifact import Artifact
    from sparsec.compiler.driver import Compressed, Job

KINDS = ("artifact", "onnx", "program", "tir", "llvm", "asm")


@dataclass(frozen=True, slots=True)
class Request:
    """What to make of the model, and where to.

    Attributes:
        model: The source file.
        output: As given; None for the default.
        kind: One of `KINDS`.
        as_json: Whether a machine reads stdout.
        quiet: Whether nobody does.
        notes: What was decided without being asked, filled while it is decided.
    """

    model: Path
    output: Path | None
    kind: str
    as_json: bool
    quiet: bool
    notes: list[str]


@click.command("compile", short_help="Compress a model and compile it.")
@click.argument("model", type=PATH)
@click.option("--target", type=TargetType(), required=True, help="x86, arm or wasm, with +features; or host.")
@click.option("-o", "--output", type=PATH, help="Folder of the artifact (default: NAME-TARGET), or file for --emit.")
@click.option("--recipe", metavar="FILE|NAME", help="What to do to the model; without it, nothing is lost.")
@click.option("--pass", "passes", type=PassType(), multiple=True, help="A pass to run after the recipe's; repeat.")
@click.option("--calibration", type=PATH, metavar="FILE.npz", help="Real inputs, with a leading axis of samples.")
@click.option("--heldout", type=PATH, metavar="FILE.npz", help="Real inputs that no pass sees, to measure fidelity on.")
@shape_option
@profile_option
@click.option("--name", help="Prefix of the C functions (default: the model file's name).")
@click.option(
    "--threads", type=click.IntRange(1, 16), default=1, help="How many run it together, x86 and arm only (default: 1)."
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="For every random choice (default: 0).")
@click.option("--emit", "kind", type=NearestChoice(KINDS), default="artifact", help="The stage to stop at.")
@json_option
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@debug_option
def compile_command(
    model: Path,
    target: Any,
    output: Path | None,
    recipe: str | None,
    passes: Sequence[str],
    calibration: Path | None,
    heldout: Path | None,
    shapes: Mapping[str, tuple[int, ...]],
    profile: Path | None,
    name: str | None,
    threads: int,
    seed: int,
    kind: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compress MODEL, an ONNX file, and compile it for one target."""
    if as_json and kind not in ("artifact", "onnx"):
        msg = f"--json goes with --emit artifact or onnx, not with '{kind}'."
        raise click.UsageError(msg)
    from sparsec.compiler import driver

    request = Request(model, output, kind, as_json, quiet, [])
    with progress_bar(not quiet) as reporter:
        job = driver.job(
            model,
            target,
            recipe,
            calibration,
            shapes,
            heldout=heldout,
            passes=passes,
            name=name,
            threads=threads,
            seed=seed,
            profile=profile,
            reporter=reporter,
            notice=request.notes.append,
        )
        tell = _STAGES[kind](request, job)
    tell()


Tell = Callable[[], None]
"""Writes the result to stdout, once the progress bar is gone."""


def _artifact(request: Request, job: "Job") -> Tell:
    from sparsec.compiler import driver
    from sparsec.compiler.artifact import check_output, file_entry

    folder = request.output or Path(f"{job.name}-{job.target}")
    if request.model.is_file():
        check_output(folder, job.target, file_entry(request.model).sha256)
    compressed = driver.compress(job)
    artifact = driver.write(driver.lower(compressed, job), compressed, job, folder)
    seconds = [step.seconds for step in compressed.steps]
    return lambda: _tell_artifact(request, artifact, seconds, folder)


def _tell_artifact(request: Request, artifact: "Artifact", seconds: Sequence[float], folder: Path) -> None:
    report, manifest = artifact.report(), artifact.manifest
    sizes = {"code": manifest.code_bytes, "arena": manifest.arena_bytes, "weights": manifest.weight_bytes}
    if request.as_json:
        print_json({**_summary(report, sizes, folder, request.notes), "steps": _steps(report["steps"], seconds)})
    elif not request.quiet:
        print_compiled(report, sizes, seconds, str(folder), request.notes)


def _summary(report: Mapping[str, Any], sizes: Mapping[str, int], folder: Path, notes: Sequence[str]) -> dict[str, Any]:
    """The report without its layers, with the sizes that are known in the end."""
    measured = [step["fidelity"] for step in report["steps"] if step["fidelity"]]
    return {
        "artifact": str(folder),
        "name": report["name"],
        "target": report["target"],
        "code_bytes": sizes["code"],
        "weight_bytes": sizes["weights"],
        "arena_bytes": sizes["arena"],
        **{key: report[key] for key in ("before", "after", "totals")},
        "fidelity": measured[-1] if measured else {},
        **_findings(report["steps"], " in the report"),
        "notes": list(notes),
    }


def _findings(steps: Sequence[Mapping[str, Any]], where: str) -> dict[str, list[str]]:
    return {"warnings": warning_lines(steps), "idle": idle_lines(steps, where)}


def _steps(steps: Sequence[Mapping[str, Any]], seconds: Sequence[float]) -> list[dict[str, Any]]:
    """Each pass without its records, and the time it took."""
    rows = [{key: value for key, value in step.items() if key != "records"} for step in steps]
    return [{**row, "seconds": round(time, 3)} for row, time in zip(rows, seconds, strict=True)]


def _onnx(request: Request, job: "Job") -> Tell:
    from sparsec.compiler import driver
    from sparsec.compiler.exchange import to_onnx

    path = request.output or Path(f"{job.name}-{job.target}.onnx")
    compressed = driver.compress(job)
    data = to_onnx(compressed.model).SerializeToString(deterministic=True)
    write_file(path, lambda stream: stream.write(data), keep=request.model)
    return lambda: _tell_file(request, path, compressed)


def _tell_file(request: Request, path: Path, compressed: "Compressed") -> None:
    from sparsec.compiler.report import finite, steps

    rows: list[dict[str, Any]] = finite(steps(compressed))
    seconds = [step.seconds for step in compressed.steps]
    if request.as_json:
        told = {"steps": _steps(rows, seconds), **_findings(rows, ""), "notes": request.notes}
        print_json({"onnx": str(path), **told})
    elif not request.quiet:
        print_steps(rows, seconds)
        print_findings(rows)
        for note in request.notes:
            print_line(f"note       {note}")
        print_line(f"onnx       {path}")


def _text(request: Request, job: "Job") -> Tell:
    from sparsec.compiler import driver

    program = driver.lower(driver.compress(job), job)
    text = str(program) if request.kind == "program" else driver.emit_text(program, job, request.kind)
    if request.output is None:
        return lambda: _tell_text(text)
    data = f"{text.rstrip()}\n".encode()
    write_file(request.output, lambda stream: stream.write(data), keep=request.model)
    return lambda: None


def _tell_text(text: str) -> None:
    sys.stdout.write(printable(text.rstrip(), keep="\n\t") + "\n")


_STAGES: Mapping[str, Callable[[Request, "Job"], Tell]] = {
    "artifact": _artifact,
    "onnx": _onnx,
    **dict.fromkeys(("program", "tir", "llvm", "asm"), _text),
}
