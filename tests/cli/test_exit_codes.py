# SPDX-License-Identifier: Apache-2.0
"""Errors become exit codes in one place; signals and pipes end the program quietly, with nothing left behind."""

import os
import signal
import subprocess
import sys
import time

import click
import onnx
import pytest

import sparsec as package
from sparsec.cli.main import main
from sparsec.compiler import errors
from sparsec.models.catalog import find
from tests.cli.conftest import names

PROGRAM = (sys.executable, "-c", "from sparsec.cli.main import main; main()")

CODES = {
    errors.ModelError("m"): (1, "error: m\n"),
    errors.UnsupportedError("m"): (1, "error: m\n"),
    errors.ToolchainError("m"): (1, "error: m\n"),
    errors.BudgetError("m"): (3, "error: m\n"),
    click.UsageError("m"): (2, "error: m\nTry 'sparsec list --help'.\n"),
    KeyboardInterrupt(): (130, "Interrupted; nothing was written.\n"),
    BrokenPipeError(): (141, ""),
    MemoryError(): (1, "error: the memory is full. Use a smaller model, or smaller input shapes.\n"),
    PermissionError(13, "Permission denied", "f"): (1, "error: 'f': Permission denied.\n"),
}


@pytest.mark.parametrize("error", CODES, ids=lambda error: type(error).__name__)
def test_an_error_becomes_a_code_and_a_message(error, sparsec, monkeypatch):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("sparsec.cli.list.print_table", fail)
    done = sparsec("list", "targets")
    assert (done.exit_code, done.stderr) == CODES[error]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("--debug", "list", "targets"), ("list", "targets", "--debug")])
def test_a_traceback_only_with_debug(arguments, sparsec, monkeypatch):
    monkeypatch.setattr("sparsec.cli.list.print_table", lambda *arguments: 1 / 0)
    done = sparsec(*arguments)
    assert done.exit_code == 1
    assert "Traceback" in done.stderr
    assert "internal error: ZeroDivisionError" in done.stderr
    assert "Traceback" not in sparsec("list", "targets").stderr


def test_a_message_cannot_command_the_terminal(sparsec, monkeypatch):
    def fail(*arguments):
        raise errors.ModelError("Layer '\x1b[31m\u202e\x00'")

    monkeypatch.setattr("sparsec.cli.list.print_table", fail)
    assert sparsec("list", "targets").stderr == "error: Layer '\\x1b[31m\\u202e\\x00'\n"


def test_help_and_version(sparsec):
    assert sparsec("--version").stdout == f"sparsec {package.__version__}\n"
    for command in ("", *main.commands):
        done = sparsec(*command.split(), "--help")
        assert done.exit_code == 0
        assert done.stdout.startswith("Usage: sparsec")


def test_a_reader_that_leaves_is_no_error():
    done = subprocess.run(
        f"{PROGRAM[0]} -c '{PROGRAM[2]}' list targets; echo code $? >&2", shell=True, capture_output=True, check=True,
        text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stderr == "code 0\n"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*PROGRAM, "list", "targets"], stdout=writer, stderr=subprocess.PIPE, check=False, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_is_one_error():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*PROGRAM, "list", "targets"], stdout=full, stderr=subprocess.PIPE, check=False, text=True
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_names_beyond_the_character_set_are_escaped(here):
    code = "from sparsec.cli.tables import print_line; from sparsec.cli.exit_codes import guarded;"
    code += "from sparsec.cli.parameters import Settings; guarded(lambda: print_line('\\u4e2d'), Settings())"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    assert done.stdout == b"\\u4e2d\n"


def test_the_oracle_reports_to_nobody(tmp_path):
    """Onnxruntime keeps a file of its telemetry session where that is on."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment["TMPDIR"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", "import sparsec.compiler.oracle"], check=True, env=environment)
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_compile_leaves_nothing(number, here, tmp_path):
    import onnx_ir

    onnx.save(onnx_ir.to_proto(find("tiny-cnn").build()), here / "tiny.onnx")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [*PROGRAM, "compile", "tiny.onnx", "--target", "wasm"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)},
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a test run in the background inherits SIG_IGN
    )  # fmt: skip
    while process.poll() is None and not any(name.endswith(".tmp") for name in names(here)):
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (128 + number, "", "Interrupted; nothing was written.\n")
    assert names(here) == ["tiny.onnx"]
    assert names(temporary) == []
