# SPDX-License-Identifier: Apache-2.0
import ctypes

import mpmath
import numpy as np
import pytest
import tvm
import wasmtime
from tvm import tirx
from tvm.script import tirx as T

from sparsec.backends import link
from sparsec.backends.isa import ISAS
from sparsec.backends.math import _FUNCTIONS
from sparsec.backends.tir import build_object, llvm_target, lower

BINARY = {"pow", "fmod", "hypot"}
UNARY = [name for name in _FUNCTIONS if name not in BINARY]
COUNT = 256
RANGES = {
    "asin": (-1, 1), "acos": (-1, 1), "atanh": (-0.99, 0.99), "acosh": (1, 50), "log": (1e-3, 10),
    "log2": (1e-3, 10), "log10": (1e-3, 10), "log1p": (-0.9, 10), "rsqrt": (1e-3, 10), "sin": (-100, 100),
    "cos": (-100, 100), "tan": (-100, 100), "sinh": (-80, 80), "cosh": (-80, 80), "exp": (-86, 88),
    "sigmoid": (-80, 80), "exp10": (-30, 30),
}  # fmt: skip
REFERENCE = {
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "round": mpmath.nint,
    "nearbyint": mpmath.nint,
    "exp2": lambda x: mpmath.mpf(2) ** x,
    "exp10": lambda x: mpmath.mpf(10) ** x,
    "log2": lambda x: mpmath.log(x, 2),
}
EDGES = np.array([0.0, np.inf, -np.inf, np.nan, 1e-20, -1e-20, -1.0, 2.5, 3.5, -2.5])


def unary(op, dtype, lanes=1):
    @T.prim_func
    def function(x: T.handle(dtype), y: T.handle(dtype)):
        X = T.decl_buffer((COUNT,), dtype, data=x)
        Y = T.decl_buffer((COUNT,), dtype, data=y)
        for i in T.serial(COUNT // lanes):
            for lane in T.vectorized(lanes):
                Y[i * lanes + lane] = op(X[i * lanes + lane])

    return function


def binary(op, dtype):
    @T.prim_func
    def function(x: T.handle(dtype), z: T.handle(dtype), y: T.handle(dtype)):
        X = T.decl_buffer((COUNT,), dtype, data=x)
        Z = T.decl_buffer((COUNT,), dtype, data=z)
        Y = T.decl_buffer((COUNT,), dtype, data=y)
        for i in T.serial(COUNT):
            Y[i] = op(X[i], Z[i])

    return function


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Every function, in every type, in one shared library for this machine."""
    functions = {f"{n}_{d}": unary(getattr(tirx, n), d) for n in UNARY for d in ("float32", "float64")}
    functions |= {f"{n}_{d}": binary(getattr(tirx, n), d) for n in BINARY for d in ("float32", "float64")}
    functions |= {f"{n}_vector": unary(getattr(tirx, n), "float32", 8) for n in UNARY}
    functions |= {f"{n}_float16": unary(getattr(tirx, n), "float16") for n in UNARY}
    path = tmp_path_factory.mktemp("math") / "libmath.so"
    link.shared_library([build_object(functions, ISAS["avx2"]).object], ISAS["avx2"], list(functions), path)
    return ctypes.CDLL(str(path))


def call(library, name, *args):
    result = np.empty_like(args[0])
    getattr(library, name)(*(ctypes.c_void_p(array.ctypes.data) for array in (*args, result)))
    return result


def samples(name, dtype):
    values = np.random.default_rng(7).uniform(*RANGES.get(name, (-20, 20)), COUNT)
    values[: len(EDGES)] = EDGES
    return values.astype(dtype)


def exact(name, x):
    """The true value of one float, by mpmath; NaN outside the function's domain."""
    if np.isnan(x):
        return x
    value = REFERENCE.get(name, getattr(mpmath, name, None))(mpmath.mpf(float(x)))
    return float(value) if mpmath.im(value) == 0 else np.nan


def errors(got, want):
    with np.errstate(all="ignore"):
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        return np.where(same, 0.0, np.abs((got - want) / want))


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 5e-7), ("float64", 1e-13)])
@pytest.mark.parametrize("name", UNARY)
def test_values_are_right_on_the_usual_range(library, name, dtype, bound):
    x = samples(name, dtype)[len(EDGES) :]
    want = np.array([exact(name, value) for value in x])
    assert errors(call(library, f"{name}_{dtype}", samples(name, dtype))[len(EDGES) :], want).max() < bound


