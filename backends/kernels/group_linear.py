# SPDX-License-Identifier: Apache-2.0
"""Linear with weights of 4-bit groups and float32 activations: one token, or eight that share the unpacked weights.

In the style of GQSA's matrix-vector product: the stream of kept groups is cut where it is convenient, and a row costs
what it keeps. Each weight becomes the float32 number that it stands for, exactly; so the result is what ONNX means, up
to the order of the sums. A row's sums stay vectors until as many rows as there are lanes are done; then they are added
up across the lanes together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, vector
from sparsec.backends.kernels.epilogue import Tail, parameters
from sparsec.backends.kernels.group_cost import group_cost
from sparsec.backends.kernels.group_format import WORDS, Format, pack
from sparsec.backends.kernels.group_steps import Arrays, Steps, Tokens
from sparsec.backends.kernels.reference import finish_plain
from sparsec.compiler.errors import RecipeError
from sparsec.compiler.lowering.groups import Groups, split
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import GroupedLinear, Op
from sparsec.compiler.pattern import Block, parse_pattern

Expr = Any
TOGETHER = 8
"""Tokens that share the unpacked weights."""
_FEW = 8
"""Turns of a row at least, for more than one step a turn."""
_CHAINS = {1: 4, 2: 4, 3: 2, 4: 2, 5: 1, 6: 1, 7: 1, 8: 1}
"""Sums of one token that are in flight, by tokens."""
GROUPS = (16, 32, 64, 128)
_UNROLL = {4: 1, 8: 4, 16: 2}
"""Steps of a turn of the loop, by lanes, where a step is one vector of words. More are slower in WebAssembly."""


class GroupLinearKernel:
    """Dense. Parameters: x, words, scales, zero points, epilogue operands, out."""

    family = "group-linear"

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """Specs whose tile is (lanes, steps of a turn, tokens that are computed together)."""
        if isinstance(op, GroupedLinear) and _takes(op):
            yield KernelSpec(self.family, op, "dense", _tile(op, lanes))

    def prepare(self, spec: KernelSpec) -> KernelSpec | None:
        """The input is read as it is."""
        return None

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """The TIR PrimFunc."""
        return _build(spec, isa, sparse=False)

    def pack(self, spec: KernelSpec, weight: Array) -> Sequence[Array]:
        """Words, scales and zero points; dropped groups are stored as zeros."""
        streams = pack(format_of(spec), _filled(split(weight, _op(spec).group)))
        return (streams.words, streams.scales, streams.zeros)

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """By numpy, in float64."""
        return _reference(spec, weight, *operands)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """From all groups."""
        form = format_of(spec)
        return group_cost(_op(spec), form, [form.groups] * form.outputs, TOGETHER, sparse=False, profile=profile)


class SparseGroupLinearKernel:
    """Kept groups only. Parameters: x, words, scales, zero points, places, row ends, epilogue operands, out."""

    family = "group-sparse"

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """Specs whose tile is as the dense kernel's, where whole groups are zero."""
        if isinstance(op, GroupedLinear) and _takes(op) and _drops_groups(pattern, op.group):
            yield KernelSpec(self.family, op, pattern, _tile(op, lanes))

    def prepare(self, spec: KernelSpec) -> KernelSpec | None:
        """The input is read as it is."""
        return None

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """The TIR PrimFunc; it serves any weight of the spec's shape."""
        return _build(spec, isa, sparse=True)

    def pack(self, spec: KernelSpec, weight: Array) -> Sequence[Array]:
        """Words, scales, zero points, places and row ends."""
        streams = pack(format_of(spec), split(weight, _op(spec).group))
        return (streams.words, streams.scales, streams.zeros, streams.places, streams.ends)

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """By numpy, in float64."""
        return _reference(spec, weight, *operands)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """From the groups that the weight really keeps."""
        assert weight is not None
        kept = (weight[:, :: _op(spec).group] != 0).sum(axis=1)
        return group_cost(_op(spec), format_of(spec), kept, TOGETHER, sparse=True, profile=profile)


def format_of(spec: KernelSpec) -> Format:
    """How the spec's weight is stored."""
    op = _op(spec)
    return Format(spec.tile[0], op.group, op.inputs, op.outputs)


def _op(spec: KernelSpec) -> GroupedLinear:
    assert isinstance(spec.op, GroupedLinear)
    return spec.op


