# SPDX-License-Identifier: Apache-2.0
"""``sparsec bench``: the time of an artifact on this machine, beside onnxruntime and other artifacts."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparsec.cli.parameters import PATH, debug_option, json_option
from sparsec.cli.progress import progress_bar
from sparsec.cli.tables import print_json, print_line, print_table
from sparsec.compiler.text import in_time

if TYPE_CHECKING:
    from sparsec.cli.contenders import Arrays, Contender

PEER = "onnxruntime"


@click.command("bench", short_help="Time an artifact, beside others.")
@click.argument("artifact", type=PATH)
@click.option(
    "--against",
    multiple=True,
    metavar="onnxruntime[:MODEL]|ARTIFACT",
    help="Whom to time beside it; repeat for each.",
)
@click.option("--model", type=PATH, help="The ONNX model that --against onnxruntime runs.")
@click.option("--runs", type=click.IntRange(3, 10_000), default=30, show_default=True, help="Runs that count, of each.")
@json_option
@debug_option
def bench(artifact: Path, against: Sequence[str], model: Path | None, runs: int, as_json: bool) -> None:
    """Time ARTIFACT on its golden inputs: interleaved runs, their median, on as many threads as it is compiled for."""
    if PEER in against and model is None:
        msg = f"--against {PEER} needs the model it shall run: add --model MODEL, or write {PEER}:MODEL."
        raise click.UsageError(msg)
    from sparsec.cli.contenders import from_artifact, race
    from sparsec.compiler.load import load

    with ExitStack() as stack, progress_bar() as report:
        own = stack.enter_context(load(artifact))
        inputs = own.golden().inputs
        contenders = [from_artifact(str(artifact), own, inputs)]
        threads = own.manifest.threads
        contenders += [_contender(name, model, inputs, threads, stack) for name in against]
        medians = race(contenders, runs, report)
    _tell([contender.name for contender in contenders], medians, runs, threads, as_json)


def _contender(name: str, model: Path | None, inputs: "Arrays", threads: int, stack: ExitStack) -> "Contender":
    from sparsec.cli.contenders import from_artifact, from_model
    from sparsec.compiler.load import load

    kind, separator, path = name.partition(":")
    if kind == PEER and (separator or model is not None):
        return from_model(kind, Path(path) if separator else Path(str(model)), inputs, threads)
    return from_artifact(name, stack.enter_context(load(name)), inputs)


def _tell(names: Sequence[str], medians: Sequence[float], runs: int, threads: int, as_json: bool) -> None:
    own = medians[0]
    others: list[dict[str, Any]] = [
        {"name": name, "median_ms": found, "ratio": found / own}
        for name, found in zip(names[1:], medians[1:], strict=True)
    ]
    if as_json:
        print_json({"median_ms": own, "runs": runs, "threads": threads, "against": others})
        return
    rows = [(names[0], in_time(1000 * own), "")]
    rows += [(other["name"], in_time(1000 * other["median_ms"]), f"{other['ratio']:.2f}x") for other in others]
    print_table(("", "median", "to the first"), rows, (1, 2))
    print_line(f"{runs} runs each, {'one thread' if threads == 1 else f'{threads} threads'}")
