# SPDX-License-Identifier: Apache-2.0
"""Artifacts for several threads: the same bits as with one, in Python and in C, natively and under qemu."""

import ctypes
import re
import shutil
import subprocess
import threading
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.backends import isa, link, native, thread_entry
from sparsec.compiler.errors import ArtifactError, TargetError
from sparsec.compiler.load import load
from sparsec.compiler.lowering import select, threads
from sparsec.compiler.target import Target, check_threads, cores
from sparsec.models.catalog import MODELS

QEMU = (
    pytest.mark.qemu,
    pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="found no qemu-aarch64 (Debian: qemu-user)"),
)
RNG = np.random.default_rng(3)


def normal(*shape):
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


@pytest.fixture(scope="module")
def pair(demo):
    """The demo for two threads: what does not depend on each other runs at once."""
    scale, shift, reverse, count = demo.program.calls
    calls = (
        scale,
        replace(count, thread=1),
        replace(shift, thread=1, stage=1),
        replace(reverse, stage=2),
    )
    return replace(demo, program=replace(demo.program, calls=calls, threads=2))


@pytest.fixture(scope="module")
def written(pair, tmp_path_factory):
    return {name: pair.write(name, tmp_path_factory.mktemp("threads") / name) for name in ("x86", "arm")}


def odd_network():
    """Channels that are no multiples of four, strides, groups, a residual, pooling, a matrix product."""
    shapes = {
        "stem": (18, 3, 3, 3), "wide": (70, 18, 1, 1), "deep": (70, 1, 5, 5), "narrow": (18, 70, 1, 1),
        "groups": (36, 9, 3, 3), "square": (64, 36, 1, 1), "again": (61, 64, 1, 1),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["a"], pads=[0, 0, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "wide"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "deep"], ["e"], pads=[2, 2, 2, 2], group=70),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("Conv", ["f", "narrow"], ["g"]),
        helper.make_node("Add", ["g", "b"], ["h"]),
        helper.make_node("Conv", ["h", "groups"], ["i"], pads=[1, 1, 1, 1], strides=[2, 2], group=2),
        helper.make_node("Relu", ["i"], ["j"]),
        helper.make_node("Conv", ["j", "square"], ["k"]),
        helper.make_node("Relu", ["k"], ["l"]),
        helper.make_node("Conv", ["l", "again"], ["m"]),
        helper.make_node("MaxPool", ["m"], ["n"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["n"], ["o"]),
        helper.make_node("Flatten", ["o"], ["p"]),
        helper.make_node("Gemm", ["p", "head"], ["q"], transB=1),
        helper.make_node("Softmax", ["q"], ["y"]),
    ]
    for node in nodes:
        node.name = node.output[0]
    weights = {**{name: normal(*shape) for name, shape in shapes.items()}, "head": normal(35, 61)}
    graph = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 37, 33])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


SOURCES = {
    "odd": (odd_network(), {"x": RNG.standard_normal((16, 1, 3, 37, 33)).astype(np.float32)}),
    **{name: (MODELS[name].build(), MODELS[name].inputs("calibration")) for name in ("tiny-cnn", "tiny-transformer")},
}
BLOCKS = "prune-blocks{rows=4 cols=4 density=0.3 score=magnitude update=none min_weights=0}"
COLUMNS = "prune-blocks{rows=4 cols=1 density=0.3 score=magnitude update=none min_weights=0}"


def compiled(name, passes, folder, count=1, target="x86"):
    model, samples = SOURCES[name]
    return sparsec.compile(model, target, None, samples, output=folder, passes=passes, threads=count, name="net")


@pytest.fixture
def always(monkeypatch):
    """Cut every op, take sparse kernels, and run on as many threads as asked, however few cores there are."""
    monkeypatch.setattr(threads, "SMALLEST_US", 1e-6)
    monkeypatch.setattr(threads, "_GAIN", 1.5)
    monkeypatch.setattr(select, "MARGIN", 100.0)
    monkeypatch.setattr(native, "cores", lambda: 16)


