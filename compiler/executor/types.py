# SPDX-License-Identifier: Apache-2.0
"""Element types and tensors of ONNX in torch."""

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from sparsec.compiler.errors import UnsupportedError

_TYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.INT4: torch.int8,
    ir.DataType.UINT4: torch.uint8,
}
"""Four-bit numbers are kept in eight bits."""


def torch_type(dtype: ir.DataType) -> torch.dtype:
    """The torch type of an ONNX element type.

    Raises:
        UnsupportedError: If torch has none that computes.
    """
    if dtype not in _TYPES:
        msg = f"Element type {dtype.name}: expected one that torch computes with, such as FLOAT or INT64."
        raise UnsupportedError(msg)
    return _TYPES[dtype]


def as_torch(tensor: ir.TensorProtocol) -> Tensor:
    """A copy of an ONNX tensor, of the same shape.

    Raises:
        UnsupportedError: On an element type without a counterpart.
    """
    wanted = torch_type(tensor.dtype)
    array: Any = np.asarray(tensor.numpy())
    if array.dtype.kind not in "biuf":
        array = array.astype(np.float32)
    return torch.tensor(array).to(wanted)
