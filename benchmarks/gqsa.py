# SPDX-License-Identifier: Apache-2.0
"""GQSA's matrix-vector product: 4-bit groups of 16, half of them gone: ``python -m benchmarks.gqsa [wasm | x86] ...``.

Against the dense product with the same 4-bit groups, and against onnxruntime's `MatMulNBits` with groups of 16 and 32,
exact (accuracy level 0) and with activations rounded to 8 bits (level 4). sparsec's are exact. A microsecond or so of
each native call is Python's; onnxruntime's run of an empty model is given beside its times.
"""

import argparse
import ctypes
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.timing import install_peers, interleave, missing, onnxruntime_session
from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.group_linear import GroupLinearKernel, SparseGroupLinearKernel
from sparsec.backends.link import shared_library, wasm_module
from sparsec.backends.tir import Object, build_object
from sparsec.backends.tuning.timing import relaxed_flag
from sparsec.compiler.lowering.groups import Groups, join
from sparsec.compiler.lowering.ops import GroupedLinear
from sparsec.compiler.target import host

Array = NDArray[Any]
Call = tuple[str, Sequence[Array]]
HERE = Path(__file__).resolve().parent
SHAPES = ((2048, 768), (4096, 4096), (11008, 4096))
"""Outputs, inputs."""
TOKENS = (1, 4)
TARGETS = ("wasm", "x86")
GROUP, DENSITY = 16, 0.5
PEERS = tuple((block, level) for block in (16, 32) for level in (0, 4))
"""Group size and accuracy level of `MatMulNBits`."""
ROUNDS = {"x86": 101, "wasm": 21}
DENSE, SPARSE, EMPTY = "dense W4", "sparse W4", "empty"


@dataclass(frozen=True)
class Problem:
    """A product's sizes."""

    outputs: int
    inputs: int
    tokens: int

    @property
    def activations(self) -> Array:
        """float32 [tokens][inputs]."""
        return np.random.default_rng(1).standard_normal((self.tokens, self.inputs)).astype(np.float32)


def tables(targets: Sequence[str] = TARGETS) -> Iterator[str]:
    """Markdown tables, one a target."""
    lacking = missing() if "wasm" in targets else None
    if lacking:
        yield f"### wasm\n\nLeft out: {lacking}.\n"
        targets = [target for target in targets if target != "wasm"]
    if "wasm" in targets:
        install_peers()
    for target in targets:
        rows = [_row(Problem(*shape, tokens), target) for tokens in TOKENS for shape in SHAPES]
        yield "\n".join([f"### {target} ({_isa(target)})\n", *_HEAD, *rows, ""])


_HEAD = (
    "| outputs x inputs | batch | sparse, µs | dense, µs | against dense | "
    + " | ".join(f"MatMulNBits {block}, level {level}, µs | against it" for block, level in PEERS)
    + " | empty model, µs |",
    "| --- |" + " ---: |" * (5 + 2 * len(PEERS)),
)


def _row(problem: Problem, target: str) -> str:
    with tempfile.TemporaryDirectory(prefix="sparsec-") as folder:
        times = (_wasm if target == "wasm" else _native)(problem, Path(folder))
    sparse, dense = times[SPARSE], times[DENSE]
    peers = [f"{times[_name(*p)]:.0f} | {times[_name(*p)] / sparse:.1f}x" for p in PEERS]
    cells = [f"{problem.outputs}x{problem.inputs}", str(problem.tokens), f"{sparse:.0f}", f"{dense:.0f}"]
    return "| " + " | ".join([*cells, f"{dense / sparse:.2f}x", *peers, f"{times[EMPTY]:.0f}"]) + " |"


def _native(problem: Problem, folder: Path) -> dict[str, float]:
    """Microseconds by contender, in this process."""
    isa = ISAS[_isa("x86")]
    code, calls = _kernels(problem, isa.name)
    shared_library([code.object], isa, [name for name, _ in calls.values()], folder / "kernels.so")
    library = ctypes.CDLL(str(folder / "kernels.so"))
    runs = {title: _caller(library[name], arrays) for title, (name, arrays) in calls.items()}
    for title, proto in _peers(problem).items():
        session = onnxruntime_session(proto.SerializeToString())
        runs[title] = partial(session.run, None, {"x": problem.activations})
    return {title: 1e3 * value for title, value in interleave(runs, ROUNDS["x86"]).items()}


def _caller(function: Any, arrays: Sequence[Array]) -> Callable[[], object]:
    """A call of a C function with copies of arrays that start at a multiple of 64 bytes."""
    copies = []
    for array in arrays:
        space = np.zeros(array.nbytes + 64, np.uint8)
        copies.append(space[-space.ctypes.data % 64 :][: array.nbytes])
        copies[-1][:] = np.frombuffer(array.tobytes(), np.uint8)
    pointers = [ctypes.c_void_p(copy.ctypes.data) for copy in copies]

    def call() -> object:
        assert len(copies) == len(pointers)  # keeps the copies alive
        return function(*pointers)

    return call


