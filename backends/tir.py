# SPDX-License-Identifier: Apache-2.0
"""From TIR functions to plain C functions in an object file: the only door to TVM's lowering.

TVM would wrap every function in its own calling convention and bring a runtime along. Here the lowering stops
before that, so that a function with pointer parameters becomes ``void name(float *x, ...)``, all pointers
``noalias``, and nothing of TVM is needed where the code runs.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import PointerType, PrimType

from sparsec.backends import half
from sparsec.backends.isa import ELEMENT_BYTES, Isa
from sparsec.backends.math import expand, mark
from sparsec.compiler.errors import ToolchainError

STACK_BYTES = 1024
"""The largest allocation that stays on the stack; larger ones go to the function's workspace."""
ALIGNMENT = 64
"""Bytes; every piece of a workspace starts at a multiple of it, and so must the workspace itself."""
WORKSPACE = "workspace"

_PASSES: tuple[Callable[[], Any], ...] = (
    s_tir.transform.CanonicalizeLoop,
    s_tir.transform.LowerInitBlock,
    s_tir.transform.PlanAndUpdateBufferAllocationLocation,
    s_tir.transform.ConvertBlocksToOpaque,
    s_tir.transform.CompactBufferAllocation,
    s_tir.transform.LowerMatchBuffer,
    tirx.transform.StmtSimplify,
    s_tir.transform.LowerOpaqueBlock,
    tirx.transform.FlattenBuffer,
    tirx.transform.BF16ComputeLegalize,
    lambda: tirx.transform.NarrowDataType(32),
    s_tir.transform.LoopPartition,
    tirx.transform.VectorizeLoop,
    tirx.transform.StorageRewrite,
    s_tir.transform.HoistIfThenElse,
    tirx.transform.UnrollLoop,
    s_tir.transform.RenormalizeSplitPattern,
    tirx.transform.StmtSimplify,
    tirx.transform.RemoveNoOp,
    s_tir.transform.RewriteUnsafeSelect,
    tirx.transform.CommonSubexprElim,
)
"""TVM's own pipeline, up to where it would make packed functions for its runtime."""


@dataclass(frozen=True, slots=True)
class Object:
    """Machine code of some functions.

    Attributes:
        object: An ELF or WebAssembly object file.
        workspace_bytes: For each function, bytes of scratch memory it takes through one more pointer
            parameter at the end, aligned to `ALIGNMENT`; 0 means no such parameter.
    """

    object: bytes
    workspace_bytes: Mapping[str, int]
    _module: Any = field(repr=False, compare=False)

    def llvm(self) -> str:
        """The optimized LLVM IR as text."""
        return str(self._module.inspect_source("ll"))

    def asm(self) -> str:
        """The assembly as text, without the lines that only serve a debugger."""
        lines = str(self._module.inspect_source("asm")).split('\t.section\t".debug', 1)[0]
        lines = lines.split("\t.section\t.debug", 1)[0]
        return "\n".join(line for line in lines.splitlines() if not line.lstrip().startswith(_NOISE))


_NOISE = (".loc", ".Ltmp", ".Lfunc", ".cfi", ".file")


def build_object(functions: Mapping[str, tirx.PrimFunc], isa: Isa) -> Object:
    """Compile functions to one object file; the same functions give the same bytes.

    Args:
        functions: TIR functions by C name. Parameters are handles (``T.handle("float32")``), buffers (as
            TVM's own operators have them) or scalars; buffers become pointers. A function may call another
            of the model with ``T.call_extern``.
        isa: What to compile for.

    Returns:
        The object. What it leaves undefined are other functions of the model, and what compilers take for
        granted, such as ``memcpy``; `sparsec.backends.link` has the latter, without a C library.

    Raises:
        ToolchainError: If a function cannot be compiled.
    """
    target = tvm.target.Target(llvm_target(isa))
    lowered = {name: lower(function, name, target) for name, function in functions.items()}
    module = tvm.IRModule({name: function for name, (function, _) in lowered.items()})
    with _blamed(", ".join(functions)):
        compiled = tvm.get_global_func("target.build.llvm")(module, target)
        return Object(_object_bytes(compiled), {name: size for name, (_, size) in lowered.items()}, compiled)


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Turn whatever TVM raises into an error that names the function."""
    try:
        yield
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        msg = f"Compiling '{what}': {lines[-1] if lines else type(error).__name__}"
        raise ToolchainError(msg) from error


def llvm_target(isa: Isa) -> dict[str, object]:
    """TVM's description of the target that `isa` names."""
    return {
        "kind": "llvm",
        "mtriple": isa.triple,
        "mcpu": isa.cpu,
        "mattr": list(isa.features),
        "vector-width": isa.vector_bytes * 8,
    }


def lower(function: tirx.PrimFunc, name: str, target: tvm.target.Target) -> tuple[tirx.PrimFunc, int]:
    """Lower one function to what LLVM code generation takes.

    Returns:
        The function, and the bytes of workspace it takes as its last parameter (0: none).

    Raises:
        ToolchainError: If TVM cannot lower it, or it calls TVM's runtime.
    """
    with _blamed(name):
        module = tvm.IRModule({name: _named(_without_offsets(function), name)})
        module = tirx.transform.BindTarget(target.with_host(target))(module)
        for make in _PASSES:
            module = make()(module)
        plain, size = _lift_allocations(_pointer_parameters(_plain_loops(mark(module[name]))))
        _check_calls(plain)
        bare = expand(tirx.transform.LowerIntrin()(tvm.IRModule({name: plain}))[name])
        return (half.legalize(bare) if str(target.attrs["mtriple"]).startswith("wasm") else bare), size


