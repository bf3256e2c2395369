# SPDX-License-Identifier: Apache-2.0
"""The program while it grows: buffers, constants, calls, and in which layouts each value is already there."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
from sparsec.compiler.lowering.program import Call, LayerChoice, Port, Program, Ref
from sparsec.compiler.lowering.select import Choice, choose


class NoKernelError(UnsupportedError):
    """No kernel of the back end computes an op; the node may go to the fallback instead."""


@dataclass(eq=False, slots=True)
class Buffer:
    """Bytes that live in the arena unless `ref` says where."""

    nbytes: int
    ref: Ref | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A place in a buffer, `offset` bytes from its start."""

    buffer: Buffer
    offset: int = 0

    def at(self, offset: int) -> "View":
        """The place `offset` bytes further on."""
        return View(self.buffer, self.offset + offset)


@dataclass(slots=True)
class Emitter:
    """Collects a program for one back end; see the module."""

    backend: Backend
    calls: list[tuple[str, tuple[View, ...], str]] = field(default_factory=list)
    specs: dict[str, KernelSpec] = field(default_factory=dict)
    functions: dict[str, Any] = field(default_factory=dict)
    weights: bytearray = field(default_factory=bytearray)
    layers: list[LayerChoice] = field(default_factory=list)
    views: dict[tuple[ir.Value, Layout], View] = field(default_factory=dict)
    constants: dict[str, Buffer] = field(default_factory=dict)
    lazy: dict[ir.Value, Callable[[], None]] = field(default_factory=dict)

    def scratch(self, nbytes: int) -> View:
        """A new buffer of the arena."""
        return View(Buffer(nbytes))

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
        """Append a call of a kernel."""
        self.specs[spec.symbol] = spec
        self.calls.append((spec.symbol, tuple(views), layer))

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
            self.calls.append((call.symbol, tuple(view for view in views if view is not None), layer))

    def report(self, layer: LayerChoice) -> None:
        """Add a line to the report."""
        self.layers.append(layer)

    def finish(self, name: str, graph: ir.Graph) -> Program:
        """Place every buffer and return the program."""
        outputs = [self._deliver(value, index) for index, value in enumerate(graph.outputs)]
        arena = self._place()
        calls = tuple(Call(symbol, tuple(map(_ref, views)), layer) for symbol, views, layer in self.calls)
        inputs = tuple(_port(value) for value in graph.inputs)
        tables = (dict(sorted(self.specs.items())), dict(sorted(self.functions.items())))
        return Program(name, inputs, tuple(outputs), calls, *tables, arena, bytes(self.weights), tuple(self.layers))

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
        uses: dict[Buffer, tuple[int, int]] = {}
        for step, (_, views, _) in enumerate(self.calls):
            for view in views:
                first, _ = uses.get(view.buffer, (step, step))
                uses[view.buffer] = (first, step)
        buffers = [buffer for buffer in uses if buffer.ref is None]
        offsets, nbytes = plan([Lifetime(buffer.nbytes, *uses[buffer]) for buffer in buffers])
        for buffer, offset in zip(buffers, offsets, strict=True):
            buffer.ref = Ref("arena", 0, offset)
        return nbytes


def _ref(view: View) -> Ref:
    assert view.buffer.ref is not None
    return Ref(view.buffer.ref.space, view.buffer.ref.index, view.buffer.ref.offset + view.offset)


def _port(value: ir.Value) -> Port:
    return Port(value.name or "", dtype_of(value), shape_of(value))
