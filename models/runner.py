# SPDX-License-Identifier: Apache-2.0
"""What a catalog model is run with: arrays by name, and any function from inputs to outputs."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx_ir as ir

Arrays = dict[str, NDArray[Any]]
"""Arrays by the name of the model's input or output."""
Run = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""Runs the model once: arrays of the inputs' shapes in, arrays of the outputs' shapes out."""
Split = Literal["calibration", "heldout"]
"""Calibration never sees what the score is measured on."""


def onnxruntime_run(model: "ir.Model") -> Run:
    """Run `model` with onnxruntime on the CPU, one thread."""
    import onnx_ir
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    content = onnx_ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
        feeds = {name: np.asarray(array) for name, array in arrays.items()}
        return dict(zip(names, session.run(names, feeds), strict=True))

    return run
