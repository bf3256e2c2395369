# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from tvm.script import tirx as T

from sparsec.backends import build, native
from sparsec.backends.isa import ISAS
from sparsec.compiler.artifact import Contents, write
from sparsec.compiler.golden import Golden
from sparsec.compiler.load import open_runner
from sparsec.compiler.lowering.program import Call, Port, Program, Ref
from sparsec.compiler.target import Target

COUNT = 14
X, Y = Port("x", "float32", (512,)), Port("y", "float32", (512,))


def add(value):
    @T.prim_func
    def function(x: T.handle("float32"), y: T.handle("float32")):
        X = T.decl_buffer((512,), "float32", data=x)
        Y = T.decl_buffer((512,), "float32", data=y)
        for i in T.serial(512):
            Y[i] = X[i] + T.float32(value)

    return function


def reverse():
    """Takes a workspace, as its temporary is too large for the stack."""

    @T.prim_func
    def function(x: T.handle("float32"), y: T.handle("float32")):
        X = T.decl_buffer((512,), "float32", data=x)
        Y = T.decl_buffer((512,), "float32", data=y)
        Z = T.alloc_buffer((512,), "float32")
        for i in T.serial(512):
            Z[511 - i] = X[i]
        for i in T.serial(512):
            Y[i] = Z[i] * T.float32(2)

    return function


@pytest.fixture(scope="module")
def functions():
    return {**{f"add_{i}": add(i) for i in range(COUNT - 1)}, "reverse": reverse()}


def silent(what, done, total):
    pass


def test_the_bytes_depend_neither_on_threads_nor_on_order(functions, monkeypatch):
    isa = ISAS["relaxed-simd"]
    first = build.compile_functions(functions, isa, silent)
    monkeypatch.setattr(build.os, "cpu_count", lambda: 1)
    shuffled = dict(sorted(functions.items(), key=lambda item: hash(item[0])))
    assert build.compile_functions(shuffled, isa, silent) == first
    assert first.workspace_bytes["reverse"] == 2048
    assert first.workspace_bytes["add_3"] == 0


def test_progress_starts_at_nothing_and_ends_with_all(functions):
    told = []
    build.compile_functions(functions, ISAS["avx2"], lambda *news: told.append(news))
    assert told[0] == ("kernels for avx2", 0, COUNT)
    assert told[-1] == ("kernels for avx2", COUNT, COUNT)
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})


def test_no_functions_are_no_objects():
    assert build.compile_functions({}, ISAS["avx2"], silent) == build.Kernels((), {})


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interruption_gets_out(functions, error):
    def interrupt(what, done, total):
        raise error

    with pytest.raises(error):
        build.compile_functions(functions, ISAS["avx2"], interrupt)


def test_functions_become_an_artifact(functions, tmp_path):
    calls = [
        Call("add_1", (Ref("input"), Ref("arena")), "a"),
        Call("reverse", (Ref("arena"), Ref("arena", offset=2048)), "b"),
        Call("add_12", (Ref("arena", offset=2048), Ref("output")), "c"),
    ]
    program = Program("m", (X,), (Y,), tuple(calls), {}, functions, 4096, b"", ())
    x = np.arange(512, dtype=np.float32)
    golden = Golden({"x": x}, {"y": (x + 1)[::-1] * 2 + 12})
    contents = Contents(program, Target("x86"), "0" * 64, "", golden, {})

    def compile_kernels(isa):
        return build.compile_functions(functions, isa, silent)

    artifact = write(
        tmp_path / "out", contents, lambda at: native.emit(program, Target("x86"), compile_kernels, at), open_runner
    )
    assert artifact.verify() == {"y": 0.0}
    assert artifact.manifest.arena_bytes == 4096 + 2048
    for name in ("libmodel.a", "libmodel.so"):
        assert b".debug" not in (artifact.folder / name).read_bytes()
