# SPDX-License-Identifier: Apache-2.0
"""Stacks of eight equal 1x1 convolutions on WebAssembly, one thread: own kernels against peers', one layer shape each.

A stack is [channels, channels, positions] with ReLU6 behind each convolution and an average over the positions at the
end; so what is measured are convolutions, not the quantizing of an input or the reading of an output. Times are of one
convolution, a stack's divided by eight. Weights are random.

The sparse stack begins with a 3x3 convolution of stride 2, because XNNPACK, inside LiteRT.js, uses its sparse kernels
only for whole groups of layers from such a one to a pooling, float32, more than two thirds zeros, weights stored
compressed. The weights are pruned by magnitude to the density given, without a pattern, the same for LiteRT.js and for
us; in blocks of 4x1, and 4x4 in int8, they are other weights of the same density.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks import browser, peers_files, peers_models
from benchmarks.timing import install_peers, interleave_node, ratio
from sparsec.compiler import driver

LAYERS = 8
SHAPES = ((256, 28), (512, 14), (128, 56))
"""Channels, and height and width."""
SPARSE = (256, 57, 0.2)
"""Channels, height and width before the first convolution, density."""
_CALIBRATION = 8


@dataclass(frozen=True, slots=True)
class Contender:
    """One row: engine, passes or form, and precision."""

    name: str
    engine: str
    passes: tuple[str, ...] = ()
    int8: bool = False
    unsigned: bool = False
    sparse: bool = False


DENSE_ROWS = (
    Contender("float32", "sparsec"),
    Contender("int8", "sparsec", ("quantize",), int8=True),
    Contender("onnxruntime-web float32", "onnxruntime-web"),
    Contender("onnxruntime-web int8, s8s8", "onnxruntime-web", int8=True),
    Contender("onnxruntime-web int8, u8s8", "onnxruntime-web", int8=True, unsigned=True),
    Contender("TensorFlow.js float32", "tfjs"),
    Contender("LiteRT.js float32", "litert"),
    Contender("LiteRT.js int8", "litert", int8=True),
)


def tables(rounds: int = 21) -> Iterator[str]:
    """Markdown: the dense stacks in Node and Chromium, the sparse stack in Chromium."""
    install_peers()
    dense = {f"[{c}, {c}, {size * size}]": stack(c, size, stem=False) for c, size in SHAPES}
    found = {shape: _node(model, rounds) for shape, model in dense.items()}
    yield _table("1x1 convolutions in Node", found, "onnxruntime-web int8")
    lacking = browser.missing()
    if lacking:
        yield f"### 1x1 convolutions in Chromium\n\nLeft out: {lacking}.\n"
        return
    title = f"1x1 convolutions in {browser.version()}"
    found = {shape: _chromium(model, DENSE_ROWS, rounds) for shape, model in dense.items()}
    yield _table(title, found, "onnxruntime-web int8")
    channels, size, density = SPARSE
    positions = ((size + 1) // 2) ** 2
    found = {
        f"[{channels}, {channels}, {positions}]": _chromium(
            stack(channels, size, stem=True), _sparse_rows(density), rounds
        )
    }
    title = f"Sparse 1x1 convolutions, density {density}, in {browser.version()}"
    yield _table(title, found, "LiteRT.js float32, unstructured")


def _sparse_rows(density: float) -> tuple[Contender, ...]:
    stem = f"density={density} ignore=[stem]"
    unstructured = (f"prune-unstructured{{{stem}}}",)
    return (
        Contender("float32, dense", "sparsec"),
        Contender("float32, unstructured", "sparsec", unstructured, sparse=True),
        Contender("float32, 4x1", "sparsec", (f"prune-blocks{{rows=4 cols=1 {stem}}}",)),
        Contender("int8, dense", "sparsec", ("quantize",)),
        Contender("int8, 4x4", "sparsec", (f"prune-blocks{{rows=4 cols=4 {stem}}}", "quantize")),
        Contender("LiteRT.js float32, dense", "litert"),
        Contender("LiteRT.js float32, unstructured", "litert", unstructured, sparse=True),
        Contender("LiteRT.js int8, dense", "litert", int8=True),
    )


@cache
def stack(channels: int, size: int, *, stem: bool) -> onnx.ModelProto:
    """The network, with seeded weights."""
    generator = np.random.default_rng(0)
    nodes, constants, last, read = [], [], "image", 3 if stem else channels

    def constant(name: str, values: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    constant("zero", 0), constant("six", 6)
    for number in range(LAYERS + stem):
        name, kernel, stride = ("stem", 3, 2) if stem and number == 0 else (f"conv{number}", 1, 1)
        weight = generator.normal(size=(channels, read, kernel, kernel)) * (2 / (read * kernel**2)) ** 0.5
        inputs = [last, constant(f"{name}.weight", weight), constant(f"{name}.bias", np.zeros(channels))]
        shape = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "pads": [kernel // 2] * 4, "group": 1}
        nodes.append(helper.make_node("Conv", inputs, [name], name, **shape))
        nodes.append(helper.make_node("Clip", [name, "zero", "six"], [f"{name}.act"], f"{name}.act"))
        last, read = f"{name}.act", channels
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pool"], "pool"))
    nodes.append(helper.make_node("Flatten", ["pool"], ["output"], "flatten"))
    shapes = ("image", [1, 3 if stem else channels, size, size]), ("output", [1, channels])
    image, output = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes)
    graph = helper.make_graph(nodes, "stack", [image], [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _node(model: onnx.ModelProto, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sparsec-") as name:
        return interleave_node(_entries(model, DENSE_ROWS, Path(name)), Path(name), rounds)


def _chromium(model: onnx.ModelProto, rows: Sequence[Contender], rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sparsec-") as name:
        entries = peers_files.served(_entries(model, rows, Path(name)), Path(name))
        found: dict[str, Any] = browser.run({"rounds": rounds, "entries": entries}, Path(name))["found"]
        return found


def _entries(model: onnx.ModelProto, rows: Sequence[Contender], folder: Path) -> list[dict[str, Any]]:
    """What contenders.mjs is to load, its files written below the folder."""
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    samples = np.random.default_rng(1).uniform(0, 6, (_CALIBRATION, *shape)).astype(np.float32)
    inputs = peers_files.inputs({"image": samples[0]}, folder)
    described = []
    for number, row in enumerate(rows):
        place = folder / str(number)
        if row.engine == "sparsec":
            given = {"image": samples} if row.passes else None
            driver.compile(model, "wasm", None, given, output=place, passes=row.passes, name="net")
        else:
            place = _peer_file(row, peers_models.fold(model, row.passes), samples, place)
        described.append({"name": row.name, "engine": row.engine, "file": str(place), "inputs": inputs})
    return described


def _peer_file(row: Contender, model: onnx.ModelProto, samples: Any, place: Path) -> Path:
    if row.int8:
        model = peers_models.quantize(model, {"image": samples}, len(samples), unsigned=row.unsigned)
    if row.engine == "onnxruntime-web":
        onnx.save(model, place.with_suffix(".onnx"))
        return place.with_suffix(".onnx")
    file = place.with_suffix(".tflite")
    peers_files.tflite(model, file, place, sparse=row.sparse)
    return place if row.engine == "tfjs" else file


def _table(title: str, found: Mapping[str, Mapping[str, Any]], rival: str) -> str:
    """Microseconds of one convolution, and how often each is faster than a rival, the fastest whose name begins so."""
    shapes = {
        shape: {name: 1e3 * median(each["times"]) / LAYERS for name, each in rows.items() if not each["error"]}
        for shape, rows in found.items()
    }
    best = {
        shape: min((us for name, us in rows.items() if name.startswith(rival)), default=None)
        for shape, rows in shapes.items()
    }
    lines = [
        f"| microseconds of one convolution (against {rival}) | " + " | ".join(found) + " |",
        "| --- |" + " ---: |" * len(found),
    ]
    for name in next(iter(shapes.values())):
        cells = [f"{rows[name]:.0f} ({ratio(best[shape], rows[name])})" for shape, rows in shapes.items()]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    refused = {name: each["error"] for rows in found.values() for name, each in rows.items() if each["error"]}
    lines += [f"\nLeft out: {name}: {why.splitlines()[0]}" for name, why in refused.items()]
    return f"### {title}\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    """Print all tables."""
    for table in tables():
        print(table, flush=True)


if __name__ == "__main__":
    main()
