# SPDX-License-Identifier: Apache-2.0
"""Any ONNX operator without a kernel of its own, as plain loops, through TVM's ONNX front end and Relax.

Right, if seldom fast. What TVM does not know, or is known to get wrong, is refused with the operator's name.
"""

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import tvm
from numpy.typing import NDArray
from tvm import relax, te, tirx
from tvm.relax.frontend.onnx import from_onnx
from tvm.relax.frontend.onnx.onnx_frontend import _get_convert_map

from sparsec.backends.fallback_known import DATA_DEPENDENT, OTHERWISE_DEFINED, refusal
from sparsec.backends.fallback_legalize import LEGALIZE
from sparsec.backends.fallback_rewrite import rewritten
from sparsec.backends.isa import ELEMENT_BYTES, ISAS
from sparsec.backends.tir import llvm_target, lower
from sparsec.compiler.errors import ToolchainError, UnsupportedError
from sparsec.compiler.graph import shape_of
from sparsec.compiler.importers.limits import OPSET
from sparsec.compiler.lowering.kernel import Fallback, FallbackCall

Array = NDArray[Any]
Reference = tuple[str, int]
"""A space (``input``, ``constant``, ``temporary``, ``output``) and a number in it."""

_PASSES: tuple[Callable[[], Any], ...] = (
    relax.transform.DecomposeOpsForInference,
    lambda: relax.transform.LegalizeOps(LEGALIZE),
    relax.transform.FoldConstant,
    relax.transform.AnnotateTIROpPattern,
    relax.transform.FuseOps,
    relax.transform.FuseTIR,
    relax.transform.DeadCodeElimination,
)


def operators() -> frozenset[str]:
    """The operators of ONNX's own domain that TVM's front end knows, and means as ONNX does."""
    return frozenset(_get_convert_map()) - {*DATA_DEPENDENT, *OTHERWISE_DEFINED}


def lower_node(node: ir.Node, constants: Sequence[Array | None], *, opset: int = OPSET) -> Fallback:
    """Lower one ONNX node to calls of TIR functions.

    Args:
        node: A node of ONNX's own domain whose values have types and static shapes.
        constants: For each input its value if that is known, else None.
        opset: What the node's operator and attributes mean.

    Returns:
        The calls. Arguments number the node's inputs by position, its outputs among those that have a name.

    Raises:
        UnsupportedError: If TVM has no such operator, or not this use of it; names operator and reason.
    """
    reason = refusal(node, constants) or _bad_type(node)
    if reason:
        raise _refused(node, reason)
    model = _one_node_model(node, constants, opset)
    try:
        module = _relax(model, opset)
    except Exception as error:  # the front end raises anything from KeyError to its own FFI errors
        raise _refused(node, _last_line(error)) from error
    return _Reader(module, node, _digest(model)).read()


def _refused(node: ir.Node, reason: str) -> UnsupportedError:
    return UnsupportedError(f"Layer '{node.name}': operator '{node.op_type}' is not supported: {reason}")


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    unknown = reason.startswith("The following operators are not supported")
    return "there is neither a kernel for it nor a TVM operator." if unknown else reason.rstrip(".")[:200] + "."


_TYPES = frozenset(ELEMENT_BYTES) - {"bfloat16"}
"""Types that values may have; of bfloat16 some operators crash TVM."""


def _bad_type(node: ir.Node) -> str:
    """Why the types of the node's values cannot be compiled; empty if they can."""
    for value in (*node.inputs, *node.outputs):
        if value is None or not value.name:
            continue
        if value.dtype is None or value.shape is None or not value.shape.is_static():
            return f"'{value.name}' has no static shape and type."
        if 0 in value.shape:
            return f"'{value.name}' is empty."
        if _dtype(value) not in _TYPES:
            return f"'{value.name}' has type '{value.dtype.name.lower()}'."
    return ""


def _dtype(value: ir.Value) -> str:
    """The numpy name of a value's type; of a type that numpy lacks, ONNX's."""
    name = value.dtype.name.lower() if value.dtype is not None else ""
    return {"float": "float32", "double": "float64"}.get(name, name)


