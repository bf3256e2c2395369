# SPDX-License-Identifier: Apache-2.0
"""From whatever a command raises to one message on stderr and an exit code."""

import io
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

import click

from sparsec.cli.parameters import Settings
from sparsec.compiler.errors import BudgetError, SparsecError
from sparsec.compiler.text import printable

Tell = Callable[[Any], str]


def guarded(work: Callable[[], None], settings: Settings) -> int:
    """Do the work of a command; its exit code.

    0 done; 1 the model, recipe, data or toolchain is at fault; 2 wrong usage; 3 a budget is broken; 128 and the
    signal's number where a signal ended it, as shells have it.
    """
    _tolerant_output()
    try:
        with _signals_as_exceptions(settings), _one_temporary_folder():
            work()
            sys.stdout.flush()
        return 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except BaseException as error:
        if settings.debug:
            traceback.print_exc()
        if settings.signal:  # whatever it became on its way; and end at once, as a compiler's thread may still work
            _explained(KeyboardInterrupt())
            os._exit(128 + settings.signal)
        return _explained(error)


def _tolerant_output() -> None:
    """A name that the terminal's character set lacks is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _signals_as_exceptions(settings: Settings) -> Iterator[None]:
    """Turn the first signal into KeyboardInterrupt, so that nothing is left behind, and ignore those after it."""
    if current_thread() is not main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def stop(number: int, frame: FrameType | None) -> None:
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        settings.signal = number
        raise KeyboardInterrupt

    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def _one_temporary_folder() -> Iterator[None]:
    """Let all temporary files of this process be in one folder that goes in the end, whatever is still at work."""
    before, folder = tempfile.tempdir, tempfile.mkdtemp(prefix="sparsec-")
    tempfile.tempdir = folder
    try:
        yield
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)


def _explained(error: BaseException) -> int:
    for kind, (code, tell) in _TABLE.items():
        if isinstance(error, kind):
            _say(tell(error))
            return code
    raise error


def _say(message: str) -> None:
    """Write a message, and let no stream that is closed or full spoil the exit code."""
    _drop_output()
    if message:
        click.echo(printable(message, keep="\n"), err=True)
        sys.stderr.flush()


def _drop_output() -> None:
    """What could not be written to stdout must not be tried again when Python ends."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _usage(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx else "sparsec"
    return f"error: {error.format_message()}\nTry '{path} --help'."


def _system(error: OSError) -> str:
    place = f"'{error.filename}': " if error.filename else ""
    return f"error: {place}{error.strerror or error}."


def _bug(error: Exception) -> str:
    return (
        f"internal error: {type(error).__name__}: {error}\n"
        "This is a fault of sparsec. Run it again with --debug, and report what it prints."
    )


_TABLE: Mapping[type[BaseException], tuple[int, Tell]] = {
    BudgetError: (3, lambda error: f"error: {error}"),
    SparsecError: (1, lambda error: f"error: {error}"),
    click.UsageError: (2, _usage),
    click.ClickException: (1, lambda error: f"error: {error.format_message()}"),
    KeyboardInterrupt: (130, lambda error: "Interrupted; nothing was written."),
    click.Abort: (130, lambda error: "Interrupted; nothing was written."),
    BrokenPipeError: (141, lambda error: ""),
    MemoryError: (1, lambda error: "error: the memory is full. Use a smaller model, or smaller input shapes."),
    OSError: (1, _system),
    Exception: (1, _bug),
}
"""The first class that fits decides."""
