# SPDX-License-Identifier: Apache-2.0
"""Static shapes: input dimensions are pinned; after inference, no other shape may be open."""

import math
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from sparsec.compiler.errors import ModelError, UnsupportedError
from sparsec.compiler.importers.limits import MAX_TENSOR_BYTES

Reporter = Callable[[str], None]


def pin_inputs(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None, reporter: Reporter | None) -> None:
    """Give each graph input a static shape, in place.

    A symbolic dimension that is pinned on one input holds for all inputs that use its name. What is left of
    leading dimensions becomes 1.

    Args:
        model: a model whose graph inputs are tensors.
        shapes: whole shapes by input name.
        reporter: is told of each leading dimension that was set to 1.

    Raises:
        ModelError: an input of ``shapes`` does not exist, contradicts the model, or a dimension stays open.
    """
    wanted = dict(shapes or {})
    names = [str(value.name) for value in model.graph.inputs]
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        msg = f"Shape for input {unknown[0]!r}: the model has no such input. Its inputs are {_quoted(names)}."
        raise ModelError(msg)
    symbols = _bind_symbols(model.graph.inputs, wanted)
    for value in model.graph.inputs:
        dims = _static_dims(value, wanted.get(str(value.name)), symbols, reporter)
        if value.dtype is None or math.prod(dims) * value.dtype.itemsize > MAX_TENSOR_BYTES:
            msg = f"Input {value.name!r} of shape {_text(dims)} is larger than {MAX_TENSOR_BYTES} bytes."
            raise ModelError(msg)
        value.shape = ir.Shape(dims)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"


def _bind_symbols(inputs: Sequence[ir.Value], wanted: Mapping[str, Sequence[int]]) -> dict[str, int]:
    symbols: dict[str, int] = {}
    for value in inputs:
        asked = wanted.get(str(value.name))
        if asked is None:
            continue
        for index, (dim, size) in enumerate(zip(_declared(value, asked), asked, strict=True)):
            _check_dim(value, index, dim, size)
            if isinstance(dim, str) and symbols.setdefault(dim, size) != size:
                msg = (
                    f"Input {value.name!r}, dimension {index}: {size} was asked for, but dimension {dim!r} "
                    f"is {symbols[dim]} in another input. Give both the same size."
                )
                raise ModelError(msg)
    return symbols


def _declared(value: ir.Value, asked: Sequence[int]) -> list[int | str | None]:
    """The dimensions the model declares; None is open, a string is an open one with a name."""
    if value.shape is None:
        return [None] * len(asked)
    dims = [d if isinstance(d, int) else d.value for d in value.shape.dims]
    if len(dims) != len(asked):
        msg = (
            f"Input {value.name!r} has {len(dims)} dimensions ({_text(dims)}), but the shape given for it has "
            f"{len(asked)} ({_text(asked)})."
        )
        raise ModelError(msg)
    return [None if isinstance(d, int) and d < 0 else d for d in dims]


def _check_dim(value: ir.Value, index: int, dim: int | str | None, size: int) -> None:
    if size < 1:
        readers = sorted({f" of operator {node.op_type!r}" for node, _ in value.uses()})
        where = f"Input {value.name!r}{''.join(readers[:1])}, dimension {index}"
        msg = f"{where}: the size given is {size}; it must be at least 1."
        raise ModelError(msg)
    if isinstance(dim, int) and dim != size:
        msg = f"Input {value.name!r}, dimension {index} is {dim} in the model, but {size} in the shape given."
        raise ModelError(msg)


def _static_dims(
    value: ir.Value, asked: Sequence[int] | None, symbols: Mapping[str, int], reporter: Reporter | None
) -> list[int]:
    if asked is not None:
        return [int(size) for size in asked]
    if value.shape is None:
        msg = f"Input {value.name!r} has no shape in the model. Give one, as in '--shape {value.name}=1x3x224x224'."
        raise ModelError(msg)
    dims = [_bound(d, symbols) for d in value.shape.dims]
    if dims and dims[0] is None:
        dims[0] = 1
        if reporter is not None:
            reporter(f"Input {value.name!r}: the leading dimension is dynamic; it is set to 1.")
    if None in dims:
        index = dims.index(None)
        example = "x".join(str(d) if d is not None else "224" for d in dims)
        msg = (
            f"Input {value.name!r}, dimension {index} ({_text(value.shape.dims)}) is dynamic; a compiled model has "
            f"static shapes. Give them, as in '--shape {value.name}={example}'."
        )
        raise ModelError(msg)
    return [d for d in dims if d is not None]


def _bound(dim: int | ir.SymbolicDim, symbols: Mapping[str, int]) -> int | None:
    if isinstance(dim, int):
        return dim if dim >= 0 else None
    return symbols.get(dim.value) if dim.value else None


def _text(dims: Sequence[object]) -> str:
    return "x".join(str(d) if str(d) != "None" else "?" for d in dims)


def forget_shapes(graph: ir.Graph) -> None:
    """Drop what the file says about values between inputs and outputs, in place.

    Exporters leave symbolic shapes there that stop the inference, and a hostile file may lie.

    Args:
        graph: a main graph. What its nodes' own graphs declare stays; it is checked against the inference.
    """
    for node in graph:
        for value in node.outputs:
            value.shape = None
            value.type = None


def check_static(model: ir.Model) -> None:
    """Refuse a model in which a value's type or shape stayed unknown.

    Args:
        model: a model after inference.

    Raises:
        ModelError: a value is too large.
        UnsupportedError: an operator's output depends on the data, or is no tensor.
    """
    for node in model.graph:
        for value in node.outputs:
            if value.name and not is_static(value):
                raise _not_static(node, value)
            if value.name:
                _check_bytes(node, value)


def is_static(value: ir.Value) -> bool:
    """Whether a value is a tensor of known type and shape."""
    return isinstance(value.type, ir.TensorType) and value.shape is not None and value.shape.is_static()


def _not_static(node: ir.Node, value: ir.Value) -> UnsupportedError:
    where = f"Operator {node.op_type!r}, node {node.name!r}, output {value.name!r}"
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        return UnsupportedError(f"{where}: is no tensor; sequences, optionals and maps are not supported.")
    if any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
        return UnsupportedError(f"{where}: its shape is unknown; loops and branches that data decide are not compiled.")
    found = "unknown" if value.shape is None else _text(value.shape.dims)
    return UnsupportedError(f"{where}: its shape ({found}) depends on the data; a compiled model has static shapes.")


def _check_bytes(node: ir.Node, value: ir.Value) -> None:
    shape, dtype = value.shape, value.dtype
    if shape is None or dtype is None or dtype == ir.DataType.STRING:
        msg = f"Operator {node.op_type!r}, node {node.name!r}: strings are not supported."
        raise UnsupportedError(msg)
    dims = [int(dim) for dim in shape.numpy()]
    if min(dims, default=0) < 0 or math.prod(dims) * dtype.itemsize > MAX_TENSOR_BYTES:
        msg = (
            f"Operator {node.op_type!r}, node {node.name!r}: its output {value.name!r} of shape "
            f"{_text(shape.dims)} is impossible, or larger than {MAX_TENSOR_BYTES} bytes."
        )
        raise ModelError(msg)
