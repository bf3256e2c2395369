# SPDX-License-Identifier: Apache-2.0
import ctypes
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from sparsec.backends import native, symbols
from sparsec.compiler.errors import ArtifactError, TargetError
from sparsec.compiler.lowering.program import Ref
from sparsec.compiler.target import Target

TEN_LINES = r"""
#include <stdio.h>
#include "model.h"
static _Alignas(DEMO_ALIGNMENT) unsigned char weights[DEMO_WEIGHTS_BYTES], arena[DEMO_ARENA_BYTES];
int main(void) {
  float image[DEMO_INPUT_IMAGE_0_LENGTH] = {1, 2, 3}, scores[DEMO_OUTPUT_SCORES_LENGTH];
  int64_t by[] = {10, 20, 30}, count;
  unsigned char mask[] = {1, 1, 0};
  if (!fread(weights, sizeof weights, 1, fopen("weights.bin", "rb"))) return 9;
  int status = demo_run(weights, arena, (const void *[]){image, by, mask}, (void *[]){scores, &count});
  printf("%d %g %g %g %d\n", status, scores[14], scores[13], scores[12], (int)count);
}
"""
COMPILERS = {"gcc": ["gcc"], "zig": [sys.executable, "-m", "ziglang", "cc"]}


def archive_object(path):
    """The one member of an archive: behind an index and perhaps a table of long names."""
    data = path.read_bytes()
    at, found = 8, []
    while at < len(data):
        name, size = data[at : at + 16].strip(), int(data[at + 48 : at + 58])
        if not name.startswith((b"/ ", b"//")) and name != b"/":
            found.append(data[at + 60 : at + 60 + size])
        at += 60 + size + size % 2
    assert len(found) == 1
    return found[0]


def global_symbols(data):
    table, names = symbols._tables(data)
    entries = (symbols._SYMBOL.unpack_from(data, at) for at in symbols._offsets(table, symbols._SYMBOL))
    return {symbols._text(data, names, entry[0]) for entry in entries if entry[1] >> 4}


@pytest.fixture
def x86(built):
    return built("x86")


def test_it_computes_what_it_must(demo, x86):
    for seed in range(3):
        demo.check(x86.run(demo.sample(seed)), demo.sample(seed))


def test_files(x86):
    names = {"model.h", "libmodel.a", "libmodel.so", "weights.bin", "selftest.npz", "report.json"}
    assert set(x86.manifest.files) == names


@pytest.mark.parametrize("target", ["x86", "arm"])
def test_only_the_interface_is_global_in_the_archive(built, target):
    folder = built(target).folder
    assert global_symbols(archive_object(folder / "libmodel.a")) == {"demo_run", "demo_arena_bytes"}


@pytest.mark.parametrize("target", ["x86", "arm"])
def test_the_shared_library_needs_no_other(built, target):
    assert dynamic_symbols(built(target).folder / "libmodel.so") == {"demo_run", "demo_arena_bytes"}


def dynamic_symbols(path):
    """Names in .dynsym; asserts that all are defined and that no other library is needed."""
    data = path.read_bytes()
    sections = [s for s in symbols._sections(data) if s.kind == 11]
    names = list(symbols._sections(data))[sections[0].link]
    entries = [symbols._SYMBOL.unpack_from(data, at) for at in symbols._offsets(sections[0], symbols._SYMBOL)][1:]
    assert all(entry[3] for entry in entries)
    assert not any(s.kind == 6 and needed(data, s) for s in symbols._sections(data))
    return {symbols._text(data, names, entry[0]) for entry in entries}


def needed(data, dynamic):
    """Whether a dynamic section has an entry NEEDED."""
    return any(
        int.from_bytes(data[at : at + 8], "little") == 1
        for at in range(dynamic.offset, dynamic.offset + dynamic.size, 16)
    )


@pytest.mark.parametrize("compiler", COMPILERS)
def test_ten_lines_of_c_link_the_archive(x86, tmp_path, compiler):
    if shutil.which(COMPILERS[compiler][0]) is None:
        pytest.skip(f"found no {compiler}")
    (tmp_path / "main.c").write_text(TEN_LINES)
    command = [*COMPILERS[compiler], "-std=c11", "-Wall", "-Werror", f"-I{x86.folder}", "main.c"]
    subprocess.run([*command, str(x86.folder / "libmodel.a"), "-o", "main"], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "main"], cwd=x86.folder, capture_output=True, text=True, check=True)
    assert done.stdout == "0 12 26 42 2\n"


