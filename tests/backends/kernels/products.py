# SPDX-License-Identifier: Apache-2.0
"""What the tests of multiply-accumulate kernels share: data, references of their own, and running specs anywhere."""

import ctypes
import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.pad import PadKernel
from sparsec.backends.kernels.reference import finish_channels, finish_plain, group4
from sparsec.backends.link import shared_library
from sparsec.backends.tir import build_object
from sparsec.compiler.lowering.expression import IDENTITY, Builder, Expression
from sparsec.compiler.lowering.kernel import KernelSpec
from sparsec.compiler.lowering.ops import PLAIN, BatchMatMul, Convolution, Epilogue, Linear
from sparsec.compiler.pattern import parse_pattern
from sparsec.compiler.target import host
from tests.backends.harness import Case, relative_error, run

Array = NDArray[Any]


def affine() -> Expression:
    """min(max(a0 * a1 + a2, 0), 6)."""
    b = Builder()
    value = b.call("add", b.call("mul", b.arg(0), b.arg(1)), b.arg(2))
    return b.build(b.call("min", b.call("max", value, b.const(0)), b.const(6)))


def add_residual() -> Expression:
    """a0 * a1 + a2."""
    b = Builder()
    return b.build(b.call("add", b.call("mul", b.arg(0), b.arg(1)), b.arg(2)))


def requantize() -> Expression:
    """Clamp a0 * a1 + a2 to 0..127 and round, in the order in which lowering writes it."""
    b = Builder()
    value = b.call("add", b.call("mul", b.arg(0), b.arg(1)), b.arg(2))
    return b.build(b.call("round", b.call("min", b.call("max", value, b.const(0)), b.const(127))))


def requantize_sum() -> Expression:
    """Round a0 * a1 + (a2 - 64) * a3 and clamp to 0..127."""
    b = Builder()
    other = b.call("mul", b.call("sub", b.arg(2), b.const(64)), b.arg(3))
    value = b.call("round", b.call("add", b.call("mul", b.arg(0), b.arg(1)), other))
    return b.build(b.call("min", b.call("max", value, b.const(0)), b.const(127)))


PLAIN_SUM = Epilogue(IDENTITY)
AFFINE = Epilogue(affine(), ("channel", "channel"))
RESIDUAL = Epilogue(add_residual(), ("scalar", "full"))
REQUANTIZE = Epilogue(requantize(), ("channel", "channel"), "uint8")
REQUANTIZE_SUM = Epilogue(requantize_sum(), ("channel", "codes", "scalar"), "uint8")
MIXED = Epilogue(add_residual(), ("channel", "codes"))
EPILOGUES = (PLAIN_SUM, AFFINE, RESIDUAL, REQUANTIZE, REQUANTIZE_SUM, MIXED)


@dataclass(frozen=True)
class Problem:
    """An op with data: logical activations, weight, epilogue operands, and the right answer in the kernel's layout."""

    op: Any
    pattern: str
    x: Any
    weight: Any
    operands: tuple[Array, ...]
    expected: Array


def activations(rng: np.random.Generator, dtype: str, *shape: int) -> Array:
    """Random float32, or codes in 0..127 with many at both ends."""
    if dtype == "float32":
        return rng.standard_normal(shape).astype(np.float32)
    return rng.choice(np.array([0, 127, *range(0, 128, 3)], np.uint8), shape)


def weights(rng: np.random.Generator, dtype: str, *shape: int) -> Array:
    """Random float32, or int8 with many at both ends."""
    if dtype == "float32":
        return rng.standard_normal(shape).astype(np.float32)
    return rng.choice(np.array([-128, 127, *range(-128, 128, 5)], np.int8), shape)


