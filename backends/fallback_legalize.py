# SPDX-License-Identifier: Apache-2.0
"""TIR for Relax operators that TVM itself would hand to its runtime: sorting and running sums."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from tvm import relax, tirx, topi
from tvm.script import tirx as T

Legalize = Callable[[relax.BlockBuilder, Any], Any]


def _scan(compute: Callable[..., Any]) -> Legalize:
    def legalize(builder: relax.BlockBuilder, call: Any) -> Any:
        attributes = call.attrs
        exclusive = bool(attributes.exclusive) if attributes.exclusive is not None else False
        dtype = str(call.ty.dtype)
        return builder.call_te(compute, call.args[0], axis=attributes.axis, dtype=dtype, exclusive=exclusive)

    return legalize


def _topk(builder: relax.BlockBuilder, call: Any) -> Any:
    options = call.attrs
    parts = _best(builder, call, int(options.k), bool(options.largest), str(options.dtype))
    return {"both": parts, "values": parts[0], "indices": parts[1]}[str(options.ret_type)]


def _argsort(builder: relax.BlockBuilder, call: Any) -> Any:
    return _best(builder, call, _length(call), bool(call.attrs.descending), str(call.attrs.dtype))[1]


def _sort(builder: relax.BlockBuilder, call: Any) -> Any:
    return _best(builder, call, _length(call), bool(call.attrs.descending), "int64")[0]


def _length(call: Any) -> int:
    return int(call.args[0].ty.shape[int(call.attrs.axis)])


def _best(builder: relax.BlockBuilder, call: Any, count: int, largest: bool, dtype: str) -> Any:
    """The `count` largest (or smallest) elements along an axis, in order, and where they stood."""
    source = call.args[0].ty
    shape = [int(dim) for dim in source.shape]
    axis = int(call.attrs.axis) % len(shape)
    result = [*shape[:axis], count, *shape[axis + 1 :]]
    sizes = (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]), count)
    function = _selection(shape, result, sizes, (str(source.dtype), dtype), largest)
    types = [relax.TensorType(result, str(source.dtype)), relax.TensorType(result, dtype)]
    made = builder.emit(relax.call_tir(builder.add_func(function, "best"), [call.args[0]], types))
    return builder.emit(relax.Tuple([relax.TupleGetItem(made, 0), relax.TupleGetItem(made, 1)]))


def _selection(
    shape: list[int], result: list[int], sizes: tuple[int, int, int, int], kinds: tuple[str, str], largest: bool
) -> tirx.PrimFunc:
    """Insert each element of a row where it belongs among the best so far; equal ones keep their order."""
    outer, length, inner, count = sizes
    kind, place_kind = kinds

    @T.prim_func(s_tir=True, private=True)
    def best(
        x: T.Buffer(shape, kind), values: T.Buffer(result, kind), places: T.Buffer(result, place_kind)
    ):
        X = T.decl_buffer((outer, length, inner), kind, data=x.data)
        V = T.decl_buffer((outer, count, inner), kind, data=values.data)
        P = T.decl_buffer((outer, count, inner), place_kind, data=places.data)
        at = T.alloc_buffer((1,), "int32", scope="local")
        moving = T.alloc_buffer((1,), "bool", scope="local")
        for o, i, j in T.grid(outer, inner, length):
            if j < count or _better(X[o, j, i], V[o, count - 1, i], largest):
                at[0] = T.min(j, count - 1)
                moving[0] = True
                while at[0] > 0 and moving[0]:
                    if _better(X[o, j, i], V[o, at[0] - 1, i], largest):
                        V[o, at[0], i] = V[o, at[0] - 1, i]
                        P[o, at[0], i] = P[o, at[0] - 1, i]
                        at[0] = at[0] - 1
                    else:
                        moving[0] = False
                V[o, at[0], i] = X[o, j, i]
                P[o, at[0], i] = T.cast(j, place_kind)

    return best


def _better(new: Any, old: Any, largest: bool) -> Any:
    return new > old if largest else new < old


LEGALIZE: Mapping[str, Legalize] = {
    "relax.cumsum": _scan(topi.cumsum),
    "relax.cumprod": _scan(topi.cumprod),
    "relax.topk": _topk,
    "relax.argsort": _argsort,
    "relax.sort": _sort,
}
"""By Relax operator: what stands for it."""
