# SPDX-License-Identifier: Apache-2.0
import io
import time
from contextlib import redirect_stderr

import pytest

from sparsec.cli import progress
from sparsec.cli.progress import progress_bar


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


@pytest.fixture
def at_once(monkeypatch):
    """The bar appears without delay."""
    monkeypatch.setattr(progress, "DELAY", 0.0)


def show(terminal, enabled=True, until=None):
    """Work that is done when `until` can be seen; a bar that never shows it ends after 20 seconds."""
    end = time.monotonic() + 20
    with redirect_stderr(terminal), progress_bar(enabled) as report:
        report("kernels \x1b[31m", 3, 7)
        while until and until not in terminal.getvalue() and time.monotonic() < end:
            time.sleep(0.02)
    return terminal.getvalue()


def test_long_work_shows_a_bar(terminal, at_once):
    shown = show(terminal, until="3/7")
    assert "3/7" in shown
    assert "kernels \\x1b[31m" in shown


def test_short_work_shows_nothing(terminal):
    assert show(terminal) == ""


def test_no_bar_without_a_terminal(at_once):
    assert show(io.StringIO()) == ""


def test_no_bar_when_quiet(terminal, at_once):
    assert show(terminal, enabled=False) == ""


def test_an_error_ends_the_bar(terminal, at_once):
    def fail(what, done, total):
        raise KeyError

    with pytest.raises(KeyError), redirect_stderr(terminal), progress_bar() as report:
        fail(report, 0, 1)
    shown = terminal.getvalue()
    time.sleep(0.3)
    assert terminal.getvalue() == shown