@pytest.mark.parametrize(
    ("name", "passes", "count", "sparse"),
    [
        ("odd", (), 2, False),
        ("odd", (), 3, False),
        ("odd", (COLUMNS,), 2, True),
        ("odd", ("quantize",), 3, False),
        ("odd", (BLOCKS, "quantize"), 2, True),
        ("odd", (BLOCKS, "quantize"), 3, True),
        ("tiny-cnn", (BLOCKS, "quantize"), 2, True),
        ("tiny-transformer", (), 3, False),
        ("tiny-transformer", ("quantize",), 2, False),
    ],
)
def test_bits_do_not_depend_on_the_number_of_threads(name, passes, count, sparse, tmp_path, always):
    alone, together = (compiled(name, passes, tmp_path / str(n), n) for n in (1, count))
    assert (alone.manifest.threads, together.manifest.threads) == (1, count)
    for artifact in (alone, together):
        assert sparse == any(kernel.pattern != "dense" for kernel in artifact.manifest.kernels)
    assert together.manifest.weight_bytes < 1.3 * alone.manifest.weight_bytes
    _, samples = SOURCES[name]
    with alone, together:
        for i in range(5):
            feeds = {key: array[i] for key, array in samples.items()}
            expected = alone.run(feeds)
            for key, array in together.run(feeds).items():
                np.testing.assert_array_equal(array.view(np.uint32), expected[key].view(np.uint32))


def test_the_same_model_gives_the_same_bytes(tmp_path, always):
    folders = [compiled("odd", (), tmp_path / name, 2).folder for name in "ab"]
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert contents[0] == contents[1]


def test_a_small_model_waits_once(tmp_path):
    """Nothing is worth a second thread here, so nothing is cut."""
    model, _ = SOURCES["tiny-transformer"]
    source = sparsec.compile(model, "x86", output=tmp_path / "a", threads=4, name="net")
    assert source.manifest.threads == 4
    source.verify()


def test_in_python(pair, written):
    with written["x86"] as artifact:
        for seed in range(200):
            pair.check(artifact.run(pair.sample(seed)), pair.sample(seed))


def test_with_too_few_cores_one_thread_does_it_all(pair, written, monkeypatch):
    monkeypatch.setattr(native, "cores", lambda: 1)
    with written["x86"] as artifact:
        before = threading.active_count()
        pair.check(artifact.run(pair.sample()), pair.sample())
        assert threading.active_count() == before


def test_a_manifest_of_another_number_is_refused_instead_of_waiting_for_ever(pair, tmp_path, monkeypatch, always):
    artifact = replace(pair, program=replace(pair.program, threads=3)).write("x86", tmp_path / "three")
    path = artifact.folder / "manifest.json"
    path.write_text(path.read_text().replace('"threads": 3', '"threads": 2'))
    with pytest.raises(ArtifactError) as caught, load(artifact.folder) as other:
        other.run(pair.sample())
    assert str(caught.value) == (
        "The artifact's library is made for 3 threads, its manifest says 2. Verify the artifact."
    )


def test_threads_end_with_the_artifact(pair, written, always):
    before = threading.active_count()
    with written["x86"] as artifact:
        artifact.run(pair.sample())
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_under_qemu_one_thread_does_it_all(pair, written):
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("found no qemu-aarch64 (Debian: qemu-user)")
    with written["arm"] as artifact:
        pair.check(artifact.run(pair.sample()), pair.sample())


MAIN = r"""
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include "model.h"
%(example)s

static pthread_mutex_t door = PTHREAD_MUTEX_INITIALIZER;
static void *again(void *number) {
  intptr_t wrong = 0;
  for (int i = 0; i < 1000; i++)
    wrong += demo_run_thread(weights, arena, inputs, outputs, sync, (int)(intptr_t)number) || output_0[14] != 12;
  return (void *)wrong;
}

int main(int count, char **words) {
  if (count != 2 || !fread(weights, sizeof weights, 1, fopen(words[1], "rb"))) return 9;
  const float image[] = {1, 2, 3};
  const int64_t by[] = {10, 20, 30};
  const unsigned char mask[] = {1, 1, 0};
  memcpy(input_0, image, sizeof image), memcpy(input_1, by, sizeof by), memcpy(input_2, mask, sizeof mask);
  int status = 0;
  for (int i = 0; i < 20; i++) {
    memset(arena, i, sizeof arena), memset(output_0, i, sizeof output_0);
    status |= run() || output_0[14] != 12 || output_0[13] != 26 || output_0[12] != 42;
  }
  pthread_t other;
  pthread_create(&other, 0, again, (void *)(intptr_t)1);
  void *theirs, *ours = again(0);
  pthread_join(other, &theirs);
  (void)door;
  printf("%%d %%d %%d %%d %%d\n", status, (int)(intptr_t)ours, (int)(intptr_t)theirs, demo_threads(), (int)output_1[0]);
}
"""