WANTED = {
    "exp": [1, np.inf, 0, np.nan],
    "log": [-np.inf, np.inf, np.nan, np.nan],
    "tanh": [0, 1, -1, np.nan],
    "erf": [0, 1, -1, np.nan],
    "sigmoid": [0.5, 1, 0, np.nan],
    "sin": [0, np.nan, np.nan, np.nan],
    "atan": [0, np.pi / 2, -np.pi / 2, np.nan],
    "acosh": [np.nan, np.inf, np.nan, np.nan],
    "sinh": [0, np.inf, -np.inf, np.nan],
    "log1p": [0, np.inf, np.nan, np.nan],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", WANTED)
def test_zero_infinities_and_nan(library, name, dtype):
    got = call(library, f"{name}_{dtype}", samples(name, dtype))[:4]
    np.testing.assert_array_equal(got, np.array(WANTED[name], dtype))


def test_odd_functions_keep_tiny_arguments(library):
    for name in ("sin", "tan", "atan", "asin", "sinh", "tanh", "asinh", "atanh", "log1p"):
        got = call(library, f"{name}_float32", samples(name, "float32"))[4:6]
        np.testing.assert_allclose(got, [1e-20, -1e-20], rtol=2e-7)


def test_rounding_goes_to_even(library):
    got = call(library, "round_float32", samples("round", "float32"))[7:10]
    np.testing.assert_array_equal(got, [2.0, 4.0, -2.0])


@pytest.mark.parametrize("name", UNARY)
def test_vectors_and_scalars_agree(library, name):
    x = samples(name, "float32")
    np.testing.assert_array_equal(call(library, f"{name}_vector", x), call(library, f"{name}_float32", x))


@pytest.mark.parametrize("name", ["exp", "tanh", "log", "sin"])
def test_half_precision_is_rounded_from_more(library, name):
    x = np.random.default_rng(3).uniform(0.1, 8, COUNT).astype("float16")
    want = np.array([exact(name, value) for value in x]).astype("float16")
    np.testing.assert_allclose(call(library, f"{name}_float16", x), want, rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pow_and_fmod_follow_c(library, dtype):
    rng = np.random.default_rng(1)
    special = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 3.0, -3.0, np.inf, -np.inf, np.nan, 31.0, 1e3]
    x, y = (grid.ravel()[:196] for grid in np.meshgrid(special, special))
    x = np.concatenate([x, rng.uniform(0, 9, COUNT - 196)]).astype(dtype)
    y = np.concatenate([y, rng.uniform(-9, 9, COUNT - 196)]).astype(dtype)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(
            call(library, f"pow_{dtype}", x, y), np.power(x, y), rtol=1e-13 if dtype == "float64" else 5e-7
        )
        np.testing.assert_array_equal(call(library, f"fmod_{dtype}", x, y), np.fmod(x, y))


@pytest.mark.parametrize("name", ["simd128", "relaxed-simd"])
def test_webassembly_computes_the_same_without_fused_multiplication(library, name):
    functions = {f"{n}_{d}": unary(getattr(tirx, n), d) for n in UNARY for d in ("float16", "float32", "float64")}
    isa, store = ISAS[name], wasmtime.Store()
    module = wasmtime.Module(
        store.engine, link.wasm_module([build_object(functions, isa).object], isa, list(functions))
    )
    exports = wasmtime.Instance(store, module, []).exports(store)
    memory, start = exports["memory"], exports["__heap_base"].value(store)
    memory.grow(store, 1)
    for function in functions:
        op, dtype = function.rsplit("_", 1)
        x = samples(op, dtype)
        memory.write(store, x.tobytes(), start)
        exports[function](store, start, start + x.nbytes)
        got = np.frombuffer(memory.read(store, start + x.nbytes, start + 2 * x.nbytes), dtype)
        bound = {"float16": 1e-3, "float32": 6e-7, "float64": 1e-13}[dtype]
        assert errors(got.astype("float64"), call(library, function, x).astype("float64")).max() < bound, function


def test_trigonometry_of_huge_arguments_is_not_a_number(library):
    x = np.full(COUNT, 1e30, "float32")
    assert np.isnan(call(library, "sin_float32", x)).all()


def nested(depth):
    def op(x):
        for _ in range(depth):
            x = tirx.erf(tirx.tanh(x) * 2.0)
        return x

    return op


def test_functions_of_functions_grow_no_faster_than_their_number():
    target = tvm.target.Target(llvm_target(ISAS["avx2"]))
    sizes = [len(lower(unary(nested(depth), "float32"), "f", target)[0].script()) for depth in (2, 8)]
    assert sizes[1] < 5 * sizes[0]


def test_nested_functions_are_right(tmp_path):
    path = tmp_path / "libnested.so"
    compiled = build_object({"nested": unary(nested(3), "float64")}, ISAS["avx2"])
    link.shared_library([compiled.object], ISAS["avx2"], ["nested"], path)
    x = np.random.default_rng(2).uniform(-2, 2, COUNT)
    want = x
    for _ in range(3):
        want = np.array([float(mpmath.erf(2 * mpmath.tanh(value))) for value in want])
    np.testing.assert_allclose(call(ctypes.CDLL(str(path)), "nested", x), want, rtol=1e-13)


def test_a_guarded_argument_is_read_only_under_its_guard():
    def guarded(x):
        return tirx.if_then_else(x > 0.0, tirx.exp(tirx.tanh(x)), x)

    text = build_object({"guarded": unary(guarded, "float32")}, ISAS["avx2"]).llvm()
    assert "@expf" not in text
    assert "sparsec.math" not in text


def test_choosing_between_half_floats_compiles_for_webassembly():
    largest = unary(lambda x: tirx.max(x, tirx.const(0.5, "float16")), "float16")
    assert build_object({"f": largest}, ISAS["simd128"]).object[:4] == b"\0asm"
