# SPDX-License-Identifier: Apache-2.0
"""Selection: the cheapest kernel for an op; a sparse one only where it beats the best dense one of its precision."""

from collections.abc import Callable
from dataclasses import dataclass

from sparsec.compiler.lowering.kernel import Array, Backend, KernelSpec
from sparsec.compiler.lowering.ops import Op

MARGIN = 0.95
"""A sparse kernel is kept if its price is at most this share of its dense rival's."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The kernel taken for an op.

    Attributes:
        spec: The kernel.
        price: Its predicted microseconds, changes of layout included.
        rival_price: The best dense kernel's.
        refused: Why a sparse kernel was not taken although the weight has a pattern; empty otherwise.
    """

    spec: KernelSpec
    price: float
    rival_price: float
    refused: str = ""


def choose(
    backend: Backend,
    op: Op,
    weight: Array | None = None,
    pattern: str = "dense",
    relayout: Callable[[KernelSpec], float] = lambda _: 0.0,
) -> Choice | None:
    """The cheapest candidate for `op`; None if no kernel of the back end computes it.

    `relayout` prices the changes of layout that a spec asks for, in microseconds.
    """
    priced = sorted(
        (
            (kernel.cost(spec, weight, backend.profile) + relayout(spec), spec)
            for kernel in backend.kernels.values()
            for spec in kernel.candidates(op, pattern, backend.lanes)
        ),
        key=lambda pair: (pair[0], repr(pair[1])),
    )
    dense = next(((price, spec) for price, spec in priced if spec.pattern == "dense"), None)
    sparse = next(((price, spec) for price, spec in priced if spec.pattern != "dense"), None)
    if dense is None:
        return None
    if sparse is not None and sparse[0] <= MARGIN * dense[0]:
        return Choice(sparse[1], sparse[0], dense[0])
    return Choice(dense[1], dense[0], dense[0], _reason(pattern, sparse, dense[0], backend))


def _reason(pattern: str, sparse: tuple[float, KernelSpec] | None, rival: float, backend: Backend) -> str:
    if pattern == "dense":
        return ""
    if sparse is None:
        return f"no {pattern} kernel of this precision and shape for {backend.name}"
    gain = f"{rival / sparse[0]:.2f}x" if sparse[0] else "unknown"
    return f"{pattern} kernel reaches {gain} of dense, needs {1 / MARGIN:.2f}x"
