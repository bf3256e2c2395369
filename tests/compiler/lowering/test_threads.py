# SPDX-License-Identifier: Apache-2.0
"""Programs for several threads: where ops are cut, and that calls of one stage may run in any order."""

import importlib.util
import random
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from sparsec.compiler.graph import dtype_of, shape_of
from sparsec.compiler.lowering import ops, threads
from sparsec.compiler.lowering.kernel import KernelSpec
from sparsec.compiler.lowering.lower import lower
from sparsec.compiler.lowering.program import Ref
from sparsec.compiler.lowering.stages import Buffer, Step, View, calls


def _load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lowering = _load("test_lower")
interpreter, node, normal = lowering.interpreter, lowering.node, lowering.normal


@dataclass(frozen=True)
class Priced(interpreter.Numpy):
    """Kernels of the interpreter with prices by which every op is worth any number of threads."""

    def cost(self, spec, weight, profile):
        if weight is None:
            return 1000.0
        return (np.count_nonzero(weight) + 0.01 * len(weight)) * getattr(spec.op, "positions", 1)


KERNELS = {name: Priced(name, kernel.kind) for name, kernel in interpreter.BACKEND.kernels.items()}
BACKEND = replace(interpreter.BACKEND, kernels=KERNELS)

CHAIN = (
    [
        node("Conv", "x w", "a", pads=[1, 1, 1, 1]),
        node("Relu", "a", "b"),
        node("Conv", "b d", "c", group=13, pads=[1, 1, 1, 1]),
        node("Sigmoid", "c", "e"),
        node("Mul", "c e", "f"),
        node("Conv", "f p q", "g"),
        node("Add", "g a", "h"),
        node("MaxPool", "h", "i", kernel_shape=[2, 2], strides=[2, 2]),
        node("Transpose", "i", "j", perm=[0, 2, 3, 1]),
        node("Softmax", "j", "k"),
        node("MatMul", "k m", "l"),
        node("ReduceMean", "l r"),
    ],
    {"x": [1, 5, 8, 8]},
    {
        "w": normal(13, 5, 3, 3), "d": normal(13, 1, 3, 3), "p": normal(13, 13, 1, 1), "q": normal(13),
        "m": normal(13, 9), "r": np.array([2]),
    },
)  # fmt: skip
NETWORKS = {**lowering.CASES, "chain": CHAIN}


def model_of(name):
    return lowering.model_of(*NETWORKS[name], {"lstm": ("y", "h", "c")}.get(name, ("y",)))


def feeds_of(model):
    return {v.name: normal(*shape_of(v)).astype(dtype_of(v)) for v in model.graph.inputs}


def shuffled(program, seed):
    """The same calls, with those of each stage in another order that keeps each thread's own."""
    generator, found = random.Random(seed), []
    for _, members in groupby(program.calls, key=lambda call: call.stage):
        group = list(members)
        waiting = {t: [c for c in group if c.thread == t] for t in {c.thread for c in group}}
        while any(waiting.values()):
            found.append(waiting[generator.choice([t for t, left in waiting.items() if left])].pop(0))
    return replace(program, calls=tuple(found))


def one_after_the_other(program, *, descending):
    """The same calls, with those of each stage thread by thread."""
    order = sorted(program.calls, key=lambda call: (call.stage, -call.thread if descending else call.thread))
    return replace(program, calls=tuple(order))


@pytest.mark.parametrize("count", [2, 3, 16])
@pytest.mark.parametrize("name", NETWORKS)
def test_calls_of_a_stage_may_run_in_any_order(name, count):
    model = model_of(name)
    alone, program = lower(model, BACKEND, "test"), lower(model, BACKEND, "test", threads=count)
    assert program.threads == count
    assert {call.stage for call in program.calls} == set(range(program.stages))
    assert all(0 <= call.thread < count for call in program.calls)
    feeds = feeds_of(model)
    expected = interpreter.run(alone, feeds)
    orders = [program, one_after_the_other(program, descending=True), one_after_the_other(program, descending=False)]
    for order in (*orders, *(shuffled(program, seed) for seed in range(4))):
        found = interpreter.run(order, feeds)
        for output, array in expected.items():
            np.testing.assert_allclose(found[output], array, rtol=1e-5, atol=1e-6)


def test_without_stages_the_order_would_matter():
    """Else the test above could not fail."""
    model = model_of("chain")
    program = lower(model, BACKEND, "test", threads=2)
    merged = replace(program, calls=tuple(replace(call, stage=0) for call in program.calls))
    feeds = feeds_of(model)
    expected = interpreter.run(program, feeds)["y"]
    found = interpreter.run(one_after_the_other(merged, descending=True), feeds)["y"]
    assert not np.allclose(found, expected)


def test_one_thread_is_as_it_was():
    program = lower(model_of("chain"), BACKEND, "test")
    assert program.threads == 1
    assert {(call.thread, call.stage) for call in program.calls} == {(0, 0)}
    assert "[" not in str(program).split("calls")[1].splitlines()[1].split(":")[0]


