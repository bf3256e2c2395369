# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 as all engines get it: our variants, and the int8 model of onnxruntime's own quantizer.

The sparse variant prunes the pointwise convolutions in blocks of 4x4 to density 0.5, then quantizes to int8. Neither
times nor counts depend on the weights' values; accuracy is another matter and is not measured here.
"""

import logging
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.compiler import driver
from sparsec.compiler.artifact import Artifact
from sparsec.compiler.exchange import to_onnx
from sparsec.models.catalog import find

NAME = "efficientnet-lite0"
VARIANTS: dict[str, tuple[str, ...]] = {
    "float32": (),
    "int8": ("quantize",),
    "sparse int8, 4x4 at 0.5": (
        "prune-blocks{rows=4 cols=4 density=0.5 ignore=[classifier]}",
        "quantize",
    ),
}
"""Passes by the name of what they make."""
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Network:
    """What is compared.

    Attributes:
        model: float32, as it comes.
        folded: float32, batch normalization folded, opset 21, which all peers know.
        s8s8: int8 by onnxruntime's static quantizer: QDQ, weights per channel, signed activations, its default.
        u8s8: The same with unsigned activations, which x86 multiplies faster.
        pruned: float32 with the weights of our sparse variant.
        pruned_u8s8: The same, quantized.
        calibration: Inputs with a leading axis of samples.
        inputs: One input.
    """

    model: onnx.ModelProto
    folded: onnx.ModelProto
    s8s8: onnx.ModelProto
    u8s8: onnx.ModelProto
    pruned: onnx.ModelProto
    pruned_u8s8: onnx.ModelProto
    calibration: Arrays
    inputs: Arrays


@cache
def network() -> Network:
    """EfficientNet-Lite0 at 224x224, batch 1."""
    entry = find(NAME)
    model = ir.to_proto(entry.build())
    calibration = {name: np.asarray(array) for name, array in entry.inputs("calibration", 32).items()}
    inputs = {name: np.asarray(array[0]) for name, array in entry.inputs("heldout", 1).items()}
    folded, pruned = fold(model), fold(model, VARIANTS["sparse int8, 4x4 at 0.5"][:1])
    s8s8 = quantize(folded, calibration)
    u8s8, pruned_u8s8 = (quantize(each, calibration, unsigned=True) for each in (folded, pruned))
    return Network(model, folded, s8s8, u8s8, pruned, pruned_u8s8, calibration, inputs)


def compiled(target: str, folder: Path) -> dict[str, Artifact]:
    """All variants for a target, by name."""
    net = network()
    return {
        name: driver.compile(
            net.model,
            target,
            None,
            net.calibration if passes else None,
            output=folder / f"{target}{number}",
            passes=passes,
            name="net",
        )
        for number, (name, passes) in enumerate(VARIANTS.items())
    }


def fold(model: onnx.ModelProto, passes: tuple[str, ...] = ()) -> onnx.ModelProto:
    """The exact rewrites, and perhaps more, in an opset that peers know."""
    return older(to_onnx(driver.compress(driver.job(model, "host", passes=passes)).model), 21, 10)


def older(model: onnx.ModelProto, opset: int, version: int) -> onnx.ModelProto:
    """The same model, said to be of an older opset and format; the operators of these networks mean the same there."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.opset_import[0].version, copy.ir_version = opset, version
    return copy


def quantize(
    model: onnx.ModelProto, calibration: Arrays, samples: int = 8, *, unsigned: bool = False
) -> onnx.ModelProto:
    """The peers' int8 model, by onnxruntime's static quantizer: QDQ, per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Samples(CalibrationDataReader):  # type: ignore[misc]
        """Calibration samples one by one, as the quantizer wants them."""

        def __init__(self) -> None:
            self._feeds = iter([{name: array[i] for name, array in calibration.items()} for i in range(samples)])

        def get_next(self) -> Any:
            """The next feed; None at the end."""
            return next(self._feeds, None)

    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "float.onnx", Path(name) / "int8.onnx"
        onnx.save(model, source)
        logging.disable(logging.WARNING)  # it advises to run what has been run
        try:
            quantize_static(
                source,
                target,
                Samples(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
            )
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(target)
