# SPDX-License-Identifier: Apache-2.0
"""MobileNet-v1 with kernel sparsity against our own dense build: ``python -m benchmarks.kernel_sparsity``.

SparseByteNN (Xu et al., 2023) reports 1.27x over its dense network at 30 % sparsity on a Snapdragon 855. Here 30 % of
the kernels of every pointwise convolution are pruned by magnitude (`prune-kernels`, density 0.7), in float32 and in
int8; the depthwise convolutions, the first one and the classifier stay dense. Times are medians of one process in
which both builds take turns, one thread; for ARM, executed instructions under qemu. The weights are random: times do
not depend on their values, and accuracy is not what is measured.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import instructions_qemu
from benchmarks.timing import interleave, interleave_node, missing
from sparsec.compiler import driver
from sparsec.compiler.artifact import Artifact
from sparsec.models.catalog import find

DENSITY = 0.7
PRECISIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "float32": (f"prune-kernels{{rows=8 cols=1 density={DENSITY} min_weights=0}}", ()),
    "int8": (f"prune-kernels{{rows=8 cols=4 density={DENSITY} min_weights=0}}", ("quantize",)),
}
"""How each precision is pruned, and what follows: int8 kernels skip words of four channels, so units span four."""
TARGETS = {"wasm": "ms", "host": "ms", "arm+dotprod": "million instructions"}


def tables() -> Iterator[str]:
    """Markdown: the table of the targets that this machine can measure, and what it lacks for the others."""
    lacking = {"wasm": missing(), "host": None, "arm+dotprod": instructions_qemu.missing()}
    yield "\n".join(table([target for target, lack in lacking.items() if lack is None])) + "\n"
    yield from (f"Left out: {target}: {lack}.\n" for target, lack in lacking.items() if lack)


def table(targets: Sequence[str]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| target | precision | unit | dense | 30 % sparse | ratio |"
    yield "| --- | --- | --- | ---: | ---: | ---: |"
    entry = find("mobilenet-v1")
    inputs = {name: array[0] for name, array in entry.inputs("heldout", 1).items()}
    for target in targets:
        for precision, (prune, quantize) in PRECISIONS.items():
            with tempfile.TemporaryDirectory(prefix="sparsec-") as folder:
                built = {
                    "dense": _build(target, quantize, Path(folder) / "dense"),
                    "sparse": _build(target, (prune, *quantize), Path(folder) / "sparse"),
                }
                dense, sparse = _measured(target, built, inputs, Path(folder))
            yield f"| {target} | {precision} | {TARGETS[target]} | {dense:.2f} | {sparse:.2f} | {dense / sparse:.2f}x |"


def _build(target: str, passes: Sequence[str], folder: Path) -> Artifact:
    entry = find("mobilenet-v1")
    samples = entry.inputs("calibration", 8) if passes else None
    return driver.compile(entry.build(), target, None, samples, output=folder, passes=tuple(passes), name="net")


def _measured(
    target: str, built: Mapping[str, Artifact], inputs: Mapping[str, np.ndarray], folder: Path
) -> tuple[float, float]:
    if target.startswith("arm"):
        from benchmarks.instructions import count

        return count(built["dense"].folder, inputs) / 1e6, count(built["sparse"].folder, inputs) / 1e6
    if target == "wasm":
        found = interleave_node(_entries(built, inputs, folder), folder, rounds=41)
        times = {name: median(found[name]["times"]) for name in built}
    else:
        times = interleave({name: lambda a=artifact: a.run(inputs) for name, artifact in built.items()}, rounds=101)
    return times["dense"], times["sparse"]


def _entries(built: Mapping[str, Artifact], inputs: Mapping[str, np.ndarray], folder: Path) -> list[Mapping[str, Any]]:
    """The artifacts as interleave.mjs wants them."""
    files = []
    for number, (name, array) in enumerate(inputs.items()):
        array.tofile(folder / f"input{number}")
        files.append({"name": name, "file": str(folder / f"input{number}"), "shape": list(array.shape)})
    return [{"name": name, "engine": "sparsec", "file": str(a.folder), "inputs": files} for name, a in built.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel_sparsity", description=__doc__)
    parser.add_argument("--target", action="append", choices=tuple(TARGETS))
    for line in table(parser.parse_args(arguments).target or tuple(TARGETS)):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
