# SPDX-License-Identifier: Apache-2.0
"""The elementwise kernel against numpy: every way through its loops, tails, layouts, types, and in place."""

import itertools

import numpy as np
import pytest

from sparsec.backends.isa import ISAS
from sparsec.backends.kernels.elementwise import ElementwiseKernel, strided
from sparsec.backends.kernels.nest import loop_nest, out_strides, row_major
from sparsec.compiler.lowering.expression import IDENTITY, OPERATIONS, Builder, Expression
from sparsec.compiler.lowering.ops import Elementwise, Operand
from tests.backends.harness import Case, relative_error, run

KERNEL = ElementwiseKernel()
F, U = "float32", "uint8"


def quantize() -> Expression:
    b = Builder()
    code = b.call("add", b.call("round", b.call("div", b.arg(0), b.arg(1))), b.const(3))
    return b.build(b.call("min", b.call("max", code, b.const(0)), b.const(127)))


def dequantize() -> Expression:
    b = Builder()
    return b.build(b.call("mul", b.call("sub", b.arg(0), b.const(3)), b.arg(1)))


def call(name: str) -> Expression:
    b = Builder()
    return b.build(b.call(name, *(b.arg(i) for i in range(OPERATIONS[name][0]))))


Q, D, ADD = quantize(), dequantize(), call("add")
SCALAR = {n: Operand(F, (0,) * n) for n in (1, 2, 3, 4)}
EXTENTS = (*range(1, 20), 31, 33, 63, 64, 65, 130)


def spec_of(op):
    (spec,) = KERNEL.candidates(op, "dense", 8)
    return spec


def contiguous(dtype, *shape):
    return Operand(dtype, row_major(shape))


def moved(dtype, shape, order, base=0):
    """A copy that permutes the axes of a contiguous array."""
    strides = row_major(shape)
    return Elementwise(
        tuple(shape[i] for i in order), (Operand(dtype, tuple(strides[i] for i in order), base),), dtype=dtype
    )


def simple_ops():
    for n in EXTENTS:
        yield Elementwise((n,), (contiguous(F, n), SCALAR[1]), ADD)
        yield Elementwise((n,), (contiguous(U, n), SCALAR[1]), D)
        yield Elementwise((n,), (contiguous(F, n), SCALAR[1]), Q, U)
    for name in OPERATIONS:
        yield Elementwise((37,), tuple(Operand(F, (1,), 40 * i) for i in range(OPERATIONS[name][0])), call(name))
    for dtype in (F, U, "int8", "bool", "int16", "float16", "int32", "int64", "float64"):
        yield Elementwise((77,), (contiguous(dtype, 77),), dtype=dtype)
        yield Elementwise((5, 9), (Operand(dtype, (-20, 2), 90),), dtype=dtype, out_strides=(11, 1), out_offset=3)
        yield moved(dtype, (21, 18), (1, 0))
        yield moved(dtype, (3, 19, 5), (2, 0, 1))
    yield Elementwise((), (Operand(F, ()), Operand(F, (), 5)), ADD)
    yield Elementwise((0, 4), (Operand(F, (4, 1)),))
    yield Elementwise((40,), (), Expression((("const", 2.5),)))
    yield Elementwise((4, 30), (Operand(F, (0, 1)), Operand(F, (1, 0))), ADD)
    yield Elementwise((4, 30), (Operand(F, (30, 1)), Operand(F, (1, 4))), ADD)
    yield Elementwise((2, 9, 20, 3), (Operand(F, (0, 20, 1, 180)), Operand(F, (540, 60, 3, 1))), ADD)
    yield Elementwise((7, 3), (Operand(F, (1, 7)), SCALAR[2]), Q, U, out_strides=(4, 1), out_offset=8)
    yield Elementwise((33, 12), (Operand(U, (1, 33)), Operand(F, (0, 1))), D)


def bordering_ops():
    """Plain images and tokens to and from groups of four channels, whole and with a rest."""
    for groups, n in itertools.product((1, 3), (1, 4, 7, 17, 49)):
        c = 4 * groups
        shape, packed = (groups, n, 4), (4 * n, 4, 1)
        images, tokens = (4 * n, 1, n), (4, c, 1)
        for plain in (images, tokens):
            yield Elementwise(shape, (Operand(F, plain), SCALAR[3]), Q, U)
            yield Elementwise(shape, (Operand(F, plain), Operand(F, (4, 0, 1))), Q, U)
            yield Elementwise(shape, (Operand(U, plain),), dtype=U)
            yield Elementwise(shape, (Operand(U, packed), SCALAR[3]), D, F, out_strides=plain)
            yield Elementwise(shape, (Operand(U, packed),), IDENTITY, U, out_strides=plain)
        yield Elementwise(shape, (Operand(U, packed), Operand(F, (4, 0, 1))), D, F, out_strides=images)
        yield Elementwise((groups, 4, n), (Operand(U, (4 * n, 1, 4)), SCALAR[3]), D)
        yield Elementwise((n, groups, 4), (Operand(U, (4, 4 * n, 1)), SCALAR[3]), D)
        yield Elementwise(shape, (Operand(U, packed), Operand(F, (4, 0, 1))), Q, U)
    for rest, n in itertools.product((1, 2, 3), (1, 5, 18)):
        yield Elementwise((n, rest), (Operand(F, (1, n)), SCALAR[2]), Q, U, out_strides=(4, 1), out_offset=4 * n)
        yield Elementwise((n, rest), (Operand(U, (4, 1)), SCALAR[2]), D, F, out_strides=(1, n))