def _one_node_model(node: ir.Node, constants: Sequence[Array | None], opset: int) -> onnx.ModelProto:
    """The node alone: inputs named by position, known ones as initializers."""
    names = [f"i{k}" if value is not None else "" for k, value in enumerate(node.inputs)]
    named = [value for value in node.outputs if value.name]
    results = [f"o{named.index(value)}" if value.name else "" for value in node.outputs]
    arrays = {names[k]: array for k, array in enumerate(constants) if array is not None and names[k]}
    ports = [_port(names[k], v) for k, v in enumerate(node.inputs) if v is not None and names[k] not in arrays]
    nodes = rewritten(node, results) or [_renamed(node, names, results)]
    weights = [onnx.numpy_helper.from_array(_constant(node, array), name) for name, array in arrays.items()]
    outputs = [_port(f"o{k}", value) for k, value in enumerate(named)]
    graph = onnx.helper.make_graph(nodes, "node", ports, outputs, weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def _renamed(node: ir.Node, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
    proto = onnx.helper.make_node(node.op_type, inputs, outputs)
    proto.attribute.extend(ir.to_proto(attribute) for attribute in node.attributes.values())
    return proto


def _constant(node: ir.Node, array: Array) -> Array:
    """A known input as TVM wants it: a depth must be an integer."""
    return array.astype("int64") if node.op_type == "OneHot" and array.size == 1 else array


def _port(name: str, value: ir.Value) -> onnx.ValueInfoProto:
    assert value.dtype is not None
    return onnx.helper.make_tensor_value_info(name, value.dtype.value, shape_of(value))


def _digest(model: onnx.ModelProto) -> str:
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()[:12]


def _relax(model: onnx.ModelProto, opset: int) -> tvm.IRModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = from_onnx(model, opset=opset, keep_params_in_input=False)
    with tvm.target.Target("llvm"):
        for make in _PASSES:
            module = make()(module)
    return module


@dataclass
class _Reader:
    """Reads the calls out of a Relax function whose operators have all become TIR functions."""

    module: tvm.IRModule
    node: ir.Node
    digest: str
    places: dict[Any, Any] = field(default_factory=dict)
    """By Relax variable: a reference, or a tuple of them."""
    calls: list[tuple[str, list[Reference]]] = field(default_factory=list)
    functions: dict[str, Any] = field(default_factory=dict)
    constants: list[Array] = field(default_factory=list)
    temporaries: list[tuple[str, int]] = field(default_factory=list)
    """Type and elements of each."""

    def read(self) -> Fallback:
        """All calls in order, with the last ones writing the node's outputs."""
        main = self.module["main"]
        for param in main.params:
            self.places[param] = ("input", int(str(param.name)[1:]))
        for binding in _bindings(main):
            self.places[binding.var] = self._value(binding.value)
        result = self._value(main.body.body if isinstance(main.body, relax.SeqExpr) else main.body)
        self._deliver(result if isinstance(result, tuple) and not _is_reference(result) else (result,))
        calls = tuple(FallbackCall(symbol, tuple(arguments)) for symbol, arguments in self.calls)
        sizes = tuple(ELEMENT_BYTES[dtype] * count for dtype, count in self.temporaries)
        return Fallback(calls, self.functions, tuple(self.constants), sizes)

    def _value(self, value: Any) -> Any:
        """The reference of a Relax value, or a tuple of references; calls are recorded."""
        if isinstance(value, tvm.ir.GenericConst):
            self.constants.append(np.ascontiguousarray(value.value.numpy()))
            return ("constant", len(self.constants) - 1)
        if isinstance(value, tvm.ir.Tuple):
            return tuple(self._value(item) for item in value.fields)
        if isinstance(value, tvm.ir.TupleGetItem):
            return self._value(value.tuple_value)[value.index]
        return self.places[value] if isinstance(value, tvm.ir.Var) else self._call(value)

    def _call(self, call: Any) -> Any:
        """Record a ``call_tir``; anything else has no TIR function."""
        name = getattr(getattr(call, "op", None), "name", type(call).__name__)
        if name != "relax.call_tir" or len(call.args) != 2:
            raise _refused(self.node, f"there is no code for its part '{name}'.")
        types = call.ty_args[0]
        several = isinstance(types, tvm.ir.TupleType)
        results = tuple(self._temporary(part) for part in (types.fields if several else (types,)))
        arguments = [self._value(argument) for argument in call.args[1].fields]
        self.calls.append((self._add(self.module[call.args[0]]), [*arguments, *results]))
        return results if several else results[0]

    def _temporary(self, kind: Any) -> Reference:
        if not all(isinstance(dim, tirx.IntImm) for dim in kind.shape):
            raise _refused(self.node, "the shape of its result depends on the data.")
        self.temporaries.append((str(kind.dtype), math.prod(int(dim) for dim in kind.shape)))
        return ("temporary", len(self.temporaries) - 1)

    def _add(self, function: tirx.PrimFunc) -> str:
        """Name a function, once it is sure that it can be compiled; what stops it stops it on every target."""
        symbol = f"{self.node.op_type.lower()}_{self.digest}_{len(self.functions)}"
        try:
            lower(function, symbol, tvm.target.Target(llvm_target(ISAS["avx2"])))
        except ToolchainError as error:
            raise _refused(self.node, _last_line(error)) from error
        self.functions[symbol] = function
        return symbol

    def _deliver(self, results: Sequence[Reference]) -> None:
        """Let the results be written to the outputs directly where they can be, else copy them."""
        named = [value for value in self.node.outputs if value.name]
        moved: dict[Reference, Reference] = {}
        for index, (result, value) in enumerate(zip(results, named, strict=True)):
            dtype = self._check(result, value)
            if result[0] == "temporary" and result not in moved and dtype == _dtype(value):
                moved[result] = ("output", index)
            else:
                self.calls.append((self._add(_copy(value, dtype)), [result, ("output", index)]))
        self.calls = [(symbol, [moved.get(a, a) for a in arguments]) for symbol, arguments in self.calls]
        self._renumber()

    def _renumber(self) -> None:
        """Drop the temporaries that became outputs."""
        used = sorted({n for _, arguments in self.calls for space, n in arguments if space == "temporary"})
        place = {("temporary", old): ("temporary", new) for new, old in enumerate(used)}
        self.temporaries = [self.temporaries[old] for old in used]
        self.calls = [(symbol, [place.get(a, a) for a in arguments]) for symbol, arguments in self.calls]

    def _check(self, result: Reference, value: ir.Value) -> str:
        """The type of a result; its size, and but for some operators its type, must be ONNX's."""
        space, index = result
        if space == "temporary":
            dtype, count = self.temporaries[index]
        elif space == "constant":
            dtype, count = str(self.constants[index].dtype), self.constants[index].size
        else:
            dtype, count = _dtype(value), _elements(value)
        if count != _elements(value) or (dtype != _dtype(value) and self.node.op_type not in _WIDER):
            found = f"found {dtype} x {count}, expected {_dtype(value)} x {_elements(value)}"
            raise _refused(self.node, f"TVM gives '{value.name}' another type or shape than ONNX: {found}.")
        return dtype


_WIDER = ("OneHot",)
"""Operators whose numbers TVM gives in a wider type; they are converted."""


def _bindings(function: relax.Function) -> Iterator[Any]:
    blocks = function.body.blocks if isinstance(function.body, relax.SeqExpr) else ()
    return (binding for block in blocks for binding in block.bindings)


def _is_reference(value: tuple[Any, ...]) -> bool:
    return len(value) == 2 and isinstance(value[0], str)


def _copy(value: ir.Value, dtype: str) -> tirx.PrimFunc:
    """A function that copies a whole value from an array of some type."""
    x = te.placeholder((_elements(value),), dtype, name="x")
    return te.create_prim_func([x, te.compute(x.shape, lambda i: x[i].astype(_dtype(value)), name="y")])


def _elements(value: ir.Value) -> int:
    return math.prod(shape_of(value))
