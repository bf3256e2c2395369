# SPDX-License-Identifier: Apache-2.0
"""The program while it grows: buffers, constants, calls, and in which layouts each value is already there."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.compiler.errors import UnsupportedError
from sparsec.compiler.graph import constant_of, dtype_of, shape_of
from sparsec.compiler.lowering import layout
from sparsec.compiler.lowering.kernel import Array, Backend, Fallback, KernelSpec
from sparsec.compiler.lowering.layout import Layout
from sparsec.compiler.lowering.memory import Lifetime, align, plan
from sparsec.compiler.lowering.ops import Op
from sparsec.compiler.lowering.program import LayerChoice, Port, Program, Ref
from sparsec.compiler.lowering.select import Choice, choose
from sparsec.compiler.lowering.stages import Buffer, Step, View, calls
from sparsec.compiler.lowering.threads import Axis, Range, cut, cut_weighted, outputs_of, part, slice_of

__all__ = ["Buffer", "Emitter", "NoKernelError", "Packed", "View"]


class NoKernelError(UnsupportedError):
    """No kernel of the back end computes an op; the node may go to the fallback instead."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A kernel with its packed constants; in parts if several threads share it.

    Attributes:
        spec: The kernel of the whole op.
        axis: Along which it is cut; None if it is whole.
        pieces: Range of each part along the axis.
        constants: Of each part.
        arrays: What was packed, for all parts.
    """

    spec: KernelSpec
    axis: Axis | None
    pieces: tuple[Range, ...]
    constants: tuple[tuple[View, ...], ...]
    arrays: tuple[Array, ...]


@dataclass(slots=True)
class Emitter:
    """Collects a program for one back end; see the module."""

    backend: Backend
    threads: int = 1
    steps: list[Step] = field(default_factory=list)
    specs: dict[str, KernelSpec] = field(default_factory=dict)
    functions: dict[str, Any] = field(default_factory=dict)
    weights: bytearray = field(default_factory=bytearray)
    layers: list[LayerChoice] = field(default_factory=list)
    views: dict[tuple[ir.Value, Layout], View] = field(default_factory=dict)
    constants: dict[str, Buffer] = field(default_factory=dict)
    lazy: dict[ir.Value, Callable[[], None]] = field(default_factory=dict)

    def scratch(self, nbytes: int, owner: int | None = None) -> View:
        """A new buffer of the arena; perhaps for one thread alone."""
        return View(Buffer(nbytes, owner=owner))

    def constant(self, array: Array) -> View:
        """An array in the weights; equal bytes are stored once."""
        data = np.ascontiguousarray(array).tobytes()
        key = hashlib.sha256(data).hexdigest()
        if key not in self.constants:
            self.weights += bytes(align(len(self.weights)) - len(self.weights))
            self.constants[key] = Buffer(len(data), Ref("weights", 0, len(self.weights)))
            self.weights += data
        return View(self.constants[key])

    def bind(self, value: ir.Value, where: Layout, view: View) -> View:
        """Say that a value now stands at a view in a layout."""
        self.views[value, where.simplest(shape_of(value))] = view
        return view

    def make(self, value: ir.Value, where: Layout = layout.PLAIN) -> View:
        """A new buffer for a value in a layout."""
        nbytes = where.elements(shape_of(value)) * np.dtype(dtype_of(value)).itemsize
        return self.bind(value, where, self.scratch(nbytes))

    def read(self, value: ir.Value, where: Layout = layout.PLAIN) -> View:
        """Where a value stands in a layout, converting it from another one if need be."""
        where = where.simplest(shape_of(value))
        if (value, where) in self.views:
            return self.views[value, where]
        array = constant_of(value)
        if array is not None and where == layout.PLAIN:
            return self.bind(value, where, self.constant(array))
        if value in self.lazy:
            self.lazy.pop(value)()
            return self.read(value, where)
        known = next((at for (known, at) in self.views if known is value), None)
        assert known is not None or array is not None, f"'{value.name}' is read before it is computed"
        return self._relayout(value, known or layout.PLAIN, where)

    def has(self, value: ir.Value, where: Layout) -> bool:
        """Whether a value already stands in a layout."""
        return (value, where.simplest(shape_of(value))) in self.views

    def choose(self, op: Op, weight: Array | None = None, pattern: str = "dense", **options: Any) -> Choice | None:
        """See `select.choose`."""
        return choose(self.backend, op, weight, pattern, **options)

    def run(self, op: Op, views: Sequence[View], layer: str) -> float:
        """Call the cheapest kernel for an op; returns its price.

        Raises:
            NoKernelError: If there is none.
        """
        choice = self.choose(op)
        if choice is None:
            msg = f"Layer '{layer}': target '{self.backend.name}' has no kernel for {op}."
            raise NoKernelError(msg)
        self.call(choice.spec, views, layer)
        return choice.price

    def call(self, spec: KernelSpec, views: Sequence[View], layer: str) -> None:
        """Append a call of a kernel; of its parts, where several threads are worth it."""
        found = cut(spec, self.backend, self.threads)
        group = self._next_group()
        if found is None:
            self._append(spec, Step(spec.symbol, tuple(views), layer, group, outputs=outputs_of(spec.op)))
            return
        axis, pieces = found
        for thread, piece in enumerate(pieces):
            own, touched = part(spec, axis, piece), axis.touched(piece[1] - piece[0])
            self._append(own, Step(own.symbol, _moved(views, axis, piece), layer, group, thread, touched, outputs=1))

    def pack(self, spec: KernelSpec, weight: Array) -> Packed:
        """Pack a constant weight for a kernel; in parts, where several threads are worth it."""
        found = cut_weighted(spec, weight, self.backend, self.threads)
        axis, pieces = found or (None, [(0, 0)])
        kernel = self.backend.kernels[spec.family]
        if axis is None or not axis.rows:
            made = [tuple(kernel.pack(spec, weight))]
        else:
            made = [tuple(kernel.pack(part(spec, axis, p), slice_of(weight, axis, p))) for p in pieces]
        constants = [tuple(map(self.constant, arrays)) for arrays in made]
        shared = constants * (len(pieces) // len(constants))
        return Packed(spec, axis, tuple(pieces), tuple(shared), tuple(array for arrays in made for array in arrays))

    def call_packed(self, packed: Packed, source: View, operands: Sequence[View], target: View, layer: str) -> None:
        """Append a call of a kernel with a constant weight, behind one that prepares its input if it asks for that."""
        axis = packed.axis
        if axis is None or not axis.private:
            source = self._prepare(packed.spec, source, layer)
        group = self._next_group()
        if axis is None:
            views = (source, *packed.constants[0], *operands, target)
            self._append(packed.spec, Step(packed.spec.symbol, views, layer, group, outputs=1))
            return
        for thread in range(len(packed.pieces)):
            self._call_part(packed, axis, (source, *operands, target), Step("", (), layer, group, thread, outputs=1))

    def call_fallback(
        self, fallback: Fallback, inputs: Sequence[View | None], outputs: Sequence[View], layer: str
    ) -> None:
        """Append the calls of a node without a kernel of its own."""
        spaces: Mapping[str, Sequence[View | None]] = {
            "input": inputs,
            "output": outputs,
            "constant": [self.constant(array) for array in fallback.constants],
            "temporary": [self.scratch(nbytes) for nbytes in fallback.temporaries],
        }
        self.functions.update(fallback.functions)
        for call in fallback.calls:
            views = [spaces[space][index] for space, index in call.arguments]
            assert None not in views, call
            given = tuple(view for view in views if view is not None)
            self.steps.append(Step(call.symbol, given, layer, self._next_group()))

    def report(self, layer: LayerChoice) -> None:
        """Add a line to the report."""
        self.layers.append(layer)

    def finish(self, name: str, graph: ir.Graph) -> Program:
        """Place every buffer and return the program."""
        outputs = [self._deliver(value, index) for index, value in enumerate(graph.outputs)]
        arena = self._place()
        inputs = tuple(_port(value) for value in graph.inputs)
        return Program(
            name=name,
            inputs=inputs,
            outputs=tuple(outputs),
            calls=calls(self.steps),
            specs=dict(sorted(self.specs.items())),
            functions=dict(sorted(self.functions.items())),
            arena_bytes=arena,
            weights=bytes(self.weights),
            layers=tuple(self.layers),
            threads=self.threads,
        )

    def _next_group(self) -> int:
        return self.steps[-1].group + 1 if self.steps else 0

    def _append(self, spec: KernelSpec, step: Step) -> None:
        self.specs[spec.symbol] = spec
        self.steps.append(step)

    def _prepare(self, spec: KernelSpec, source: View, layer: str) -> View:
        """The operand as a kernel wants it."""
        first = self.backend.kernels[spec.family].prepare(spec)
        if first is None:
            return source
        target = self.scratch(first.op.out_bytes)  # type: ignore[union-attr]
        self.call(first, [source, target], layer)
        return target

    def _call_part(self, packed: Packed, axis: Axis, views: Sequence[View], step: Step) -> None:
        """Append one part, behind what prepares its piece of the input, before what puts its results in place."""
        piece, constants = packed.pieces[step.thread], packed.constants[step.thread]
        own, count = part(packed.spec, axis, piece), piece[1] - piece[0]
        source, *operands, target = _moved(views, axis, piece)
        reads, *spans, writes = axis.touched(count)
        first = self.backend.kernels[own.family].prepare(own) if axis.private else None
        if first is not None:
            prepared = self.scratch(first.op.out_bytes, step.thread)  # type: ignore[union-attr]
            self._append(first, replace(step, symbol=first.symbol, views=(source, prepared), touched=(reads, None)))
            source, reads = prepared, None
        together = self._together(axis, count, step.thread)
        given = (source, *constants, *operands, together[1] if together else target)
        touched = (reads, *[None] * len(constants), *spans, None if together else writes)
        self._append(own, replace(step, symbol=own.symbol, views=given, touched=touched))
        if together is not None:
            copy, results = together
            self._append(copy, replace(step, symbol=copy.symbol, views=(results, target), touched=(None, writes)))

    def _together(self, axis: Axis, count: int, thread: int) -> tuple[KernelSpec, View] | None:
        """Where a part's results are apart in memory: what copies them there, and a buffer for them."""
        if axis.copy is None:
            return None
        op = axis.copy(count)
        choice = self.choose(op)
        assert choice is not None, op
        return choice.spec, self.scratch(prod(op.shape) * np.dtype(op.dtype).itemsize, thread)

    def _relayout(self, value: ir.Value, known: Layout, where: Layout) -> View:
        source = self.read(value, known)
        if known != layout.PLAIN and where != layout.PLAIN:
            return self._relayout(value, layout.PLAIN, where)
        target = self.make(value, where)
        other, backwards = (known, True) if where == layout.PLAIN else (where, False)
        for op in layout.copies(shape_of(value), dtype_of(value), other, backwards=backwards):
            self.run(op, [source, target], f"layout of {value.name}")
        return target

    def _deliver(self, value: ir.Value, index: int) -> Port:
        """Let the buffer of an output be the caller's, or copy it there."""
        view, port = self.read(value), _port(value)
        whole = view.buffer.ref is None and view.offset == 0 and view.buffer.nbytes == port.nbytes
        if whole:
            view.buffer.ref = Ref("output", index)
            return port
        target = View(Buffer(port.nbytes, Ref("output", index)))
        self.run(layout.copy(port.dtype, prod(port.shape)), [view, target], f"output {port.name}")
        return port

    def _place(self) -> int:
        """Give every buffer its place; returns the size of the arena.

        What one thread alone uses has a part of the arena to itself: memory that another core has written is slow.
        """
        uses: dict[Buffer, tuple[int, int]] = {}
        for step in self.steps:
            for view in step.views:
                first, _ = uses.get(view.buffer, (step.group, step.group))
                uses[view.buffer] = (first, step.group)
        start = 0
        for owner in (None, *range(self.threads)):
            buffers = [buffer for buffer in uses if buffer.ref is None and buffer.owner == owner]
            offsets, nbytes = plan([Lifetime(buffer.nbytes, *uses[buffer]) for buffer in buffers])
            for buffer, offset in zip(buffers, offsets, strict=True):
                buffer.ref = Ref("arena", 0, start + offset)
            start += nbytes
        return start


def _moved(views: Sequence[View], axis: Axis, piece: Range) -> tuple[View, ...]:
    """What a part is given of each parameter."""
    return tuple(view.at(piece[0] * step) for view, step in zip(views, axis.steps, strict=True))


def _port(value: ir.Value) -> Port:
    return Port(value.name or "", dtype_of(value), shape_of(value))