def random_ops(count):
    """Permuted and broadcast operands of random extents."""
    rng = np.random.default_rng(7)
    for _ in range(count):
        rank = int(rng.integers(1, 5))
        shape = tuple(int(e) for e in rng.choice([1, 2, 3, 4, 5, 8, 9, 17], rank))
        operands = []
        for _ in range(2):
            order = rng.permutation(rank)
            kept = rng.random(rank) < 0.7
            extents = np.where(kept, shape, 1)[order]
            strides = np.empty(rank, int)
            strides[order] = row_major(tuple(extents))
            operands.append(Operand(str(rng.choice([F, U])), tuple(int(s) for s in strides * kept)))
        yield Elementwise(shape, tuple(operands), ADD)


def size_of(shape, strides, offset):
    if 0 in shape:
        return 1
    return offset + sum(max(s, 0) * (e - 1) for s, e in zip(strides, shape, strict=True)) + 1


def data(rng, dtype, size, expression):
    if dtype == F:
        positive = any(step[0] in ("sqrt", "log") for step in expression.steps)
        x = np.abs(rng.standard_normal(size)) + 0.1 if positive else rng.standard_normal(size) * 20
        return (np.round(x) if any(step[0] == "equal" for step in expression.steps) else x).astype(F)
    return rng.integers(0, 128, size).astype(dtype)


def case(op, rng):
    operands = [data(rng, o.dtype, size_of(op.shape, o.strides, o.offset), op.expression) for o in op.operands]
    words = -(-size_of(op.shape, out_strides(op), op.out_offset) // 4)
    out = np.zeros(4 * words, op.dtype)
    return spec_of(op), [*operands, out]


def run_all(cases, isa):
    return run([Case(KERNEL.build(spec, ISAS[isa]), arrays) for spec, arrays in cases], isa)


def check(op, before, after):
    expected = KERNEL.reference(spec_of(op), None, *before[:-1])
    found = strided(after[-1], op.shape, out_strides(op), op.out_offset)
    if op.dtype == F and op.expression != IDENTITY:
        assert relative_error(found, expected) < 1e-6, op
    elif op.dtype == U and op.expression != IDENTITY:
        differs = found.astype(int) - expected
        assert not differs.any(), op
    else:
        assert found.tobytes() == expected.tobytes(), op


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("ops", [simple_ops, bordering_ops, lambda: random_ops(60)], ids=["simple", "border", "random"])
def test_equals_numpy(ops, isa):
    rng = np.random.default_rng(1)
    cases = [case(op, rng) for op in dict.fromkeys(ops())]
    for (spec, before), after in zip(cases, run_all(cases, isa), strict=True):
        check(spec.op, before, after)


@pytest.mark.parametrize("isa", ISAS)
def test_output_may_be_the_operand(isa):
    rng = np.random.default_rng(2)
    ops = [Elementwise((n,), (contiguous(F, n), SCALAR[1]), ADD) for n in EXTENTS]
    ops += [Elementwise((9, 13), (Operand(F, (13, 1)), Operand(F, (1, 9))), ADD)]
    ops += [Elementwise((2, 11, 4), (contiguous(U, 2, 11, 4), Operand(F, (4, 0, 1))), Q, U)]
    cases = [case(op, rng) for op in ops]
    shared = [(spec, [arrays[0], *arrays[1:-1], arrays[0]]) for spec, arrays in cases]
    for (spec, before), after in zip(shared, run_all(shared, isa), strict=True):
        check(spec.op, before, after)


def test_keeps_nan_and_rounds_half_to_even():
    values = np.array([np.nan, 1.0, -0.5, 0.5, 1.5, 2.5, -2.5, np.inf] * 3, F)
    others = np.roll(values, 1)
    ops = [
        Elementwise((24,), (Operand(F, (1,)),) * OPERATIONS[name][0], call(name)) for name in ("max", "min", "round")
    ]
    cases = [(spec_of(op), [*[values, others][: len(op.operands)], np.zeros(24, F)]) for op in ops]
    for (spec, before), after in zip(cases, run_all(cases, "avx2"), strict=True):
        np.testing.assert_array_equal(after[-1], KERNEL.reference(spec, None, *before[:-1]))


def test_arithmetic_on_integers_is_not_offered():
    assert not KERNEL.candidates(Elementwise((4,), (contiguous("int64", 4),) * 2, ADD, "int64"), "dense", 8)
    assert KERNEL.candidates(Elementwise((4,), (contiguous("int64", 4),), dtype="int64"), "dense", 8)


def test_axes_that_all_arrays_walk_contiguously_become_one():
    assert [a.extent for a in loop_nest(Elementwise((2, 3, 4), (contiguous(F, 2, 3, 4),)))] == [24]
    assert [a.extent for a in loop_nest(Elementwise((2, 3, 4), (Operand(F, (0, 4, 1)),)))] == [2, 12]


def test_price_grows_with_bytes_and_steps():
    profile = {"call_us": 0.1, "bytes_per_us": 10000.0, "float32_ops_per_us": 5000.0}
    sizes = [Elementwise((n,), (contiguous(F, n),)) for n in (1000, 10000)]
    small, large = (KERNEL.cost(spec_of(op), None, profile) for op in sizes)
    slow = KERNEL.cost(spec_of(Elementwise((1000,), (contiguous(F, 1000),), call("erf"))), None, profile)
    assert 0.1 < small < slow < large
