# SPDX-License-Identifier: Apache-2.0
"""What a page has to fetch, and how long it waits for its first answer: `python -m benchmarks.peers_start`.

EfficientNet-Lite0, one engine in a fresh process and browser profile each time, engines in turn, median of all turns.
Time counts from an empty page, or an empty Node program, to the first output: load the engine, compile its code, load
the model, run once. Files come from this machine, so it is without a network's time. "Code" is WebAssembly and
JavaScript as it lies on disk, and compressed with gzip; for sparsec the module is the model's own code. Node 20 knows
no relaxed SIMD unless asked, so sparsec and LiteRT.js load other modules there.
"""

import gzip
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import browser, efficientnet, peers_files, peers_models
from benchmarks.timing import install_peers, interleave_node

MODULES = Path(__file__).resolve().parent / "node_modules"
ENGINES: Mapping[str, Sequence[str]] = {
    "onnxruntime-web": (
        "onnxruntime-web/dist/ort.wasm.min.mjs",
        "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs",
        "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
    ),
    "tfjs": (
        "@tensorflow/tfjs-core/dist/tf-core.min.js",
        "@tensorflow/tfjs-backend-wasm/dist/tf-backend-wasm.min.js",
        "@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm",
    ),
    "litert": (
        "@litertjs/core/dist/index.js",
        "@litertjs/wasm-utils/dist/index.js",
        "@litertjs/core/wasm/litert_wasm_internal.js",
        "@litertjs/core/wasm/litert_wasm_internal.wasm",
    ),
}
"""What each loads in Chromium, below node_modules."""


def table(turns: int = 5) -> str:
    """Markdown."""
    install_peers()
    with tempfile.TemporaryDirectory(prefix="sparsec-") as name:
        folder = Path(name)
        entries = efficientnet.wasm_entries(peers_models.compiled("wasm", folder), folder)
        places = {"Node": list(_node(entries, folder, turns))}
        if not browser.missing():
            places[browser.version()] = list(_chromium(entries, folder, turns))
        heads = " | ".join(f"first answer in {place}, ms" for place in places)
        lines = [
            f"| EfficientNet-Lite0 | {heads} | code kB | gzip kB |",
            f"| --- |{' ---: |' * len(places)} ---: | ---: |",
        ]
        for entry in entries:
            times = [_median(found, entry["name"]) for found in places.values()]
            code = [path.read_bytes() for path in _code(entry)]
            sizes = (sum(map(len, code)), sum(len(gzip.compress(data, mtime=0)) for data in code))
            cells = [entry["name"], *times, *(f"{size / 1e3:.0f}" for size in sizes)]
            lines.append("| " + " | ".join(cells) + " |")
    lines += [f"\nLeft out: Chromium: {browser.missing()}."] if browser.missing() else []
    return "\n".join(lines) + "\n"


def _node(entries: Sequence[Mapping[str, Any]], folder: Path, turns: int) -> Iterator[dict[str, Any]]:
    for _ in range(turns):
        for entry in entries:
            yield interleave_node([entry], folder, 0, flags=())


def _chromium(entries: Sequence[Mapping[str, Any]], folder: Path, turns: int) -> Iterator[dict[str, Any]]:
    for _ in range(turns):
        for entry in peers_files.served(entries, folder):
            yield browser.run({"entries": [entry], "rounds": 0, "warm": 0}, folder)["found"]


def _median(found: Sequence[Mapping[str, Any]], name: str) -> str:
    times = [each[name]["first"] for each in found if name in each and not each[name]["error"]]
    return f"{median(times):.0f}" if times else "fails"


def _code(entry: Mapping[str, Any]) -> list[Path]:
    if entry["engine"] == "sparsec":
        return [Path(entry["file"]) / name for name in ("model.mjs", "model.wasm")]
    return [MODULES / name for name in ENGINES[entry["engine"]]]


if __name__ == "__main__":
    print(table())