def pruned(dtype: str, pattern: str, *shape: int, density: float = 0.5, seed: int = 0) -> Array:
    """Random weights of which the pattern's units are zero at random; the first rows empty, the next ones full."""
    rng = np.random.default_rng(seed)
    weight = weights(rng, dtype, *shape)
    matrix = weight.reshape(shape[0], -1)
    mask = parse_pattern(pattern).project(rng.random(matrix.shape), density)
    mask[: len(mask) // 4], mask[len(mask) // 4 : len(mask) // 3] = False, True
    return np.asarray((matrix * mask).reshape(shape))


def convolve(op: Convolution, x: Array, weight: Array) -> Array:
    """[filters][positions] by the definition, from an image [channels][height][width]."""
    wide = np.float64 if op.dtype == "float32" else np.int64
    top, left, bottom, right = op.pads
    image = np.pad(x.astype(wide), ((0, 0), (top, bottom), (left, right)), constant_values=op.pad_code)
    (height, width), (sy, sx), (dy, dx) = op.out_size, op.stride, op.dilation
    out = np.zeros((op.filters, height, width), wide)
    filters, channels = op.filters // op.groups, op.channels // op.groups
    for f in range(op.filters):
        group = image[f // filters * channels :][:channels]
        for ky, kx in np.ndindex(op.kernel):
            rows = slice(ky * dy, ky * dy + (height - 1) * sy + 1, sy)
            columns = slice(kx * dx, kx * dx + (width - 1) * sx + 1, sx)
            out[f] += np.tensordot(weight[f, :, ky, kx].astype(wide), group[:, rows, columns], 1)
    return out.reshape(op.filters, -1).astype(np.float32)


def scale_of(dtype: str, depth: int) -> float:
    """Brings sums of so many products to about -100..200."""
    return 1 / (60 * max(depth, 1)) if dtype == "uint8" else 20 / max(depth, 1) ** 0.5


def channel_operands(rng: np.random.Generator, op: Any, channels: int, positions: int, depth: int) -> tuple[Array, ...]:
    """Epilogue operands for results [channels][positions]; the first is a scale that suits the sums."""
    scale = scale_of(op.dtype, depth)
    made: list[Array] = []
    for i, kind in enumerate(op.epilogue.operands):
        shape = {"channel": (channels,), "scalar": (1,), "full": (channels, positions), "codes": (channels, positions)}
        value = rng.uniform(0.5, 1.5, shape[kind]).astype(np.float32) * np.float32(scale if i == 0 else 3.0)
        made.append(group4(activations(rng, "uint8", channels, positions)) if kind == "codes" else value)
    return tuple(made)


def convolution_problem(op: Convolution, seed: int, weight: Array | None = None, pattern: str = "dense") -> Problem:
    """Random data for a convolution."""
    rng = np.random.default_rng(seed)
    x = activations(rng, op.dtype, op.channels, *op.size)
    shape = (op.filters, op.channels // op.groups, *op.kernel)
    weight = weights(rng, op.dtype, *shape) if weight is None else weight
    positions = prod(op.out_size)
    operands = channel_operands(rng, op, op.filters, positions, prod(shape[1:]))
    return Problem(op, pattern, x, weight, operands, finish_channels(op.epilogue, convolve(op, x, weight), operands))


def linear_problem(
    op: Linear, seed: int, weight: Array | None = None, pattern: str = "dense", *, plain: bool = False
) -> Problem:
    """Random data for a Linear; x is [positions][inputs]; the answer row-major or by channels."""
    rng = np.random.default_rng(seed)
    x = activations(rng, op.dtype, op.positions, op.inputs)
    weight = weights(rng, op.dtype, op.outputs, op.inputs) if weight is None else weight
    wide = np.float64 if op.dtype == "float32" else np.int64
    sums = (weight.astype(wide) @ x.astype(wide).T).astype(np.float32)
    operands = channel_operands(rng, op, op.outputs, op.positions, op.inputs)
    if plain:
        operands = tuple(_plain_operand(k, o, op) for k, o in zip(op.epilogue.operands, operands, strict=True))
        return Problem(
            op, pattern, x, weight, operands, finish_plain(op.epilogue, np.ascontiguousarray(sums.T), operands)
        )
    return Problem(op, pattern, x, weight, operands, finish_channels(op.epilogue, sums, operands))


def _plain_operand(kind: str, operand: Array, op: Linear) -> Array:
    if kind == "codes":
        return np.ascontiguousarray(np.moveaxis(operand, 1, 0).reshape(op.positions, -1)[:, : op.outputs])
    return np.ascontiguousarray(operand.T) if kind == "full" else operand


def stored(problem: Problem, spec: KernelSpec) -> tuple[Array, ...]:
    """The activations in the spec's layout."""
    if isinstance(problem.op, BatchMatMul):
        return tuple(problem.x)
    x = problem.x
    if isinstance(problem.op, Linear) and spec.inputs[0] != PLAIN:
        x = np.ascontiguousarray(x.T)
    return (group4(x) if spec.inputs[0] == "channels4" else np.ascontiguousarray(x),)


VARIETY = [
    (isa, dtype) for isa in ISAS for dtype in ("float32", "uint8") if (isa, dtype) != ("neon-dotprod", "float32")
]
"""Instruction set and precision of all different code."""


def check(kernel: Any, problems: Iterable[Problem], isa: str, folder: Path, *, every: bool = False) -> int:
    """Run one candidate of each problem, another of each next one, or every candidate; the number run."""
    lanes = ISAS[isa].lanes("float32")
    cases, expected = [], []
    for i, problem in enumerate(problems):
        specs = list(kernel.candidates(problem.op, problem.pattern, lanes))
        for spec in specs if every else [specs[i % len(specs)]]:
            inputs = stored(problem, spec)
            prepared = kernel.prepare(spec)
            if prepared is not None:
                inputs = (PadKernel().reference(prepared, None, *inputs),)
            _compare(kernel.reference(spec, problem.weight, *inputs, *problem.operands), problem.expected, spec)
            blank = np.full_like(problem.expected, 77)
            cases.append((spec, [*inputs, *kernel.pack(spec, problem.weight), *problem.operands, blank]))
            expected.append(problem.expected)
    for (spec, _), found, right in zip(cases, run_specs(kernel, isa, cases, folder), expected, strict=True):
        _compare(found[-1], right, spec)
    return len(cases)


def _compare(found: Array, expected: Array, spec: KernelSpec) -> None:
    assert found.dtype == expected.dtype, (spec, found.dtype)
    if getattr(spec.op, "dtype", "float32") == "uint8":
        wrong = np.flatnonzero(found.ravel() != expected.ravel())
        assert not wrong.size, f"{spec}: elements {wrong[:8]} of {found.size} differ"
    elif expected.dtype == np.uint8:
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1, spec
    else:
        assert relative_error(found, expected) < 1e-5, spec


def run_specs(
    kernel: Any, isa: str, cases: Sequence[tuple[KernelSpec, Sequence[Array]]], folder: Path
) -> list[list[Array]]:
    """Build the specs and call each with all its function's arrays; every array as it is afterwards."""
    if ISAS[isa].triple.startswith("x86"):
        return _run_guarded(kernel, isa, cases, folder)
    return run([Case(kernel.build(spec, ISAS[isa]), arrays) for spec, arrays in cases], isa)


def _run_guarded(
    kernel: Any, isa_name: str, cases: Sequence[tuple[KernelSpec, Sequence[Array]]], folder: Path
) -> list[list[Array]]:
    """The same on this x86; each array at the end of its pages: touching what lies beyond is a crash."""
    isa = ISAS[isa_name]
    if isa_name == "avx512vnni" and "avx512vnni" not in host().features:
        pytest.skip("this processor has no AVX-512 VNNI")
    code = build_object({spec.symbol: kernel.build(spec, isa) for spec, _ in cases}, isa)
    path = folder / "kernels.so"
    shared_library([code.object], isa, sorted({spec.symbol for spec, _ in cases}), path)
    library = ctypes.CDLL(str(path))
    return [_call(library[s.symbol], [*a, *_workspace(code.workspace_bytes[s.symbol])])[: len(a)] for s, a in cases]


def _workspace(size: int) -> list[Array]:
    return [np.zeros(size, np.uint8)] if size else []


def _call(function: Any, arrays: Sequence[Array]) -> list[Array]:
    pages = [_Guarded(array) for array in arrays]
    function.restype = None
    function(*(ctypes.c_void_p(page.address) for page in pages))
    return [page.read() for page in pages]


class _Guarded:
    """A copy of an array behind which memory ends."""

    def __init__(self, array: Array) -> None:
        self._like = array
        self._size = -(-max(array.nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map = mmap.mmap(-1, self._size + mmap.PAGESIZE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        protect = ctypes.CDLL(None).mprotect
        assert protect(ctypes.c_void_p(base + self._size), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
        self.address = base + self._size - array.nbytes
        self._map[self._size - array.nbytes : self._size] = array.tobytes()

    def read(self) -> Array:
        """The array as it is now."""
        data = self._map[self._size - self._like.nbytes : self._size]
        return np.frombuffer(data, self._like.dtype).reshape(self._like.shape)