def test_the_text_says_stage_and_thread():
    assert "  [1.1] n" in str(lower(model_of("chain"), BACKEND, "test", threads=2))


def test_each_op_of_the_chain_is_cut():
    program = lower(model_of("chain"), BACKEND, "test", threads=2)
    kinds = {type(spec.op) for spec in program.specs.values()}
    for kind in kinds:
        users = {call.thread for call in program.calls if type(program.specs[call.symbol].op) is kind}
        assert users == {0, 1}, kind


def spec_of(op, output=ops.PLAIN, pattern="dense", inputs=(ops.PLAIN,)):
    return KernelSpec(type(op).__name__, op, pattern, (), inputs, output)


def pieces(spec, count, weight=None):
    found = threads.cut(spec, BACKEND, count) if weight is None else threads.cut_weighted(spec, weight, BACKEND, count)
    return found and found[1]


def test_a_small_op_is_left_to_one_thread():
    cheap = replace(BACKEND, kernels={"Reduce": replace_cost(KERNELS["Reduce"], 3.9)})
    assert threads.cut(spec_of(ops.Reduce("sum", 8, 4, 1)), cheap, 2) is None
    dearer = replace(BACKEND, kernels={"Reduce": replace_cost(KERNELS["Reduce"], 4.1)})
    assert threads.cut(spec_of(ops.Reduce("sum", 8, 4, 1)), dearer, 8)[1] == [(0, 4), (4, 8)]


def replace_cost(kernel, price):
    class Fixed(Priced):
        def cost(self, spec, weight, profile):
            return price

    return Fixed(kernel.family, kernel.kind)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (ops.Reduce("sum", 7, 4, 1), [(0, 3), (3, 6), (6, 7)]),
        (ops.Reduce("sum", 1, 4, 50), None),
        (ops.Softmax(6, 5), [(0, 2), (2, 4), (4, 6)]),
        (ops.Elementwise((1000,), (ops.Operand("float32", (1,)),)), [(0, 384), (384, 768), (768, 1000)]),
        (ops.Elementwise((2, 3000), (ops.Operand("float32", (3000, 1)),)), [(0, 1024), (1024, 2048), (2048, 3000)]),
        (ops.Elementwise((1, 9, 70), (ops.Operand("float32", (1, 70, 1)),)), [(0, 3), (3, 6), (6, 9)]),
        (ops.BatchMatMul(3, 4, 5, 6, 3, 1), [(0, 1), (1, 2), (2, 3)]),
        (ops.BatchMatMul(1, 4, 5, 6, 1, 1), [(0, 2), (2, 4)]),
        (ops.RecurrentCell("gru", 64), None),
    ],
)
def test_where_ops_without_weights_are_cut(op, expected):
    assert pieces(spec_of(op), 3) == expected


def test_dense_filters_are_cut_evenly_by_fours():
    op = ops.Convolution("float32", 8, 30, (5, 5))
    assert pieces(spec_of(op), 2, np.ones((30, 8, 1, 1), np.float32)) == [(0, 16), (16, 30)]
    assert pieces(spec_of(op), 3, np.ones((30, 8, 1, 1), np.float32)) == [(0, 12), (12, 24), (24, 30)]


def test_sparse_filters_are_cut_where_prices_are_equal():
    weight = np.zeros((64, 100, 1, 1), np.float32)
    weight[:16] = 1
    weight[16:, :20] = 1
    sparse = replace(BACKEND, kernels={"Convolution": AnyPattern("Convolution", ops.Convolution)})
    spec = spec_of(ops.Convolution("float32", 100, 64, (5, 5)), pattern="block(4x4)")
    found = threads.cut_weighted(spec, weight, sparse, 2)[1]
    assert found == [(0, 12), (12, 64)]
    assert [np.count_nonzero(weight[start:stop]) for start, stop in found] == [1200, 1360]


class AnyPattern(Priced):
    """Also for weights with zeros."""

    def candidates(self, op, pattern, lanes):
        yield KernelSpec(self.family, op, pattern)


def test_groups_are_cut_with_their_channels_by_fours():
    op = ops.Convolution("uint8", 10, 20, (5, 5), groups=10, epilogue=ops.Epilogue(dtype="uint8"))
    axis, found = threads.cut_weighted(spec_of(op, ops.CHANNELS4), np.ones((20, 1, 1, 1), np.int8), BACKEND, 2)
    assert found == [(0, 8), (8, 10)]
    part = threads.part(spec_of(op), axis, found[1]).op
    assert (part.channels, part.filters, part.groups) == (2, 4, 2)
    assert axis.steps == (25, 50)
    assert threads.slice_of(np.arange(20), axis, found[1]).tolist() == [16, 17, 18, 19]
    assert axis.touched(2) == ((0, 100), (0, 200))


def test_row_major_tokens_are_cut_by_tokens_and_one_token_by_outputs():
    weight = np.ones((40, 8), np.float32)
    axis, found = threads.cut_weighted(spec_of(ops.Linear("float32", 20, 8, 40)), weight, BACKEND, 2)
    assert (found, axis.rows) == ([(0, 10), (10, 20)], 0)
    axis, found = threads.cut_weighted(spec_of(ops.Linear("float32", 1, 8, 40)), weight, BACKEND, 2)
    assert (found, axis.rows) == ([(0, 20), (20, 40)], 1)


