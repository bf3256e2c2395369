# SPDX-License-Identifier: Apache-2.0
"""A progress bar on stderr, for a terminal and for work that takes longer than a second."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer

from sparsec.compiler.text import shortened

Reporter = Callable[[str, int, int], None]
"""Told what is done, how much of it, of how much."""
DELAY = 1.0
"""Seconds of work before the bar appears."""


@contextmanager
def progress_bar(enabled: bool = True) -> Iterator[Reporter]:
    """Hand out a reporter; what it is told is shown if `enabled`, on a terminal, after `DELAY`."""
    if not (enabled and sys.stderr.isatty()):
        yield _silent
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    words = TextColumn("{task.description}", markup=False)
    columns = (words, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True, markup=False, highlight=False), transient=True)
    task = bar.add_task("start", total=None)
    timer = Timer(DELAY, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda what, done, total: bar.update(task, description=shortened(what, 40), completed=done, total=total)
    finally:
        timer.cancel()
        timer.join()
        if bar.live.is_started:
            bar.stop()


def _silent(what: str, done: int, total: int) -> None:
    """Shown nowhere."""