def _wasm(problem: Problem, folder: Path) -> dict[str, float]:
    """Microseconds by contender, in one Node process."""
    isa = ISAS[_isa("wasm")]
    code, calls = _kernels(problem, isa.name)
    (folder / "kernels.wasm").write_bytes(wasm_module([code.object], isa, [name for name, _ in calls.values()]))
    block, kernels = bytearray(), []
    for title, (name, arrays) in calls.items():
        places = []
        for array in arrays:
            block += bytes(-len(block) % 64)
            places.append(len(block))
            block += array.tobytes()
        kernels.append({"title": title, "name": name, "places": places})
    (folder / "data.bin").write_bytes(block)
    (folder / "x.bin").write_bytes(problem.activations.tobytes())
    for title, proto in _peers(problem).items():
        onnx.save(proto, folder / f"{title}.onnx")
    config = {"folder": str(folder), "rounds": ROUNDS["wasm"], "kernels": kernels, "models": list(_peers(problem))}
    shape = [problem.tokens, problem.inputs]
    command = ["node", *relaxed_flag(), str(HERE / "gqsa.mjs"), json.dumps({**config, "shape": shape})]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {title: 1e3 * median(values) for title, values in json.loads(done.stdout).items()}


def _kernels(problem: Problem, isa: str) -> tuple[Object, dict[str, Call]]:
    """One object, and each contender's function with its arrays."""
    op = GroupedLinear(problem.tokens, problem.inputs, problem.outputs, GROUP)
    lanes = ISAS[isa].lanes("float32")
    made = {}
    for title, kernel, density in ((DENSE, GroupLinearKernel(), 1.0), (SPARSE, SparseGroupLinearKernel(), DENSITY)):
        (spec,) = kernel.candidates(op, f"block(1x{GROUP})", lanes)
        out = np.zeros((problem.tokens, problem.outputs), np.float32)
        arrays = [problem.activations, *kernel.pack(spec, _weight(problem, density)), out]
        made[title] = (spec.symbol, kernel.build(spec, ISAS[isa]), arrays)
    code = build_object({symbol: function for symbol, function, _ in made.values()}, ISAS[isa])
    return code, {title: (s, [*arrays, *_workspace(code, s)]) for title, (s, _, arrays) in made.items()}


def _workspace(code: Object, symbol: str) -> list[Array]:
    return [np.zeros(code.workspace_bytes[symbol], np.uint8)] if code.workspace_bytes[symbol] else []


def _weight(problem: Problem, density: float) -> Array:
    """Random groups; as many kept in all as the density says, unlike numbers in the rows."""
    rng = np.random.default_rng(0)
    shape = (problem.outputs, problem.inputs // GROUP)
    scores = rng.random(shape)
    kept = scores <= np.sort(scores, axis=None)[round(density * scores.size) - 1]
    codes = rng.integers(0, 16, (*shape, GROUP), dtype=np.uint8)
    zeros = rng.integers(0, 16, shape, dtype=np.uint8)
    return join(Groups(codes, zeros, rng.uniform(0.01, 0.02, shape).astype(np.float16), kept))


def _peers(problem: Problem) -> Mapping[str, onnx.ModelProto]:
    """`MatMulNBits` models, and one that does nothing."""
    models = {_name(*peer): _matmul_n_bits(problem, *peer) for peer in PEERS}
    node = helper.make_node("Identity", ["x"], ["y"])
    return {**models, EMPTY: _model(node, problem, problem.inputs, {})}


def _name(block: int, level: int) -> str:
    return f"MatMulNBits-{block}-{level}"


def _matmul_n_bits(problem: Problem, block: int, level: int) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    runs = problem.inputs // block
    arrays = {
        "b": rng.integers(0, 256, (problem.outputs, runs, block // 2), dtype=np.uint8),
        "scales": rng.uniform(0.01, 0.02, problem.outputs * runs).astype(np.float32),
        "zeros": rng.integers(0, 256, problem.outputs * ((runs + 1) // 2), dtype=np.uint8),
    }
    node = helper.make_node(
        "MatMulNBits", ["x", *arrays], ["y"], domain="com.microsoft", K=problem.inputs, N=problem.outputs,
        bits=4, block_size=block, accuracy_level=level,
    )  # fmt: skip
    return _model(node, problem, problem.outputs, arrays)


def _model(node: onnx.NodeProto, problem: Problem, width: int, arrays: Mapping[str, Array]) -> onnx.ModelProto:
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [problem.tokens, size])
        for name, size in (("x", problem.inputs), ("y", width))
    )
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "product", [x], [y], weights)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _isa(target: str) -> str:
    if target == "wasm":
        return "relaxed-simd"
    return "avx512vnni" if "avx512vnni" in host().features else "avx2"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gqsa", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="wasm, x86; both if none is named")
    targets = parser.parse_args(arguments).targets
    unknown = [target for target in targets if target not in TARGETS]
    if unknown:
        parser.error(f"unknown target '{unknown[0]}'; expected {' or '.join(TARGETS)}")
    for table in tables(targets or TARGETS):
        print(table, flush=True)


if __name__ == "__main__":
    main()