def entry(folder):
    library = ctypes.CDLL(str(folder / "libmodel.so"))
    library.demo_arena_bytes.restype = ctypes.c_size_t
    return library


def test_bad_pointers_are_refused_before_anything_is_written(x86, demo):
    library = entry(x86.folder)
    inputs = [demo.sample()[port.name] for port in demo.program.inputs]
    outputs = [np.full(15, 7, np.float32), np.full(1, 7, np.int64)]
    weights, arena = native.aligned(128), native.aligned(library.demo_arena_bytes() + 64)
    good = (weights.ctypes.data, arena.ctypes.data, [a.ctypes.data for a in inputs], [a.ctypes.data for a in outputs])

    def run(weights, arena, inputs, outputs):
        tables = [(ctypes.c_void_p * len(t))(*t) if t else None for t in (inputs, outputs)]
        return library.demo_run(ctypes.c_void_p(weights), ctypes.c_void_p(arena), *tables)

    ins, outs = good[2], good[3]
    for case in ((None, *good[1:]), (good[0], None, ins, outs), (*good[:2], None, outs), (*good[:3], None)):
        assert run(*case) == 1
    assert run(*good[:2], [ins[0], None, ins[2]], outs) == 1
    assert run(*good[:2], ins, [outs[0], None]) == 1
    assert run(good[0] + 4, *good[1:]) == 2
    assert run(good[0], good[1] + 32, ins, outs) == 2
    assert run(*good[:2], [ins[0], ins[1] + 4, ins[2]], outs) == 2
    assert all((array == 7).all() for array in outputs)
    assert run(*good) == 0


def test_threads_with_arenas_of_their_own_do_not_disturb_each_other(x86, demo):
    runners = [native.Runner(x86.folder, x86.manifest) for _ in range(2)]

    def work(index):
        for seed in range(index, 200, 2):
            inputs = demo.sample(seed)
            arrays = [inputs[port.name] for port in demo.program.inputs]
            scores, count = runners[index].run(arrays)
            demo.check({"scores": scores, "count": count}, inputs)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))


def test_threads_may_share_an_artifact(x86, demo):
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda seed: x86.run(demo.sample(seed)), range(50)))
    for seed, outputs in enumerate(found):
        demo.check(outputs, demo.sample(seed))


def test_a_replaced_artifact_runs_its_new_code(demo, tmp_path):
    first = demo.write("x86", tmp_path / "out")
    first.run(demo.sample())
    scale = replace(demo.program.calls[0], args=(Ref("input", 0), Ref("weights"), Ref("arena")))
    calls = (scale, *demo.program.calls[1:])
    second = replace(demo, program=replace(demo.program, calls=calls)).write("x86", tmp_path / "out")
    expected = np.array([1 << 20, 0, -3] * 5, np.float32).reshape(5, 3)
    np.testing.assert_array_equal(second.run(demo.sample())["scores"], expected)


@pytest.mark.parametrize("target", ["x86", "arm", "wasm"])
def test_same_in_same_out(built, demo, tmp_path, target):
    again = demo.write(target, tmp_path / "again")
    for path in built(target).folder.iterdir():
        assert (again.folder / path.name).read_bytes() == path.read_bytes(), path.name


def test_code_that_the_processor_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(native, "host", lambda: Target("x86"))
    native.require_host(Target("x86"))
    with pytest.raises(TargetError, match=r"Target 'x86\+avx512vnni': this machine is 'x86', which lacks avx512vnni\."):
        native.require_host(Target("x86", ("avx512vnni",)))
    with pytest.raises(TargetError, match=r"Target 'arm': this machine is 'x86'\."):
        native.require_host(Target("arm"))


def test_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr(native.platform, "system", lambda: "Darwin")
    with pytest.raises(TargetError, match=r"Target 'x86': its library is for Linux, this machine runs 'Darwin'\."):
        native.require_host(Target("x86"))


def test_a_library_that_is_none_is_refused(x86, demo, tmp_path):
    shutil.copytree(x86.folder, tmp_path / "bad")
    (tmp_path / "bad" / "libmodel.so").write_bytes(b"\0" * 3000)
    with pytest.raises(ArtifactError, match=r"cannot load 'libmodel.so'"):
        native.Runner(tmp_path / "bad", x86.manifest)


def test_code_bytes_leave_out_symbols(x86):
    assert 200 < x86.manifest.code_bytes < 2000
