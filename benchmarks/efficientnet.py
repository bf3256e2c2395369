# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 at 224x224, batch 1, one thread: wasm in Node against onnxruntime-web, x86 against onnxruntime.

The sparse variant prunes the pointwise convolutions in blocks of 4x4 to density 0.5, then quantizes to int8. The
times do not depend on the weights' values; accuracy is another matter and is not measured here.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from benchmarks.timing import install_peers, interleave, interleave_node, onnxruntime_session
from sparsec.compiler import driver
from sparsec.compiler.artifact import Artifact
from sparsec.compiler.exchange import to_onnx
from sparsec.models.catalog import find

VARIANTS: dict[str, tuple[str, ...]] = {
    "float32": (),
    "int8": ("quantize",),
    "sparse int8, 4x4 at 0.5": (
        "prune-blocks{rows=4 cols=4 density=0.5 ignore=[classifier]}",
        "quantize",
    ),
}
TARGETS = ("wasm", "host")


def tables() -> Iterator[str]:
    """Markdown tables, one a target."""
    install_peers()
    entry = find("efficientnet-lite0")
    model = ir.to_proto(entry.build())
    calibration = entry.inputs("calibration", 32)
    inputs = {name: array[0] for name, array in entry.inputs("heldout", 1).items()}
    for target in TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            artifacts = {
                name: driver.compile(
                    model,
                    target,
                    None,
                    calibration if passes else None,
                    output=Path(folder) / str(i),
                    passes=passes,
                    name="net",
                )
                for i, (name, passes) in enumerate(VARIANTS.items())
            }
            yield _table(target, artifacts, _time(target, artifacts, model, calibration, inputs, Path(folder)))


def _time(
    target: str, artifacts: dict[str, Artifact], model: onnx.ModelProto, calibration: Any, inputs: Any, folder: Path
) -> dict[str, float]:
    quantized = _int8(model, calibration)
    if target == "wasm":
        peers = {"onnxruntime-web float32": model, "onnxruntime-web int8": quantized}
        for number, proto in enumerate(peers.values()):
            onnx.save(proto, folder / f"peer{number}.onnx")
        entries = [{"name": name, "artifact": str(a.folder)} for name, a in artifacts.items()]
        entries += [{"name": name, "onnx": str(folder / f"peer{i}.onnx")} for i, name in enumerate(peers)]
        return interleave_node(entries, inputs, folder)
    contenders: dict[str, Any] = {name: lambda a=a: a.run(inputs) for name, a in artifacts.items()}
    for name, proto in (("onnxruntime float32", model), ("onnxruntime int8", quantized)):
        session = onnxruntime_session(proto.SerializeToString())
        contenders[name] = lambda session=session: session.run(None, inputs)
    return interleave(contenders)


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    """Calibration samples one by one, as onnxruntime's quantizer wants them."""

    def __init__(self, arrays: Any, count: int) -> None:
        self._feeds = iter([{name: array[i] for name, array in arrays.items()} for i in range(count)])

    def get_next(self) -> Any:
        """The next feed; None at the end."""
        return next(self._feeds, None)


def _int8(model: onnx.ModelProto, calibration: Any) -> onnx.ModelProto:
    """The peers' int8 model, by onnxruntime's own static quantizer: QDQ, per channel, batch normalization folded.

    It says an older opset than sparsec writes, one that onnxruntime-web knows; its operators mean the same there.
    """
    folded = to_onnx(driver.compress(driver.job(model, "host")).model)
    folded.opset_import[0].version, folded.ir_version = 21, 10
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(folded, source)
        quantize_static(source, target, _Samples(calibration, 8), quant_format=QuantFormat.QDQ, per_channel=True)
        return onnx.load(target)


def _table(target: str, artifacts: dict[str, Artifact], times: dict[str, float]) -> str:
    rival = next(name for name in times if name.startswith("onnxruntime") and name.endswith("float32"))
    rows = [
        "| EfficientNet-Lite0 | ms | against " + rival + " | code kB | weights MB |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, milliseconds in times.items():
        sizes = ("", "")
        if name in artifacts:
            manifest = artifacts[name].manifest
            sizes = (f"{manifest.code_bytes / 1e3:.0f}", f"{manifest.weight_bytes / 1e6:.2f}")
        rows.append(f"| {name} | {milliseconds:.2f} | {times[rival] / milliseconds:.2f}x | {sizes[0]} | {sizes[1]} |")
    label = f"{target} ({next(iter(artifacts.values())).manifest.target})"
    return f"### {label}\n\n" + "\n".join(rows) + "\n"


def versions() -> Sequence[str]:
    """Names and versions of what is compared."""
    return (f"onnxruntime {onnxruntime.__version__}", "onnxruntime-web 1.30.0")
