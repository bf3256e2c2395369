# SPDX-License-Identifier: Apache-2.0
"""A hand-made program of four calls, its kernels in C, and what it must compute."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsec.backends import link, native
from sparsec.backends.build import Code, Kernels
from sparsec.backends.isa import Isa
from sparsec.backends.wasm import emit as wasm
from sparsec.compiler import artifact
from sparsec.compiler.artifact import Artifact, Contents
from sparsec.compiler.golden import Golden
from sparsec.compiler.load import open_runner
from sparsec.compiler.lowering.program import Call, Port, Program, Ref
from sparsec.compiler.target import Target

ROWS, COLUMNS = 5, 3

KERNELS = """
void scale(const float *x, const float *w, float *out) {
  for (int i = 0; i < 15; i++) out[i] = x[i] * w[i % 3];
}
void shift(const float *x, const long long *by, float *out) {
  for (int i = 0; i < 15; i++) out[i] = x[i] + (float)by[i % 3];
}
void reverse(const float *x, float *out, float *workspace) {
  for (int i = 0; i < 15; i++) workspace[14 - i] = x[i];
  for (int i = 0; i < 15; i++) out[i] = workspace[i];
}
void count(const unsigned char *mask, long long *out) {
  long long n = 0;
  for (int i = 0; i < 3; i++) n += mask[i];
  *out = n;
}
"""


def _program() -> Program:
    scales = np.array([2, 3, 4], np.float32).tobytes().ljust(64, b"\0")
    return Program(
        name="demo",
        inputs=(
            Port("image:0", "float32", (1, ROWS, COLUMNS)),
            Port("by", "int64", (COLUMNS,)),
            Port("mask", "bool", (COLUMNS,)),
        ),
        outputs=(Port("scores", "float32", (ROWS, COLUMNS)), Port("count", "int64", ())),
        calls=(
            Call("scale", (Ref("input", 0), Ref("weights", offset=64), Ref("arena")), "a"),
            Call("shift", (Ref("arena"), Ref("input", 1), Ref("arena", offset=64)), "b"),
            Call("reverse", (Ref("arena", offset=64), Ref("output", 0)), "c"),
            Call("count", (Ref("input", 2), Ref("output", 1)), "d"),
        ),
        specs={},
        functions={},
        arena_bytes=128,
        weights=bytes(64) + scales,
        layers=(),
    )


def reference(inputs: Mapping[str, Any]) -> dict[str, Any]:
    shifted = inputs["image:0"][0] * np.array([2, 3, 4], np.float32) + inputs["by"].astype(np.float32)
    return {
        "scores": shifted.ravel()[::-1].reshape(ROWS, COLUMNS).copy(),
        "count": np.array(inputs["mask"].sum(), np.int64),
    }


def sample(seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        "image:0": generator.standard_normal((1, ROWS, COLUMNS)).astype(np.float32),
        "by": np.array([-3, 0, 1 << 20], np.int64),
        "mask": np.array([True, False, True]),
    }


def compile_kernels(isa: Isa) -> Kernels:
    return Kernels((link.compile_c(KERNELS, isa),), {"reverse": 60, "scale": 0})


@dataclass(frozen=True)
class Demo:
    """The program, and how to compile it, write it and check it."""

    program: Program
    compile_kernels: Callable[[Isa], Kernels]
    reference: Callable[[Mapping[str, Any]], dict[str, Any]]
    sample: Callable[..., dict[str, Any]]

    def emit(self, target: str, folder: Path) -> Code:
        parsed = Target.parse(target)
        if parsed.name == "wasm":
            return wasm.emit(self.program, self.compile_kernels, folder)
        return native.emit(self.program, parsed, self.compile_kernels, folder)

    def write(self, target: str, folder: Path) -> Artifact:
        golden = Golden(self.sample(), self.reference(self.sample()))
        contents = Contents(self.program, Target.parse(target), "0" * 64, "version: 1\n", golden, {"layers": []})
        return artifact.write(folder, contents, lambda place: self.emit(target, place), open_runner)

    def check(self, found: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        expected = self.reference(inputs)
        assert list(found) == list(expected)
        for name, array in expected.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found[name], array)


@pytest.fixture(scope="session")
def demo() -> Demo:
    return Demo(_program(), compile_kernels, reference, sample)


@pytest.fixture(scope="session")
def built(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifact]:
    """The demo's artifact for a target, made once."""
    made: dict[str, Artifact] = {}

    def build(target: str) -> Artifact:
        if target not in made:
            made[target] = demo.write(target, tmp_path_factory.mktemp("artifacts") / target)
        return made[target]

    return build
