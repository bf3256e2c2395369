# SPDX-License-Identifier: Apache-2.0
"""Program: the lowered model. Kernel calls in order, a static arena, packed constants. It knows no ONNX any more."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from sparsec.compiler.lowering.kernel import KernelSpec

ALIGNMENT = 64
"""Bytes: every buffer of the arena and every constant starts at a multiple of this."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the model: its ONNX name, numpy dtype name and static shape; plain layout."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Ref:
    """Where an argument of a call lives: port `index` (input, output) or byte `offset` (arena, weights)."""

    space: Literal["input", "output", "arena", "weights"]
    index: int = 0
    offset: int = 0

    def __str__(self) -> str:
        base = self.space if self.space in ("arena", "weights") else f"{self.space}{self.index}"
        return f"{base}+{self.offset}" if self.offset or self.space in ("arena", "weights") else base


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a kernel.

    Attributes:
        symbol: Of the kernel.
        args: Its pointer arguments.
        layer: ONNX name of the layer it belongs to.
        thread: Which thread makes it.
        stage: Calls of one stage on different threads run at once; all threads wait for each other between stages.
    """

    symbol: str
    args: tuple[Ref, ...]
    layer: str
    thread: int = 0
    stage: int = 0


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """What selection decided for one layer, for the report. Prices in microseconds from the target's profile.

    Attributes:
        name: ONNX name.
        op: ONNX operator, with what was fused, e.g. ``Conv+Clip``.
        pattern: The weight's pattern as asked or found.
        density: Share of weights that are not zero; 1.0 without weights.
        bytes: Stored constants, indices and scales included.
        kernel: Family and exploited pattern, e.g. ``convolution block(4x4)``.
        price: Of the kernel chosen.
        rival_price: Of the best dense kernel of the same precision; None without weights.
        refused: Why a sparse kernel was not taken; empty if it was, or none was asked.
        macs: Multiply-accumulates of the dense layer.
        breakeven_density: Share of the pattern's units at which a refused layer would have paid; None where it was not
            refused, or no density pays.
        shape: Of the weight, output channels first; empty without one.
        precision: That its weight is read in: ``int8``, ``int4`` (groups) or ``float32``; empty without a weight.
    """

    name: str
    op: str
    pattern: str
    density: float
    bytes: int
    kernel: str
    price: float
    rival_price: float | None
    refused: str
    macs: int = 0
    breakeven_density: float | None = None
    shape: tuple[int, ...] = ()
    precision: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """See the module.

    Attributes:
        name: C identifier; prefix of every exported symbol.
        inputs: Ports in order.
        outputs: Ports in order.
        calls: In an order in which one thread may make them all; stages ascend.
        specs: Kernels by symbol, to be built by the back end.
        functions: Ready TIR functions of fallbacks by symbol.
        arena_bytes: Size of the scratch arena, a multiple of ALIGNMENT.
        weights: All packed constants.
        layers: The report of selection.
        threads: How many threads the calls are for.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    calls: tuple[Call, ...]
    specs: Mapping[str, KernelSpec]
    functions: Mapping[str, Any]
    arena_bytes: int
    weights: bytes
    layers: tuple[LayerChoice, ...]
    threads: int = 1

    def __str__(self) -> str:
        """One line a call."""
        ports = [f"  {kind} {p.name}: {p.dtype}{list(p.shape)}" for kind, p in self._ports()]
        calls = [
            f"  {self._when(call)}{call.layer}: {call.symbol}({', '.join(map(str, call.args))})" for call in self.calls
        ]
        head = f"program {self.name}: arena {self.arena_bytes:,} B, weights {len(self.weights):,} B"
        kernels = [f"  {symbol}: {spec}" for symbol, spec in self.specs.items()]
        return "\n".join([head, *ports, "calls", *calls, "kernels", *kernels])

    @property
    def stages(self) -> int:
        """How many there are."""
        return 1 + max((call.stage for call in self.calls), default=-1)

    def _when(self, call: Call) -> str:
        return f"[{call.stage}.{call.thread}] " if self.threads > 1 else ""

    def _ports(self) -> list[tuple[str, Port]]:
        return [("input", p) for p in self.inputs] + [("output", p) for p in self.outputs]
