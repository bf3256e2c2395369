# SPDX-License-Identifier: Apache-2.0
"""TIR for Relax operators that TVM itself would hand to its runtime: sorting and running sums."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tvm import relax, te, tirx, topi
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from sparsec.backends.isa import ELEMENT_BYTES

Legalize = Callable[[relax.BlockBuilder, Any], Any]


def _scan(compute: Callable[..., Any]) -> Legalize:
    def legalize(builder: relax.BlockBuilder, call: Any) -> Any:
        attributes = call.attrs
        exclusive = bool(attributes.exclusive) if attributes.exclusive is not None else False
        dtype = str(call.ty.dtype)
        return builder.call_te(compute, call.args[0], axis=attributes.axis, dtype=dtype, exclusive=exclusive)

    return legalize


def _take(builder: relax.BlockBuilder, call: Any) -> Any:
    """An index beyond the axis reads its last element: ONNX leaves it open, and memory must stay untouched."""
    return builder.call_te(topi.take, call.args[0], call.args[1], call.attrs.axis, mode="clip")


def _shift(inside: Callable[[Any, Any], Any], outside: Callable[[Any], Any]) -> Legalize:
    """Machines shift by the distance modulo the width; ONNX shifts everything out."""

    def shifted(x: te.Tensor, distance: te.Tensor) -> te.Tensor:
        dtype = str(x.dtype)
        width = (8 * ELEMENT_BYTES[dtype]).bit_length() - 1
        shape = [int(dim) for dim in topi.add(x, distance).shape]
        x, distance = topi.broadcast_to(x, shape), topi.broadcast_to(distance, shape)

        def element(*at: Any) -> Any:
            mask, zero = tirx.const((1 << width) - 1, dtype), tirx.const(0, dtype)
            legal = tirx.EQ(distance(*at) >> tirx.const(width, dtype), zero)  # neither negative nor too far
            return tirx.Select(legal, inside(x(*at), distance(*at) & mask), outside(x(*at)))

        return te.compute(shape, element, name="shift")

    return lambda builder, call: builder.call_te(shifted, *call.args)


def _sign(x: Any) -> Any:
    """All bits as the sign: what shifting right leaves in the end."""
    zero = tirx.const(0, str(x.ty))
    return zero if str(x.ty).startswith("u") else tirx.Select(x < zero, tirx.const(-1, str(x.ty)), zero)


def _topk(builder: relax.BlockBuilder, call: Any) -> Any:
    options = call.attrs
    parts = _best(builder, call, int(options.k), bool(options.largest), str(options.dtype))
    return {"both": relax.Tuple(parts), "values": parts[0], "indices": parts[1]}[str(options.ret_type)]


def _argsort(builder: relax.BlockBuilder, call: Any) -> Any:
    return _best(builder, call, _length(call), bool(call.attrs.descending), str(call.attrs.dtype))[1]


def _sort(builder: relax.BlockBuilder, call: Any) -> Any:
    return _best(builder, call, _length(call), bool(call.attrs.descending), "int64")[0]


def _length(call: Any) -> int:
    return int(call.args[0].ty.shape[int(call.attrs.axis)])


def _best(builder: relax.BlockBuilder, call: Any, count: int, largest: bool, dtype: str) -> list[Any]:
    """The `count` largest (or smallest) elements along an axis, in order, and where they stood."""
    made = builder.emit_te(_select, call.args[0], count, int(call.attrs.axis), largest, dtype)
    return [builder.emit(relax.TupleGetItem(made, part)) for part in (0, 1)]


def _select(source: te.Tensor, count: int, axis: int, largest: bool, dtype: str) -> list[te.Tensor]:
    shape = [int(dim) for dim in source.shape]
    axis %= len(shape)
    result = [*shape[:axis], count, *shape[axis + 1 :]]
    sizes = Sizes(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]), count)
    kinds = [str(source.dtype), dtype]
    read = [tirx.decl_buffer(source.shape, kinds[0], "x")]
    written = [tirx.decl_buffer(result, kind, "best") for kind in kinds]

    def write(ins: Any, outs: Any) -> Any:
        with IRBuilder() as body:
            x, values, places = (T.buffer_proxy(buffer) for buffer in (*ins, *outs))
            _selection(x, values, places, sizes, dtype, largest)
            return body.get()

    buffers = {"in_buffers": read, "out_buffers": written}
    return list(te.extern([result, result], [source], write, dtype=kinds, name="best", **buffers))


class Sizes(NamedTuple):
    """Elements before, along and behind the sorted axis, and how many are wanted."""

    outer: int
    length: int
    inner: int
    wanted: int


def _selection(x: Any, values: Any, places: Any, sizes: Sizes, dtype: str, largest: bool) -> None:
    """Insert each element of a row where it belongs among the best so far; equal ones keep their order."""
    with T.grid(sizes.outer, sizes.inner, sizes.length) as (o, i, j):
        new = x[(o * sizes.length + j) * sizes.inner + i]

        def place(k: Any) -> Any:
            return (o * sizes.wanted + k) * sizes.inner + i

        with T.If(tirx.any(j < sizes.wanted, _better(new, values[place(sizes.wanted - 1)], largest))), T.Then():
            at = T.buffer_proxy(T.alloc_buffer((2,), "int32", scope="local"))  # where, and whether still moving
            at[0] = tirx.min(tirx.Cast("int32", j), sizes.wanted - 1)
            at[1] = 1
            moving = tirx.all(at[0] > 0, at[1] > 0)
            with T.While(moving), T.If(_better(new, values[place(at[0] - 1)], largest)):
                with T.Then():
                    values[place(at[0])] = values[place(at[0] - 1)]
                    places[place(at[0])] = places[place(at[0] - 1)]
                    at[0] = at[0] - 1
                with T.Else():
                    at[1] = 0
            values[place(at[0])] = new
            places[place(at[0])] = tirx.Cast(dtype, j)


def _better(new: Any, old: Any, largest: bool) -> Any:
    return new > old if largest else new < old


LEGALIZE: Mapping[str, Legalize] = {
    "relax.cumsum": _scan(topi.cumsum),
    "relax.cumprod": _scan(topi.cumprod),
    "relax.left_shift": _shift(lambda x, d: x << d, lambda x: tirx.const(0, str(x.ty))),
    "relax.right_shift": _shift(lambda x, d: x >> d, _sign),
    "relax.take": _take,
    "relax.topk": _topk,
    "relax.argsort": _argsort,
    "relax.sort": _sort,
}
"""By Relax operator: what stands for it."""