def _tile(op: GroupedLinear, lanes: int) -> tuple[int, int, int]:
    form = Format(lanes, op.group, op.inputs, op.outputs)
    return lanes, max(1, min(_UNROLL[lanes] // form.units, form.row_steps // _FEW)), TOGETHER


def _takes(op: GroupedLinear) -> bool:
    return op.group in GROUPS and op.inputs % op.group == 0


def _drops_groups(pattern: str, group: int) -> bool:
    try:
        block = parse_pattern(pattern)
    except RecipeError:
        return False
    return isinstance(block, Block) and block.rows == 1 and block.cols % group == 0


def _filled(groups: Groups) -> Groups:
    """The same weight with every group kept."""
    scales = np.where(groups.kept, groups.scales, np.float16(0))
    return replace(groups, scales=scales, kept=np.ones_like(groups.kept))


def _reference(spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
    op = _op(spec)
    assert weight is not None
    x = operands[0].reshape(op.positions, op.inputs).astype(np.float64)
    sums = (x @ split(weight, op.group).values.T.astype(np.float64)).astype(np.float32)
    return finish_plain(op.epilogue, sums, operands[1:])


def _build(spec: KernelSpec, isa: Isa, *, sparse: bool) -> Any:
    op, form = _op(spec), format_of(spec)
    most = form.outputs * form.row_steps
    groups = most * form.together + form.lanes
    sizes = [("float32", op.positions * op.inputs), (WORDS[form.lanes], most * form.units * form.lanes)]
    sizes += [("uint16", groups), ("uint8", groups)]
    if sparse:
        sizes += [(form.place_dtype, groups), ("int32", form.panels * form.lanes + 1)]

    def body(x: Expr, words: Expr, bits: Expr, zeros: Expr, *rest: Expr) -> None:
        places, ends = rest[:2] if sparse else (None, None)
        *operands, out = rest[2:] if sparse else rest
        sums = T.alloc_buffer((min(op.positions, TOGETHER) * form.lanes * form.lanes,), "float32")
        arrays = Arrays(x, words, bits, zeros, places, ends)
        steps = Steps(op, form, isa, arrays)
        _emit(spec, steps, arrays, sums, Tail(op.epilogue, operands, out, isa))

    return emit.function([*sizes, *parameters(op.epilogue, op.outputs, op.positions * op.outputs)], body)


def _emit(spec: KernelSpec, steps: Steps, arrays: Arrays, sums: Expr, tail: Tail) -> None:
    full, rest = divmod(_op(spec).positions, TOGETHER)
    if full:
        with emit.loop(full) as block:
            _emit_panels(spec, steps, arrays, sums, tail, Tokens(block * TOGETHER, TOGETHER))
    if rest:
        _emit_panels(spec, steps, arrays, sums, tail, Tokens(full * TOGETHER, rest))


def _emit_panels(spec: KernelSpec, steps: Steps, arrays: Arrays, sums: Expr, tail: Tail, tokens: Tokens) -> None:
    """All rows for a few tokens."""
    form = format_of(spec)
    full, rest = divmod(form.outputs, form.lanes)
    for start, count, rows in ((0, full, form.lanes), (full, 1, rest)):
        if count and rows:
            with emit.loop(count) as i:
                row = (start + i) * form.lanes
                with emit.loop(rows) as r:
                    _emit_row(spec, steps, arrays, tokens, (sums, row + r, r))
                _emit_finish(spec, sums, tail, tokens, row, rows)


def _emit_row(spec: KernelSpec, steps: Steps, arrays: Arrays, tokens: Tokens, place: tuple[Expr, Expr, Expr]) -> None:
    """Sums of one row, by lanes; `place` is where the panel's go, the row, and its number in the panel."""
    (found, row, slot), form, unroll = place, format_of(spec), spec.tile[1]
    if arrays.ends is None:
        first, last = emit.bind(row * form.row_steps), emit.bind((row + 1) * form.row_steps)
    else:
        first, last = emit.bind(arrays.ends[row]), emit.bind(arrays.ends[row + 1])
    count = emit.bind(last - first)
    steps.widen(emit.bind(first * form.together), count * form.together)
    chains = _CHAINS[tokens.count]
    sums = emit.Registers(tokens.count * chains, "float32", form.lanes)
    turns = emit.bind(tirx.truncdiv(count, unroll)) if unroll > 1 else count
    with emit.loop_range(0, turns) as turn:
        for part in range(unroll):
            steps.step(sums, tokens, first, turn * unroll + part, part * form.units)
    if unroll > 1:
        with emit.loop_range(turns * unroll, count) as step:
            steps.step(sums, tokens, first, step, 0)
    for token in range(tokens.count):
        parts = [sums[token * chains + c] for c in range(chains)]
        while len(parts) > 1:
            parts = [emit.bind(a + b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        emit.store(found, (token * form.lanes + slot) * form.lanes, parts[0])


def _emit_finish(spec: KernelSpec, sums: Expr, tail: Tail, tokens: Tokens, row: Expr, rows: int) -> None:
    """Add the panel's sums up across the lanes, and finish them: lane i is row i."""
    op, form = _op(spec), format_of(spec)
    for token in range(tokens.count):
        starts = [(token * form.lanes + r) * form.lanes for r in range(rows)]
        parts = [emit.bind(vector.load(sums, start, form.lanes)) for start in starts]
        parts += [vector.const(0, "float32", form.lanes)] * (form.lanes - rows)
        total = _across(parts)
        tail.store_plain([total], (tokens.first + token) * op.outputs, [row], [rows % form.lanes])


def _across(rows: Sequence[Expr]) -> Expr:
    """A square of vectors as one, by halves: lane i is the sum of vector i."""
    lanes = len(rows)
    current, half = list(rows), lanes // 2
    while len(current) > 1:
        pairs = zip(current[: len(current) // 2], current[len(current) // 2 :], strict=True)
        current = [_halved(a, b, half) for a, b in pairs]
        half //= 2
    return current[0]


def _halved(a: Expr, b: Expr, half: int) -> Expr:
    """Sums of lanes `half` apart: of `a` where that bit of the lane is 0, of `b` where it is 1."""
    lanes = vector.lanes_of(a)
    low = [vector.index(i if not i & half else lanes + i - half) for i in range(lanes)]
    high = [vector.index(i + half if not i & half else lanes + i) for i in range(lanes)]
    return emit.bind(tirx.Shuffle([a, b], low) + tirx.Shuffle([a, b], high))