def test_a_few_row_major_tokens_are_cut_by_outputs_and_copied():
    op, weight = ops.Linear("float32", 3, 8, 40), np.ones((40, 8), np.float32)
    axis, found = threads.cut_weighted(spec_of(op), weight, BACKEND, 2)
    assert (found, axis.rows) == ([(0, 20), (20, 40)], 1)
    assert axis.touched(20) == (None, (0, 4 * (2 * 40 + 20)))
    assert axis.copy(20).out_strides == (40, 1)
    residual = replace(op, epilogue=ops.Epilogue(operands=("full",)))
    axis, found = threads.cut_weighted(spec_of(residual), weight, BACKEND, 2)
    assert (found, axis.copy) == ([(0, 2), (2, 3)], None)


def test_groups_of_bits_are_cut_by_those_that_are_kept():
    weight = np.zeros((32, 4), [("codes", np.uint8, (16,)), ("kept", bool)])
    weight["kept"][:8] = True
    kernel = GroupPriced("GroupedLinear", ops.GroupedLinear)
    backend = replace(BACKEND, kernels={"GroupedLinear": kernel})
    spec = spec_of(ops.GroupedLinear(1, 64, 32, 16), pattern="block(1x16)")
    assert threads.cut_weighted(spec, weight, backend, 2)[1] == [(0, 4), (4, 32)]


class GroupPriced(Priced):
    """By the groups kept."""

    def cost(self, spec, weight, profile):
        return 10.0 * np.count_nonzero(weight["kept"])


def test_a_cut_that_gains_nothing_is_none():
    flat = replace(BACKEND, kernels={"Linear": replace_cost(KERNELS["Linear"], 100.0)})
    assert threads.cut_weighted(spec_of(ops.Linear("float32", 1, 8, 40)), np.ones((40, 8)), flat, 2) is None


def step(group, thread, reads, writes):
    views = [View(buffer, start) for buffer, start, _ in (*reads, *writes)]
    touched = tuple((0, count) for _, _, count in (*reads, *writes))
    return Step("k", tuple(views), "l", group, thread, touched, outputs=len(writes))


def stages_of(*steps):
    return [call.stage for call in calls(steps)]


def test_threads_wait_only_for_bytes_of_others():
    a, b = (Buffer(64, Ref("arena", 0, offset)) for offset in (0, 64))
    x = Buffer(64, Ref("input", 0))
    halves = [step(0, t, [(x, 32 * t, 32)], [(a, 32 * t, 32)]) for t in (0, 1)]
    same = [step(1, t, [(a, 32 * t, 32)], [(b, 32 * t, 32)]) for t in (0, 1)]
    crossed = [step(1, t, [(a, 0, 64)], [(b, 32 * t, 32)]) for t in (0, 1)]
    assert stages_of(*halves, *same) == [0, 0, 0, 0]
    assert stages_of(*halves, *crossed) == [0, 0, 1, 1]
    uneven = [step(1, 0, [(a, 0, 36)], [(b, 0, 36)]), step(1, 1, [(a, 36, 28)], [(b, 36, 28)])]
    assert stages_of(*halves, *uneven) == [0, 0, 1, 1]


def test_threads_wait_before_memory_is_used_again():
    a, again, b = Buffer(64, Ref("arena", 0, 0)), Buffer(64, Ref("arena", 0, 32)), Buffer(64, Ref("arena", 0, 128))
    reading = [step(0, t, [(a, 0, 64)], [(b, 32 * t, 32)]) for t in (0, 1)]
    assert stages_of(*reading, step(1, 0, [(b, 0, 32)], [(again, 0, 64)])) == [0, 0, 1]
    assert stages_of(*reading, step(1, 0, [(b, 0, 32)], [(again, 40, 8)])) == [0, 0, 0]


def test_one_thread_never_waits_for_itself():
    a, b = (Buffer(64, Ref("arena", 0, offset)) for offset in (0, 64))
    assert stages_of(step(0, 0, [(a, 0, 64)], [(b, 0, 64)]), step(1, 0, [(b, 0, 64)], [(a, 0, 64)])) == [0, 0]


def test_a_call_of_unknown_outputs_writes_everywhere():
    a, b = (Buffer(64, Ref("arena", 0, offset)) for offset in (0, 64))
    reading = [step(0, t, [(a, 0, 64)], [(b, 32 * t, 32)]) for t in (0, 1)]
    unknown = replace(step(1, 0, [(a, 0, 64)], []), outputs=None)
    assert stages_of(*reading, unknown) == [0, 0, 1]
    assert stages_of(*reading, replace(unknown, outputs=0)) == [0, 0, 0]


def test_constants_and_inputs_are_everybodys():
    w, x = Buffer(64, Ref("weights")), Buffer(64, Ref("input"))
    unknown = [Step("k", (View(w), View(x)), "l", group, group) for group in (0, 1)]
    assert stages_of(*unknown) == [0, 0]
