# SPDX-License-Identifier: Apache-2.0
"""The calls of a program while it grows, and where its threads have to wait for each other.

Calls of one group run at once. Between two groups every thread waits for all others only where one of them would
touch bytes that another has written, or write bytes that another has touched, since they last waited. This is decided
when every buffer has its place, so buffers that take each other's place in the arena are seen as well.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from sparsec.compiler.lowering.program import Call, Ref


@dataclass(eq=False, slots=True)
class Buffer:
    """Bytes that live in the arena unless `ref` says where; with an owner, only that thread touches them."""

    nbytes: int
    ref: Ref | None = None
    owner: int | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A place in a buffer, `offset` bytes from its start."""

    buffer: Buffer
    offset: int = 0

    def at(self, offset: int) -> "View":
        """The place `offset` bytes further on."""
        return View(self.buffer, self.offset + offset)

    @property
    def ref(self) -> Ref:
        """Where it is, once its buffer has a place."""
        placed = self.buffer.ref
        assert placed is not None
        return Ref(placed.space, placed.index, placed.offset + self.offset)


@dataclass(frozen=True, slots=True)
class Step:
    """A call to be.

    Attributes:
        symbol: Of the kernel.
        views: Its arguments.
        layer: ONNX name of its layer.
        group: Steps of one group run at once, each thread's in order.
        thread: Which thread makes it.
        touched: For each view, the bytes first to stop from there that are read or written; None: all to the end.
        outputs: How many of the last views are written; None: perhaps all.
    """

    symbol: str
    views: tuple[View, ...]
    layer: str
    group: int
    thread: int = 0
    touched: tuple[tuple[int, int] | None, ...] = ()
    outputs: int | None = None

    def accesses(self) -> "Iterable[Access]":
        """The bytes it touches that somebody may write."""
        fixed = 0 if self.outputs is None else len(self.views) - self.outputs
        spans = self.touched or (None,) * len(self.views)
        for place, (view, span) in enumerate(zip(self.views, spans, strict=True)):
            ref, (first, stop) = view.ref, span or (0, view.buffer.nbytes - view.offset)
            if ref.space in ("arena", "output"):
                yield Access(self.thread, (ref.space, ref.index), ref.offset + first, ref.offset + stop, place >= fixed)


@dataclass(frozen=True, slots=True)
class Access:
    """Bytes first to stop of a memory, touched by a thread."""

    thread: int
    memory: tuple[str, int]
    first: int
    stop: int
    writes: bool

    def disturbs(self, other: "Access") -> bool:
        """Whether the order of both matters, and nothing but waiting keeps it."""
        near = self.memory == other.memory and self.first < other.stop and other.first < self.stop
        return near and self.thread != other.thread and (self.writes or other.writes)


@dataclass(slots=True)
class _Open:
    """What was touched since the threads last waited for each other."""

    stage: int = 0
    accesses: list[Access] = field(default_factory=list)

    def enter(self, accesses: Sequence[Access]) -> int:
        """The stage of a group that touches these bytes."""
        if any(new.disturbs(old) for new in accesses for old in self.accesses):
            self.stage += 1
            self.accesses = []
        self.accesses += accesses
        return self.stage


def calls(steps: Sequence[Step]) -> tuple[Call, ...]:
    """The steps as calls, with their stages; every buffer has its place."""
    found, now = [], _Open()
    for _, members in groupby(steps, key=lambda step: step.group):
        group = list(members)
        stage = now.enter([access for step in group for access in step.accesses()])
        found += [Call(s.symbol, tuple(v.ref for v in s.views), s.layer, s.thread, stage) for s in group]
    return tuple(found)
