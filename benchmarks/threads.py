# SPDX-License-Identifier: Apache-2.0
"""Two threads against one, in turns in one process: single layers above 5 million multiply-adds, and a whole network.

Each row is one model, compiled twice for this machine; both artifacts are linked into one program, which also compares
the bits of their results. A layer stands four times in its model, with ReLU between, as it would in a network: there,
too, each thread reads what the other has written, and in int8 codes are made of the input only once. The medians of all
rounds are compared, and the shortest single runs. The machine must have two cores that nobody else uses.

Run ``python -m benchmarks.threads``.
"""

import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sparsec.backends import isa, link
from sparsec.compiler import driver
from sparsec.compiler.artifact import Artifact
from sparsec.compiler.target import cores
from sparsec.models.catalog import find

HERE = Path(__file__).resolve().parent
THREADS = 2
LAYERS = ((256, 256, 784), (512, 512, 196), (128, 128, 3136), (160, 960, 49), (1280, 320, 49), (4096, 4096, 1))
"""Filters, channels, positions."""
REPEATS = 4
"""How often a layer stands in its model."""
PRUNE = "prune-blocks{rows=4 cols=4 density=0.5 score=magnitude update=none}"
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "float32": (),
    "int8": ("quantize{correct_bias=false}",),
    "sparse int8, 4x4 at 0.5": (PRUNE, "quantize{correct_bias=false}"),
}
"""Passes by the name of what they make."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model, and samples of its inputs."""

    name: str
    model: onnx.ModelProto
    samples: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Times:
    """Median microseconds of a run on one thread and on two, and the ratio of the shortest run of each."""

    one: float
    two: float
    best: float


def table(rounds: int = 101) -> Iterator[str]:
    """Lines of markdown."""
    yield f"| | variant | one thread, µs | {THREADS} threads, µs | ratio | ratio of the shortest | code, of one |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for case in cases():
        for variant, passes in VARIANTS.items():
            with tempfile.TemporaryDirectory(prefix="sparsec-") as name:
                one, two = (_compiled(case, passes, Path(name), count) for count in (1, THREADS))
                times = measure(one, two, Path(name), rounds)
            code = two.manifest.code_bytes / one.manifest.code_bytes
            numbers = (f"{times.one:.1f}", f"{times.two:.1f}", f"{times.one / times.two:.2f}x", f"{times.best:.2f}x")
            yield f"| {case.name} | {variant} | {' | '.join(numbers)} | {code:.2f} |"


def missing() -> str | None:
    """What this machine lacks."""
    return None if cores() >= THREADS else f"this process may use {cores()} core, it takes {THREADS}"


def cases() -> Iterator[Case]:
    """What is timed."""
    generator = np.random.default_rng(0)
    for filters, channels, positions in LAYERS:
        yield _layer(filters, channels, positions, generator)
    entry = find("efficientnet-lite0")
    samples = {name: np.asarray(array, np.float32) for name, array in entry.inputs("calibration", 16).items()}
    yield Case("EfficientNet-Lite0", ir.to_proto(entry.build()), samples)


def measure(one: Artifact, two: Artifact, folder: Path, rounds: int) -> Times:
    """Time both in turns.

    Args:
        one: For one thread, of name ``one``, in the folder ``one``.
        two: For several, of name ``two``, in the folder ``two`` beside it.
        folder: Where both are.
        rounds: How often each is timed; a timing is of as many runs as take two milliseconds.

    Raises:
        subprocess.CalledProcessError: If the results differ.
    """
    sizes = [", ".join(str(port.nbytes) for port in ports) for ports in (one.manifest.inputs, one.manifest.outputs)]
    head = "".join(f"#define {name}_BYTES {text}\n" for name, text in zip(("INPUT", "OUTPUT"), sizes, strict=True))
    (folder / "main.c").write_text(head + (HERE / "threads.c").read_text())
    libraries = [artifact.folder / "libmodel.a" for artifact in (one, two)]
    link.executable([folder / "main.c"], libraries, isa.for_target(one.manifest.target), folder / "main")
    weights = [str(artifact.folder / "weights.bin") for artifact in (one, two)]
    command = [str(folder / "main"), *weights, str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    one_us, two_us, *shortest = zip(*rows, strict=True)
    return Times(median(one_us), median(two_us), min(shortest[0]) / min(shortest[1]))


def _compiled(case: Case, passes: Sequence[str], folder: Path, count: int) -> Artifact:
    name = {1: "one"}.get(count, "two")
    samples = case.samples if passes else None
    return driver.compile(
        case.model, "host", None, samples, output=folder / name, passes=passes, name=name, threads=count
    )


def _layer(filters: int, channels: int, positions: int, generator: np.random.Generator) -> Case:
    """Pointwise convolutions, from so many channels to so many filters and back; over one position, products."""
    image = positions > 1
    shape = [1, channels, positions, 1] if image else [1, channels]
    nodes, weights, options = [], [], {} if image else {"transB": 1}
    for number in range(REPEATS):
        rows, columns = (filters, channels) if number % 2 == 0 else (channels, filters)
        array = generator.standard_normal((rows, columns, 1, 1) if image else (rows, columns)) / np.sqrt(columns)
        weights.append(numpy_helper.from_array(array.astype(np.float32), f"w{number}"))
        names = (f"x{number}", f"w{number}"), (f"y{number}",), f"layer{number}"
        nodes.append(helper.make_node("Conv" if image else "Gemm", *names, **options))
        nodes.append(helper.make_node("Relu", (f"y{number}",), (f"x{number + 1}",), f"relu{number}"))
    value = partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
    ports = [value("x0", shape=shape)], [value(f"x{REPEATS}", shape=None)]
    graph = helper.make_graph(nodes, "layers", *ports, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    samples = {"x0": generator.standard_normal((16, *shape)).astype(np.float32)}
    return Case(f"[{filters}, {channels}, {positions}]", model, samples)


def main() -> None:
    """Print the table."""
    for line in table():
        print(line, flush=True)


if __name__ == "__main__":
    main()