def examples(header):
    """The C code that a header shows, its calls of NAME_run left out."""
    lines = re.findall(r"^ \*     (.*)$", header, re.MULTILINE)
    return "\n".join(line for line in lines if "demo_run(" not in line)


@pytest.mark.parametrize("target", ["x86", pytest.param("arm", marks=QEMU)])
def test_the_example_of_the_header_runs(written, tmp_path, target):
    folder, program = written[target].folder, tmp_path / "main"
    (tmp_path / "main.c").write_text(MAIN % {"example": examples((folder / "model.h").read_text())})
    link.executable([tmp_path / "main.c"], [folder / "libmodel.a"], isa.for_target(Target(target)), program)
    command = [*(["qemu-aarch64"] if target == "arm" else []), program, folder / "weights.bin"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == "0 0 0 2 2\n"


@pytest.mark.parametrize("target", ["x86", "arm"])
def test_the_header_compiles_without_warnings(written, tmp_path, target):
    if shutil.which("gcc") is None:
        pytest.skip("found no gcc")
    (tmp_path / "main.c").write_text('#include "model.h"\nint main(void) { return demo_threads() != DEMO_THREADS; }\n')
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{written[target].folder}", "-c"]
    subprocess.run(["gcc", *flags, "main.c"], cwd=tmp_path, check=True)


def test_bad_pointers_and_numbers_are_refused_before_anything_is_written(written, pair):
    library = ctypes.CDLL(str(written["x86"].folder / "libmodel.so"))
    arrays = [pair.sample()[port.name] for port in pair.program.inputs]
    outputs = [np.full(15, 7, np.float32), np.full(1, 7, np.int64)]
    weights, arena = native.aligned(128), native.aligned(1024)
    sync = native.aligned(thread_entry.SYNC_BYTES + 8)
    tables = [(ctypes.c_void_p * len(t))(*(a.ctypes.data for a in t)) for t in (arrays, outputs)]

    def run(sync, thread, arena=arena.ctypes.data):
        blocks = (weights.ctypes.data, arena)
        return library.demo_run_thread(*map(ctypes.c_void_p, blocks), *tables, ctypes.c_void_p(sync), thread)

    assert run(None, 0) == 1
    assert run(sync.ctypes.data + 8, 0) == 2
    assert run(sync.ctypes.data, 0, arena=None) == 1
    assert run(sync.ctypes.data, 2) == run(sync.ctypes.data, -1) == 3
    assert all((array == 7).all() for array in outputs)
    assert not sync.any()


def test_one_thread_has_nothing_of_it(demo, built):
    assert thread_entry.source(demo.program) == ""
    assert thread_entry.declarations(demo.program) == []
    assert thread_entry.functions(demo.program) == ()
    assert "thread" not in (built("x86").folder / "model.h").read_text().replace("any number of threads", "").replace(
        "each thread that runs", ""
    )


@pytest.mark.parametrize("given", [0, 17, -1, 2.0, True, "2"])
def test_a_wrong_number_is_refused(given):
    with pytest.raises(TargetError) as caught:
        sparsec.compile("none.onnx", "x86", threads=given)
    assert str(caught.value) == f"Option 'threads' is {given!r}; expected a whole number in 1..16."


def test_webassembly_is_refused():
    with pytest.raises(TargetError) as caught:
        sparsec.compile("none.onnx", "wasm+relaxed-simd", threads=2)
    assert str(caught.value) == (
        "Target 'wasm+relaxed-simd': option 'threads' is 2, but its artifacts run on one thread. "
        "Leave the option out, or compile for x86 or arm."
    )
    check_threads(1, Target("wasm"))


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 3, 5}, raising=False)
    assert cores() == 3
