# SPDX-License-Identifier: Apache-2.0
"""Weights as a file spells them: declared size against the bytes that are there, before anything is allocated."""

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from sparsec.compiler.errors import ModelError, UnsupportedError
from sparsec.compiler.importers.limits import (
    MAX_FILE_BYTES,
    MAX_FOLDED_TOTAL_BYTES,
    MAX_RANK,
    MAX_TENSOR_BYTES,
)
from sparsec.compiler.importers.walk import all_graphs, all_nodes, all_tensors

_Array = np.ndarray[Any, Any]
_DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def check_tensors(model: onnx.ModelProto) -> None:
    """Compare each tensor's declared type and shape with the data it holds.

    Args:
        model: a parsed model, external data loaded.

    Raises:
        ModelError: a tensor's shape is impossible or too large, or does not fit its data.
        UnsupportedError: a tensor holds strings.
    """
    total = 0
    for where, tensor in all_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            msg = f"{where}: its data are in another file, but a model in memory has no folder. Load it by its path."
            raise ModelError(msg)
        total += declared_bytes(where, tensor)
        _check_data(where, tensor)
    if total > MAX_FILE_BYTES:
        msg = f"The model's weights have {total} bytes; sparsec reads models of up to {MAX_FILE_BYTES} bytes."
        raise ModelError(msg)


def declared_bytes(where: str, tensor: onnx.TensorProto) -> int:
    """The bytes that a tensor's type and shape ask for.

    Args:
        where: the start of an error message.
        tensor: any tensor; its data are not looked at.

    Returns:
        The size in bytes of the tensor's raw form.

    Raises:
        ModelError: type or shape are impossible, or too large.
        UnsupportedError: the type is string.
    """
    bits = _dtype(where, tensor).bitwidth
    return (math.prod(int(dim) for dim in tensor.dims) * bits + 7) // 8


def _dtype(where: str, tensor: onnx.TensorProto) -> ir.DataType:
    if tensor.data_type == onnx.TensorProto.STRING:
        msg = f"{where}: holds strings; sparsec compiles numbers only."
        raise UnsupportedError(msg)
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        dtype = ir.DataType.UNDEFINED
    if dtype == ir.DataType.UNDEFINED:
        msg = f"{where}: has the unknown data type {tensor.data_type}."
        raise ModelError(msg)
    _check_dims(where, tensor, dtype)
    return dtype


def _check_dims(where: str, tensor: onnx.TensorProto, dtype: ir.DataType) -> None:
    dims = list(tensor.dims)
    if len(dims) > MAX_RANK or any(dim < 0 for dim in dims):
        msg = f"{where}: declares the shape {dims[: MAX_RANK + 1]}; up to {MAX_RANK} dimensions from 0 were expected."
        raise ModelError(msg)
    if math.prod(dims) * dtype.bitwidth > 8 * MAX_TENSOR_BYTES:
        msg = f"{where}: declares the shape {dims}, more than {MAX_TENSOR_BYTES} bytes."
        raise ModelError(msg)


def _check_data(where: str, tensor: onnx.TensorProto) -> None:
    present = [field for field in _DATA_FIELDS if _length(tensor, field)]
    elements = math.prod(tensor.dims)
    if not present and elements == 0:
        return
    if present == ["raw_data"]:
        _check_count(where, tensor, len(tensor.raw_data), declared_bytes(where, tensor), "bytes")
        return
    field = helper.tensor_dtype_to_field(tensor.data_type)
    if present != [field]:
        msg = f"{where}: declares {elements} elements, and holds {', '.join(present) or 'no data'}."
        raise ModelError(msg)
    _check_count(where, tensor, _length(tensor, field), _typed_count(elements, tensor.data_type), "values")


def _length(tensor: onnx.TensorProto, field: str) -> int:
    return len(getattr(tensor, field))


def _typed_count(elements: int, data_type: int) -> int:
    """How many entries a typed field has: complex numbers take two, types below a byte share one."""
    dtype = ir.DataType(data_type)
    if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
        return 2 * elements
    return (elements * min(dtype.bitwidth, 8) + 7) // 8


def _check_count(where: str, tensor: onnx.TensorProto, found: int, expected: int, unit: str) -> None:
    if found != expected:
        msg = f"{where}: has {found} {unit}; its shape {list(tensor.dims)} needs {expected}."
        raise ModelError(msg)


def densify(model: onnx.ModelProto) -> None:
    """Turn sparse initializers into dense ones, in place.

    Args:
        model: a parsed model.

    Raises:
        ModelError: indices are malformed, or the dense form is too large.
        UnsupportedError: a node has a sparse attribute.
    """
    for node in all_nodes(model):
        if any(attribute.HasField("sparse_tensor") or attribute.sparse_tensors for attribute in node.attribute):
            msg = f"Operator {node.op_type!r}, node {node.name!r}: sparse tensors in attributes are not supported."
            raise UnsupportedError(msg)
    for graph in all_graphs(model):
        graph.initializer.extend(_dense(sparse) for sparse in graph.sparse_initializer)
        graph.ClearField("sparse_initializer")


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    where = f"Sparse weight {sparse.values.name!r}"
    for part in (sparse.values, sparse.indices):
        declared_bytes(where, part)
        _check_data(where, part)
    shell = onnx.TensorProto(data_type=sparse.values.data_type, dims=sparse.dims)
    if declared_bytes(where, shell) > MAX_FOLDED_TOTAL_BYTES:
        msg = f"{where}: its dense form of shape {list(sparse.dims)} is larger than {MAX_FOLDED_TOTAL_BYTES} bytes."
        raise ModelError(msg)
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(math.prod(sparse.dims), values.dtype)
    dense[_linear(where, indices, list(sparse.dims), values.shape)] = values
    return numpy_helper.from_array(dense.reshape(list(sparse.dims)), sparse.values.name)


def _linear(where: str, indices: _Array, dims: list[int], values: tuple[int, ...]) -> _Array:
    """Indices of either form, [count] or [count, rank], as positions in the flat tensor."""
    linear = indices.shape == values
    upper = np.asarray(math.prod(dims) if linear else dims)
    fits = len(values) == 1 and indices.dtype == np.int64 and indices.shape in (values, (*values, len(dims)))
    if not fits or (indices < 0).any() or (indices >= upper).any():
        msg = f"{where}: its indices do not fit its shape {dims} and its {values} values."
        raise ModelError(msg)
    return indices if linear else np.asarray(np.ravel_multi_index(tuple(indices.T), dims))
