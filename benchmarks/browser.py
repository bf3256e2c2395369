# SPDX-License-Identifier: Apache-2.0
"""Times engines in headless Chromium: a page of ours, served from this machine, that posts what it measured."""

import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

HERE = Path(__file__).resolve().parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
TIMEOUT = 600.0
_TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm", ".html": "text/html"}


def find() -> str | None:
    """Path of the browser, None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def missing() -> str | None:
    """What this machine lacks, and how to get it; None if nothing."""
    return None if find() else "Chromium is not installed (Debian: apt-get install chromium)"


def version() -> str:
    """Such as ``Chromium 156.0.8078.108``.

    Raises:
        FileNotFoundError: If there is none.
    """
    done = subprocess.run([_browser(), "--version"], capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split()[:2])


def run(config: Mapping[str, Any], folder: Path, page: str = "browser.html") -> dict[str, Any]:
    """Open a page, and wait for what it posts.

    Args:
        config: What the page finds as /config.json. Its files are paths below ``/files/``.
        folder: Served as ``/files/``.
        page: A file beside this one.

    Raises:
        FileNotFoundError: If there is no browser.
        RuntimeError: If the page fails or does not answer in time.
    """
    browser, answers = _browser(), SimpleQueue[dict[str, Any]]()
    handler = partial(_Handler, config=config, folder=folder, answers=answers)
    with tempfile.TemporaryDirectory() as profile, ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}")
        address = f"http://127.0.0.1:{server.server_port}/benchmarks/{page}"
        process = subprocess.Popen([browser, *options, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            answer = answers.get(timeout=TIMEOUT)
        except Empty:
            answer = {"error": f"no answer in {TIMEOUT:.0f} s"}
        finally:
            process.terminate()
            process.wait(30)
            server.shutdown()
    if "error" in answer:
        msg = f"The page '{page}': {answer['error']}"
        raise RuntimeError(msg)
    return answer


class _Handler(SimpleHTTPRequestHandler):
    """Serves the benchmarks, a folder, and the configuration; takes the answer."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | _TYPES

    def __init__(
        self, *arguments: Any, config: Mapping[str, Any], folder: Path, answers: "SimpleQueue[dict[str, Any]]"
    ) -> None:
        self._config, self._answers = config, answers
        self._folders = {"/benchmarks/": HERE, "/files/": folder}
        super().__init__(*arguments)

    def do_GET(self) -> None:
        if self.path == "/config.json":
            self._answer(json.dumps(self._config).encode())
        else:
            super().do_GET()

    def do_POST(self) -> None:
        answer = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(b"{}")
        self._answers.put(answer)

    def translate_path(self, path: str) -> str:
        """Only what is below the folders."""
        for prefix, base in self._folders.items():
            found = (base / path.partition("?")[0].removeprefix(prefix)).resolve()
            if path.startswith(prefix) and found.is_relative_to(base.resolve()):
                return str(found)
        return ""

    def end_headers(self) -> None:
        """Isolated pages have finer clocks."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _answer(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _browser() -> str:
    path = find()
    if path is None:
        msg = f"Found none of {', '.join(NAMES)}. {missing()}."
        raise FileNotFoundError(msg)
    return path
