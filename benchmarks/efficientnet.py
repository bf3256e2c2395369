# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 at 224x224, batch 1, one thread: in Node, in Chromium and on x86, against other engines.

The sparse variant prunes the pointwise convolutions in blocks of 4x4 to density 0.5, then quantizes to int8. The
times do not depend on the weights' values; accuracy is another matter and is not measured here. "Difference" is the
relative difference of the output from the float32 network's: that each engine computes this network, but for the sparse
variants, whose weights are others.

int8 for peers is made by onnxruntime's static quantizer (QDQ, per channel). It is slow or fast by the type of the
activations: onnxruntime gets signed (s8s8, the quantizer's default) and unsigned ones (u8s8), and we compare with the
faster; OpenVINO and DeepSparse get unsigned ones, LiteRT signed ones, which is all that it knows.
TensorFlow.js, which has no int8 convolution, gets the float32 network built out of its operators, with activations
fused; LiteRT a file that `peers_tflite.py` writes. LiteRT.js is made for web pages; in Node its script is loaded by
hand. DeepSparse also gets the weights of the sparse variant. OpenVINO, DeepSparse and LiteRT run in processes of their
own, which take the time themselves.
"""

import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from benchmarks import browser, peers_files, peers_models
from benchmarks.timing import (
    install_peers,
    interleave,
    interleave_node,
    missing,
    npm_versions,
    onnxruntime_session,
    ratio,
)
from benchmarks.workers import Worker
from sparsec.compiler.artifact import Artifact
from sparsec.compiler.golden import relative_error

_MOST = 0.3
"""Difference of int8 from float32; the sparse variants' weights are another network's."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contender: its median time, and how far its output is from the float32 network's."""

    milliseconds: float
    difference: float


def tables(rounds: int = 21) -> Iterator[str]:
    """Markdown, one table a target."""
    with tempfile.TemporaryDirectory(prefix="sparsec-") as name:
        yield from _wasm(Path(name), rounds)
        yield _x86(Path(name), rounds)


def _wasm(folder: Path, rounds: int) -> Iterator[str]:
    lacking = missing()
    if lacking:
        yield f"### wasm\n\nLeft out: {lacking}.\n"
        return
    install_peers()
    artifacts = peers_models.compiled("wasm", folder)
    entries = wasm_entries(artifacts, folder)
    yield _web(f"wasm in Node {_node()}", interleave_node(entries, folder, rounds), artifacts)
    yield _in_browser(entries, folder, artifacts, rounds)


def wasm_entries(artifacts: Mapping[str, Artifact], folder: Path) -> list[dict[str, Any]]:
    """What contenders.mjs is to load, its files written below the folder."""
    net = peers_models.network()
    files = peers_files.write(net, folder)
    inputs = peers_files.inputs(net.inputs, folder)
    engines = [(name, "sparsec", artifact.folder) for name, artifact in artifacts.items()]
    engines += [
        ("onnxruntime-web float32", "onnxruntime-web", files.float32_onnx),
        ("onnxruntime-web int8, s8s8", "onnxruntime-web", files.s8s8_onnx),
        ("onnxruntime-web int8, u8s8", "onnxruntime-web", files.u8s8_onnx),
        ("TensorFlow.js float32", "tfjs", files.layers),
        ("LiteRT.js float32", "litert", files.float32_tflite),
        ("LiteRT.js int8", "litert", files.int8_tflite),
    ]
    return [{"name": name, "engine": engine, "file": str(file), "inputs": inputs} for name, engine, file in engines]


def _in_browser(
    entries: Sequence[Mapping[str, Any]], folder: Path, artifacts: Mapping[str, Artifact], rounds: int
) -> str:
    lacking = browser.missing()
    if lacking:
        return f"### wasm in Chromium\n\nLeft out: {lacking}.\n"
    moved = peers_files.served(entries, folder)
    found = browser.run({"rounds": rounds, "entries": moved}, folder)["found"]
    return _web(f"wasm in {browser.version()}", found, artifacts)


def _web(title: str, found: Mapping[str, Any], artifacts: Mapping[str, Artifact]) -> str:
    rows = {
        name: Row(median(each["times"]), _difference(np.array(each["output"], np.float32)))
        for name, each in found.items()
        if not each["error"]
    }
    refused = {name: each["error"].splitlines()[0] for name, each in found.items() if each["error"]}
    return _table(title, rows, refused, artifacts, "onnxruntime-web")


def _x86(folder: Path, rounds: int) -> str:
    net = peers_models.network()
    artifacts = peers_models.compiled("host", folder)
    contenders: dict[str, Any] = {name: lambda a=a: a.run(net.inputs) for name, a in artifacts.items()}
    outputs = {name: next(iter(a.run(net.inputs).values())) for name, a in artifacts.items()}
    models = {"float32": net.folded, "int8, s8s8": net.s8s8, "int8, u8s8": net.u8s8}
    for name, model in ((f"onnxruntime {key}", model) for key, model in models.items()):
        session = onnxruntime_session(model.SerializeToString())
        contenders[name] = lambda session=session: session.run(None, net.inputs)
        outputs[name] = session.run(None, net.inputs)[0]
    refused: dict[str, str] = {}
    with ExitStack() as stack:
        for engine, name, file in peers_files.for_workers(net, folder):
            try:
                worker = stack.enter_context(Worker(engine, file, peers_files.archive(net.inputs, folder)))
            except RuntimeError as error:
                refused[f"{engine} {name}"] = str(error)
                continue
            contenders[f"{worker.name} {name}"], outputs[f"{worker.name} {name}"] = worker, worker.output
        times = interleave(contenders, rounds)
    rows = {name: Row(value, _difference(outputs[name])) for name, value in times.items()}
    title = f"host ({next(iter(artifacts.values())).manifest.target})"
    return _table(title, rows, refused, artifacts, "onnxruntime")


def _table(
    title: str, rows: Mapping[str, Row], refused: Mapping[str, str], artifacts: Mapping[str, Artifact], rival: str
) -> str:
    wrong = {name: row for name, row in rows.items() if "at 0.5" not in name and not row.difference < _MOST}
    refused = refused | {
        name: f"it computes something else, difference {row.difference:.1g}" for name, row in wrong.items()
    }
    rows = {name: row for name, row in rows.items() if name not in wrong}
    lines = [
        f"| EfficientNet-Lite0 | ms | against {rival} float32 | against its int8 | difference | code kB | weights MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rivals = [
        min((row.milliseconds for name, row in rows.items() if name.startswith(f"{rival} {precision}")), default=None)
        for precision in ("float32", "int8")
    ]
    for name, row in rows.items():
        ratios = [ratio(other, row.milliseconds) for other in rivals]
        sizes = ["", ""]
        if name in artifacts:
            manifest = artifacts[name].manifest
            sizes = [f"{manifest.code_bytes / 1e3:.0f}", f"{manifest.weight_bytes / 1e6:.2f}"]
        cells = [name, f"{row.milliseconds:.2f}", *ratios, f"{row.difference:.1e}", *sizes]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"\nLeft out: {name}: {why}" for name, why in refused.items()]
    return f"### {title}\n\n" + "\n".join(lines) + "\n"


def _difference(output: NDArray[Any]) -> float:
    net = peers_models.network()
    expected = _reference(net.folded.SerializeToString(), net)
    return relative_error(np.reshape(output, expected.shape), expected)


def _reference(model: bytes, net: peers_models.Network) -> NDArray[Any]:
    found: NDArray[Any] = onnxruntime_session(model).run(None, net.inputs)[0]
    return found


def _node() -> str:
    return subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def versions() -> Sequence[str]:
    """Names and versions of what is compared; engines in processes of their own say theirs in the table."""
    npm = npm_versions()
    web = [f"{name} {npm[package]}" for name, package in WEB_PEERS.items()]
    return (f"onnxruntime {onnxruntime.__version__}", *web, f"onnx {onnx.__version__}")


WEB_PEERS = {
    "onnxruntime-web": "onnxruntime-web",
    "TensorFlow.js with its wasm backend": "@tensorflow/tfjs-backend-wasm",
    "LiteRT.js": "@litertjs/core",
}
