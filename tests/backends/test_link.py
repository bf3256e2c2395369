# SPDX-License-Identifier: Apache-2.0
import ctypes
import importlib.util

import numpy as np
import pytest
import wasmtime
from tvm.script import tirx as T

from sparsec.backends import link
from sparsec.backends.isa import ISAS
from sparsec.backends.symbols import undefined
from sparsec.backends.tir import build_object
from sparsec.compiler.errors import ToolchainError

COUNT = 1000
X86 = ISAS["avx2"]


@T.prim_func
def copy(x: T.handle("float32"), y: T.handle("float32")):
    """LLVM makes calls of memcpy and memset of such loops."""
    X = T.decl_buffer((COUNT,), "float32", data=x)
    Y = T.decl_buffer((COUNT,), "float32", data=y)
    for i in T.serial(COUNT):
        Y[i] = X[i]
    for i in T.serial(COUNT):
        X[i] = T.float32(0)


@T.prim_func
def narrow(x: T.handle("float64"), y: T.handle("float16")):
    X = T.decl_buffer((COUNT,), "float64", data=x)
    Y = T.decl_buffer((COUNT,), "float16", data=y)
    for i in T.serial(COUNT):
        Y[i] = T.cast(X[i], "float16")


@T.prim_func
def needs(x: T.handle("float32")):
    T.evaluate(T.call_extern("void", "nowhere", x))


def objects(isa):
    return [build_object({"model_run": copy}, isa).object, build_object({"model_half": narrow}, isa).object]


@pytest.mark.parametrize("isa", [ISAS["avx2"], ISAS["neon"]], ids=["avx2", "neon"])
def test_a_combined_object_needs_nothing(isa):
    assert "memcpy" in undefined(objects(isa)[0])
    assert undefined(link.combine(objects(isa), isa, ["model_run"])) == ()


def test_what_is_kept_is_global():
    whole = link.combine(objects(X86), X86, ["model_run"])
    with pytest.raises(ToolchainError, match="duplicate symbol: model_run"):
        link.combine([whole, whole], X86, ["model_run"])


def test_two_models_link_together(tmp_path):
    first = link.combine([build_object({"a_run": copy, "kernel": narrow}, X86).object], X86, ["a_run"])
    second = link.combine([build_object({"b_run": copy, "kernel": narrow}, X86).object], X86, ["b_run"])
    path = tmp_path / "libboth.so"
    link.shared_library([first, second], X86, ["a_run", "b_run"], path)
    both = ctypes.CDLL(str(path))
    assert hasattr(both, "a_run")
    assert hasattr(both, "b_run")
    assert not hasattr(both, "kernel")


def test_a_shared_library_runs(tmp_path):
    path = tmp_path / "libmodel.so"
    link.shared_library(objects(X86), X86, ["model_run", "model_half"], path)
    library = ctypes.CDLL(str(path))
    x, y = np.arange(COUNT, dtype="float32"), np.empty(COUNT, "float32")
    library.model_run(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data))
    np.testing.assert_array_equal(y, np.arange(COUNT))
    assert not x.any()


def test_double_to_half_is_rounded_once(tmp_path):
    path = tmp_path / "libmodel.so"
    link.shared_library(objects(X86), X86, ["model_half"], path)
    x, y = np.random.default_rng(0).normal(0, 1e4, COUNT), np.empty(COUNT, "float16")
    x[:8] = [np.nan, np.inf, -np.inf, 65519.99, 65520, 1 + 2**-11 + 2**-40, 3 * 2**-26, -(2**-25)]
    ctypes.CDLL(str(path)).model_half(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(y, x.astype("float16"))


@pytest.mark.parametrize("name", ["simd128", "relaxed-simd"])
def test_a_wasm_module_has_no_imports_and_runs(name):
    data = link.wasm_module(objects(ISAS[name]), ISAS[name], ["model_run", "model_half"])
    store = wasmtime.Store()
    module = wasmtime.Module(store.engine, data)
    assert not module.imports
    exports = wasmtime.Instance(store, module, []).exports(store)
    memory, base = exports["memory"], exports["__heap_base"].value(store)
    memory.grow(store, 1)
    x = np.arange(COUNT, dtype="float32")
    memory.write(store, x.tobytes(), base)
    exports["model_run"](store, base, base + x.nbytes)
    assert memory.read(store, base + x.nbytes, base + 2 * x.nbytes) == x.tobytes()
    halves = np.array([1.5, -65519.99, 1e-7] + [0] * (COUNT - 3))
    memory.write(store, halves.tobytes(), base)
    exports["model_half"](store, base, base + halves.nbytes)
    got = np.frombuffer(memory.read(store, base + halves.nbytes, base + halves.nbytes + 6), "float16")
    np.testing.assert_array_equal(got, halves[:3].astype("float16"))


def test_the_same_objects_give_the_same_bytes(tmp_path):
    first, second = (link.combine(objects(X86), X86, ["model_run"]) for _ in range(2))
    assert first == second
    for name in "ab":
        link.archive({"model.o": first}, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes().startswith(b"!<arch>\n")


@pytest.mark.parametrize("isa", [ISAS["avx2"], ISAS["simd128"]], ids=["elf", "wasm"])
def test_an_undefined_function_is_named(isa):
    data = build_object({"needs": needs}, isa).object
    with pytest.raises(ToolchainError, match="nowhere"):
        link.wasm_module([data], isa, ["needs"]) if isa.wasm else link.combine([data], isa, ["needs"])


def test_c_errors_carry_the_compilers_words():
    with pytest.raises(ToolchainError, match=r"(?s)'cc' failed.*undeclared"):
        link.compile_c("int f(void) { return missing; }", X86)


def test_c_is_compiled():
    assert undefined(link.compile_c("extern int g(void); int f(void) { return g(); }", X86)) == ("g",)


def test_a_missing_toolchain_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match="pip install ziglang"):
        link.compile_c("int f;", X86)


def test_a_hanging_tool_is_stopped(tmp_path):
    with pytest.raises(ToolchainError, match="timed out"):
        link.run_tool(("version",), tmp_path, timeout=0.0)
