# SPDX-License-Identifier: Apache-2.0
"""Executed ARM instructions of whole models, ours against onnxruntime's: `python -m benchmarks.instructions`.

Both run under qemu-aarch64 with a plugin of ours that counts what is executed; the difference of three runs and one,
halved, is one inference without start-up. A count does not say what time an instruction takes, but unlike a time it
means something under emulation, and it is nearly the same every time.

onnxruntime is npm's build for Linux on AArch64, one thread. It picks its kernels by the processor's features, so it is
counted on three emulated ones: Cortex-A72, which has no int8 dot products (our target `arm`); Neoverse N1, which has
them (`arm+dotprod`); and qemu's `max`, which has int8 matrix products (i8mm) and SVE of 128 bits too, for which sparsec
has no code, so that `arm+dotprod` runs there. Dot products, matrix products and float32 multiply-adds of vectors are
also counted by themselves: they tell which kernels ran. onnxruntime's int8 model has signed (s8s8) or unsigned (u8s8)
activations; we compare with the one that takes fewer instructions.
"""

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks import peers_models
from benchmarks.instructions_qemu import (
    HERE,
    Counts,
    build_folder,
    compile_c,
    difference,
    emulate,
    missing,
)
from benchmarks.timing import install_peers
from sparsec.backends import isa, link, native
from sparsec.backends.arm.run import source
from sparsec.compiler import manifest
from sparsec.compiler.errors import ToolchainError
from sparsec.compiler.golden import relative_error

Arrays = Mapping[str, NDArray[Any]]
TARGETS = {"Cortex-A72": "arm", "Neoverse N1": "arm+dotprod", "i8mm, SVE": "arm+dotprod"}
"""What is compiled for each processor."""
_LIBRARY = HERE / "node_modules/onnxruntime-node/bin/napi-v6/linux/arm64/libonnxruntime.so.1"
_RUNS = (1, 3)


def count(artifact: Path, inputs: Arrays) -> float:
    """Instructions of one inference of an artifact for ARM; see `counts`."""
    return counts(artifact, inputs).total


def counts(artifact: Path, inputs: Arrays) -> Counts:
    """What one inference of an artifact for ARM executes.

    Args:
        artifact: Its folder.
        inputs: One array per input, by name.

    Raises:
        ToolchainError: If qemu or a compiler is missing, or the program fails.
    """
    described = manifest.read(artifact)
    with tempfile.TemporaryDirectory(prefix="sparsec-") as name:
        folder = Path(name)
        (folder / "main.c").write_text(source(described), "utf-8")
        libraries = [artifact / native.ARCHIVE]
        link.executable([folder / "main.c"], libraries, isa.for_target(described.target), folder / "program")
        command = [str(folder / "program"), str(artifact / manifest.WEIGHTS)]
        once = b"\0" + b"".join(np.ascontiguousarray(inputs[p.name], p.dtype).tobytes() for p in described.inputs)
        first, last = (emulate(command, folder, stdin=once * runs)[0] for runs in _RUNS)
    return difference(first, last, _RUNS[1] - _RUNS[0])


def counts_onnxruntime(model: bytes | onnx.ModelProto, inputs: Arrays, processor: str = "Neoverse N1") -> Counts:
    """What one inference in onnxruntime's build for AArch64 executes, with one thread.

    The first output, float32, is compared with this machine's onnxruntime.

    Args:
        model: An ONNX model.
        inputs: One array per input, by name.
        processor: Key of `instructions_qemu.PROCESSORS`.

    Raises:
        ToolchainError: If qemu, the library or its C library is missing, or the program fails.
        ValueError: If the outputs are not those of this machine.
    """
    lacking = missing()
    if lacking:
        msg = f"Counting onnxruntime's instructions: {lacking}."
        raise ToolchainError(msg)
    proto = onnx.load_model_from_string(model) if isinstance(model, bytes) else model
    output = proto.graph.output[0].name
    with tempfile.TemporaryDirectory(prefix="sparsec-") as name:
        folder = Path(name)
        onnx.save(proto, folder / "model.onnx")
        words = _described(inputs, folder)

        def run(runs: int) -> tuple[Counts, bytes]:
            command = [str(_program()), str(_LIBRARY), str(folder / "model.onnx"), str(runs), output, *words]
            return emulate(command, folder, processor=processor)

        (first, found), (last, _) = (run(runs) for runs in _RUNS)
    _check(np.frombuffer(found, np.float32), proto, inputs, processor)
    return difference(first, last, _RUNS[1] - _RUNS[0])


def table() -> str:
    """EfficientNet-Lite0, in Markdown."""
    net = peers_models.network()
    with tempfile.TemporaryDirectory(prefix="sparsec-") as folder:
        own = {
            target: {
                f"{target}: {name}": counts(artifact.folder, net.inputs)
                for name, artifact in peers_models.compiled(target, Path(folder)).items()
            }
            for target in dict.fromkeys(TARGETS.values())
        }
    rows = [
        "| processor | EfficientNet-Lite0 | M instructions | onnxruntime float32 / this | onnxruntime int8 / this "
        "| M dot products | M matrix products | M multiply-adds |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for processor, target in TARGETS.items():
        models = {"float32": net.folded, "int8, s8s8": net.s8s8, "int8, u8s8": net.u8s8}
        peers = {
            f"onnxruntime {name}": counts_onnxruntime(model, net.inputs, processor) for name, model in models.items()
        }
        float32, *int8 = (found.total for found in peers.values())
        rows += [_row(processor, name, found, (float32, min(int8))) for name, found in (peers | own[target]).items()]
    return "\n".join(rows) + "\n"


def _row(processor: str, name: str, values: Counts, rivals: Sequence[float]) -> str:
    ratios = [f"{rival / values.total:.2f}x" for rival in rivals]
    total, *kinds = (f"{value / 1e6:.1f}" for value in values)
    return "| " + " | ".join([processor, name, total, *ratios, *kinds]) + " |"


def _described(inputs: Arrays, folder: Path) -> list[str]:
    """The inputs as words for the program, their elements in files."""
    words = []
    for number, (name, array) in enumerate(inputs.items()):
        path = folder / f"input{number}"
        path.write_bytes(np.ascontiguousarray(array).tobytes())
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        words.append(",".join([name, str(kind), str(path), *map(str, array.shape)]))
    return words


def _check(found: NDArray[Any], proto: onnx.ModelProto, inputs: Arrays, processor: str) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run([proto.graph.output[0].name], dict(inputs))[0]
    error = relative_error(found.reshape(expected.shape), expected)
    if not error < 0.1:  # int8 kernels may round otherwise; a wrong run is far off
        msg = f"onnxruntime on '{processor}': relative error {error:.3g} to this machine's, expected less than 0.1."
        raise ValueError(msg)


@cache
def _program() -> Path:
    install_peers()
    path = build_folder() / "onnxruntime"
    options = ("-target", "aarch64-linux-gnu.2.34", "-O2", "-g0", "-std=gnu17", "-Wno-deprecated-non-prototype")
    compile_c((*options, str(HERE / "instructions_onnxruntime.c"), "-o", str(path)))
    return path


if __name__ == "__main__":
    print(table())
