# SPDX-License-Identifier: Apache-2.0
"""Measure the costs that kernels are priced with: ``python -m benchmarks.measure_profile ISA [--write]``.

Prints the profile of this machine for one instruction set; with ``--write`` it replaces the committed one. What is a
property of the instruction set or too small to be timed alone (registers, chains, the call) is kept as it is.
"""

import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.kernel_timing import Case, best_us
from sparsec.backends import profiles
from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.convolution import ConvolutionKernel
from sparsec.backends.kernels.elementwise import ElementwiseKernel
from sparsec.backends.kernels.pad import PadKernel, pad_spec
from sparsec.backends.kernels.plan import Plan
from sparsec.backends.kernels.sparse import SparseKernel
from sparsec.compiler.lowering.expression import Builder
from sparsec.compiler.lowering.kernel import KernelSpec
from sparsec.compiler.lowering.ops import Convolution, Elementwise, Operand, Pad
from sparsec.compiler.pattern import Block

_SIZE = (14, 14)
_WIDTH = 128
_ROUNDS = 3
_STEPS = 16


def measure(isa: str) -> dict[str, float]:
    """The costs that can be timed."""
    dense = {dtype: _convolutions(isa, dtype, 1.0) for dtype in ("float32", "uint8")}
    macs = _WIDTH * _WIDTH * _SIZE[0] * _SIZE[1]
    return {
        "float32_macs_per_us": macs / min(dense["float32"].values()),
        "int8_macs_per_us": macs / min(dense["uint8"].values()),
        "block_us": _block_us(isa, min(dense["uint8"].values())),
        "bytes_per_us": _bytes_per_us(isa),
        "float32_ops_per_us": _operations_per_us(isa),
    }


def _convolutions(isa: str, dtype: str, density: float) -> dict[KernelSpec, float]:
    """Microseconds of every tile of one convolution, dense or in blocks of 4x4."""
    kernel = ConvolutionKernel() if density == 1 else SparseKernel()
    op = Convolution(dtype, _WIDTH, _WIDTH, _SIZE)
    weight = _weight(dtype, density)
    specs = list(kernel.candidates(op, "dense" if density == 1 else "block(4x4)", ISAS[isa].lanes("float32")))
    cases = [
        Case(kernel.build(spec, ISAS[isa]), [_operand(spec), *kernel.pack(spec, weight), _output()]) for spec in specs
    ]
    return _fastest(specs, cases, isa)


def _weight(dtype: str, density: float) -> np.ndarray:
    generator = np.random.default_rng(0)
    scores = generator.uniform(0.5, 1.0, (_WIDTH, _WIDTH))
    kept = scores * Block(4, 4).project(scores, density)
    return np.round(127 * kept).astype(np.int8) if dtype == "uint8" else kept.astype(np.float32)


def _operand(spec: KernelSpec) -> np.ndarray:
    return np.ones(Plan.of(spec).operand_elements, np.float32)


def _output() -> np.ndarray:
    return np.zeros(_WIDTH * _SIZE[0] * _SIZE[1], np.float32)


def _fastest(specs: list[KernelSpec], cases: list[Case], isa: str) -> dict[KernelSpec, float]:
    rounds = [best_us(cases, isa) for _ in range(_ROUNDS)]
    return {spec: min(times) for spec, *times in zip(specs, *rounds, strict=True)}


def _block_us(isa: str, dense: float) -> float:
    """What a block costs beyond its share of the dense kernel's time."""
    spec, time = min(_convolutions(isa, "uint8", 0.5).items(), key=lambda pair: pair[1])
    positions = _SIZE[0] * _SIZE[1] / (spec.tile[1] * spec.tile[2] * spec.tile[3])
    blocks = 0.5 * (_WIDTH // 4) ** 2 * 4 / spec.tile[0]
    return max(0.0, time - 0.5 * dense) / (blocks * positions)


def _bytes_per_us(isa: str) -> float:
    op = Pad("float32", 128, (112, 112), (1, 1), (0, 0), (1, 1), (112, 112))
    source = np.ones(op.out_elements, np.float32)
    spec = pad_spec(op)
    times = _fastest([spec], [Case(PadKernel().build(spec, ISAS[isa]), [source, source])], isa)
    return 2 * op.out_bytes / times[spec]


def _operations_per_us(isa: str) -> float:
    """Of a chain of products and sums on data in the first-level cache."""
    b = Builder()
    value = b.arg(0)
    for step in range(_STEPS):
        value = b.call("mul" if step % 2 else "add", value, b.const(1.0 + step))
    op = Elementwise((2048,), (Operand("float32", (1,)),), b.build(value))
    kernel = ElementwiseKernel()
    (spec, *_) = kernel.candidates(op, "dense", ISAS[isa].lanes("float32"))
    data = np.ones(op.shape, np.float32)
    times = _fastest([spec], [Case(kernel.build(spec, ISAS[isa]), [data, data])], isa)
    return _STEPS * op.shape[0] / times[spec]


def _machine(isa: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names[0] if names else platform.processor()) + (", V8 in Node" if ISAS[isa].wasm else "")


def main(isa: str, *options: str) -> None:
    """Measure, print, and write if asked."""
    path = Path(str(profiles.__file__)).with_name(f"{isa}.json")
    known: Mapping[str, float] = json.loads(path.read_text("utf-8"))["costs"]
    costs = {**known, **{name: float(f"{value:.3g}") for name, value in measure(isa).items()}}
    text = json.dumps({"costs": costs, "machine": _machine(isa)}, indent=2, sort_keys=True) + "\n"
    print(text)
    if "--write" in options:
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
