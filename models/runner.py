# SPDX-License-Identifier: Apache-2.0
"""What a catalog model is run with: arrays by name, and any function from inputs to outputs."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import onnx_ir as ir
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
"""Arrays by the name of the model's input or output."""
Run = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""Runs the model once: arrays of the inputs' shapes in, arrays of the outputs' shapes out."""
Split = Literal["calibration", "heldout"]
"""Calibration never sees what the score is measured on."""


def onnxruntime_run(model: ir.Model) -> Run:
    """Run `model` with onnxruntime on the CPU, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return lambda arrays: dict(zip(names, session.run(names, dict(arrays)), strict=True))