def _check_calls(function: tirx.PrimFunc) -> None:
    def check(call: tvm.ir.Call) -> None:
        if isinstance(call.op, tvm.ir.Op) and call.op.name in _RUNTIME_CALLS:
            callee = call.args[0]
            msg = f"it calls '{getattr(callee, 'value', callee)}' of TVM's runtime"
            raise ValueError(msg)

    tvm_ffi.structural_walk(function.body, (tvm.ir.Call, check))


_RUNTIME_CALLS = {f"tirx.tvm_call_{kind}{how}" for kind in ("packed", "cpacked") for how in ("", "_lowered")}


def _named(function: tirx.PrimFunc, name: str) -> tirx.PrimFunc:
    attributes = {"global_symbol": name, "calling_conv": 1, "tirx.noalias": True}
    for key, value in attributes.items():
        function = function.with_attr(key, value)
    return function


def _without_offsets(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Buffer parameters start where their pointer points; TVM leaves that open for some."""
    moving = [p for p in function.params if tirx.is_buffer_var(p) and isinstance(p.ty.elem_offset, tirx.Var)]
    fixed = {p: tirx.decl_buffer(p.shape, str(p.dtype), p.name) for p in moving}
    if not fixed:
        return function
    body = tvm_ffi.structural_map(function.body, (tirx.Var, lambda var: fixed.get(var, var)), order="post")
    return _rebuilt(function, [fixed.get(param, param) for param in function.params], [body])


def _plain_loops(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Parallel loops would need a runtime with threads; hints for TVM's own code generator go."""

    def serial(loop: tirx.For) -> tirx.For:
        if loop.kind != tirx.ForKind.PARALLEL:
            return loop
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)

    def bare(hint: tirx.AttrStmt) -> tirx.Stmt:
        return hint.body if hint.attr_key.startswith("pragma_") else hint

    changes = [(tirx.For, serial), (tirx.AttrStmt, bare)]
    return function.with_body(tvm_ffi.structural_map(function.body, changes, order="post"))


def _pointer_parameters(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Buffer parameters become pointers that the buffers are declared on."""
    params, declarations = [], []
    for param in function.params:
        pointer = param
        if tirx.is_buffer_var(param):
            pointer = _pointer(param.name, str(param.dtype))
            declarations.append(tirx.DeclBuffer(param, data=pointer))
        params.append(pointer)
    return _rebuilt(function, params, [*declarations, function.body])


def _lift_allocations(function: tirx.PrimFunc) -> tuple[tirx.PrimFunc, int]:
    """Large allocations become pieces of one workspace parameter; a stack may be small."""
    base = _pointer(WORKSPACE, "uint8")
    total = 0

    def lift(node: tirx.AllocBuffer) -> tirx.Stmt:
        nonlocal total
        size = _bytes(node.buffer)
        if size <= STACK_BYTES:
            return node
        start = total
        total += -(-size // ALIGNMENT) * ALIGNMENT
        return _piece(node.buffer, base, start)

    body = tvm_ffi.structural_map(function.body, (tirx.AllocBuffer, lift), order="post")
    return (_rebuilt(function, [*function.params, base], [body]), total) if total else (function, 0)


def _piece(buffer: Any, base: tirx.Var, start: int) -> tirx.Stmt:
    """Declare `buffer` at `start` bytes after `base`."""
    dtype = str(buffer.dtype)
    view = tirx.decl_buffer((1,), dtype, name=buffer.name + "_view")
    index = tirx.IntImm("int32", start // _element_bytes(dtype))
    pointer = _pointer(buffer.name + "_data", dtype)
    place = tirx.Bind(pointer, tirx.address_of(tirx.BufferLoad(view, [index])))
    return tirx.SeqStmt([tirx.DeclBuffer(view, data=base), place, tirx.DeclBuffer(buffer, data=pointer)])


def _bytes(buffer: Any) -> int:
    return math.prod(int(extent) for extent in buffer.shape) * _element_bytes(str(buffer.dtype))


def _element_bytes(dtype: str) -> int:
    scalar, _, lanes = dtype.partition("x")
    return int(lanes or 1) * ELEMENT_BYTES[scalar]


def _pointer(name: str, dtype: str) -> tirx.Var:
    return tirx.Var(name, PointerType(PrimType(dtype), "global"))


def _rebuilt(function: tirx.PrimFunc, params: list[Any], body: list[tirx.Stmt]) -> tirx.PrimFunc:
    whole = tirx.SeqStmt(body) if len(body) > 1 else body[0]
    return tirx.PrimFunc(params, whole, function.ret_type, function.attrs, function.span)


def _object_bytes(compiled: Any) -> bytes:
    with tempfile.TemporaryDirectory(prefix="sparsec-") as folder:
        path = Path(folder) / "kernels.o"
        compiled.write_to_file(str(path), "o")
        return path.read_bytes()
