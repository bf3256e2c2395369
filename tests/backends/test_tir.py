# SPDX-License-Identifier: Apache-2.0
import hashlib
import subprocess
import sys

import pytest
from tvm import te, tirx
from tvm.script import tirx as T

from sparsec.backends.isa import ISAS
from sparsec.backends.tir import ALIGNMENT, STACK_BYTES, build_object


def scale(n):
    @T.prim_func
    def function(x: T.handle("float32"), y: T.handle("float32")):
        X = T.decl_buffer((n,), "float32", data=x)
        Y = T.decl_buffer((n,), "float32", data=y)
        for i in T.serial(n):
            Y[i] = X[i] * 3.0

    return function


def twice_through_memory(n):
    """Buffer parameters and a temporary, as TVM's own operators have them."""
    x = te.placeholder((n,), "float32", name="x")
    middle = te.compute((n,), lambda i: x[i] + 1.0, name="middle")
    y = te.compute((n,), lambda i: middle[i] * middle[n - 1 - i], name="y")
    return te.create_prim_func([x, y])


@pytest.mark.parametrize("isa", ISAS.values(), ids=ISAS)
def test_objects_are_of_the_architecture(isa):
    compiled = build_object({"scale": scale(64)}, isa)
    head = b"\0asm" if isa.wasm else b"\x7fELF"
    assert compiled.object[:4] == head
    assert compiled.workspace_bytes == {"scale": 0}
    assert "@scale(ptr noalias" in compiled.llvm()


def test_assembly_uses_the_widest_registers():
    assert "zmm" in build_object({"scale": scale(64)}, ISAS["avx512vnni"]).asm()
    assert "ymm" in build_object({"scale": scale(64)}, ISAS["avx2"]).asm()
    assert "f32x4.mul" in build_object({"scale": scale(64)}, ISAS["simd128"]).asm()


def test_small_temporaries_stay_on_the_stack():
    compiled = build_object({"f": twice_through_memory(STACK_BYTES // 4)}, ISAS["avx2"])
    assert compiled.workspace_bytes == {"f": 0}


def test_large_temporaries_become_a_workspace_parameter():
    compiled = build_object({"f": twice_through_memory(STACK_BYTES // 4 + 1)}, ISAS["avx2"])
    assert compiled.workspace_bytes == {"f": STACK_BYTES + ALIGNMENT}
    assert compiled.llvm().count("ptr noalias", 0, compiled.llvm().index("local_unnamed_addr")) == 3


def test_a_function_may_call_another():
    @T.prim_func
    def entry(x: T.handle("float32"), y: T.handle("float32")):
        T.evaluate(T.call_extern("void", "scale", x, y))

    assert "scale" in build_object({"entry": entry, "scale": scale(8)}, ISAS["avx2"]).asm()


PROGRAM = """
import hashlib, sys
sys.path.insert(0, {folder!r})
from test_tir import ISAS, build_object, scale, twice_through_memory
functions = {{"a": scale(100), "b": twice_through_memory(999)}}
print([hashlib.sha256(build_object(functions, ISAS[name]).object).hexdigest() for name in ("avx2", "simd128")])
"""


def test_another_process_gives_the_same_bytes(request):
    functions = {"a": scale(100), "b": twice_through_memory(999)}
    here = [hashlib.sha256(build_object(functions, ISAS[n]).object).hexdigest() for n in ("avx2", "simd128")]
    source = PROGRAM.format(folder=str(request.path.parent))
    there = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == str(here)


def test_parameters_keep_their_order():
    n = tirx.const(4, "int32")
    x = te.placeholder((n,), "float32", name="x")
    z = te.placeholder((n,), "float32", name="z")
    y = te.compute((n,), lambda i: x[i] - z[i], name="y")
    text = build_object({"f": te.create_prim_func([x, z, y])}, ISAS["avx2"]).llvm()
    head = text[text.index("define") :].split("\n")[0]
    assert head.index("%x") < head.index("%z") < head.index("%y")
