# SPDX-License-Identifier: Apache-2.0
"""What lowering needs to know of a back end: kernels by family, prices, and a fallback, handed over as values."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from sparsec.compiler.lowering.ops import PLAIN, Op

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """Names one kernel: which family computes which op, under which encoding of the weight, with which tile.

    It says nothing of the instruction set: the same spec, with the same packed weights, is built for each twin.

    Attributes:
        family: The kernel's key in the back end's table.
        op: What is computed.
        pattern: Text form of the weight's zero pattern that the code exploits, ``dense`` for none.
        tile: The family's own numbers: rows, vectors, unrolling.
        inputs: Layout of each activation operand.
        output: Layout of the result.
    """

    family: str
    op: Op
    pattern: str = "dense"
    tile: tuple[int, ...] = ()
    inputs: tuple[str, ...] = (PLAIN,)
    output: str = PLAIN

    @property
    def symbol(self) -> str:
        """The name of the C function: the family and a digest of the whole spec."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:12]
        return f"{self.family.replace('-', '_')}_{digest}"


Profile = Mapping[str, float]
"""A machine's measured costs: names to numbers, see the back ends' profile.json."""


class Kernel(Protocol):
    """Code for one family of ops.

    A kernel's function takes pointers only, in this order: activation operands, packed constants in the order of
    `pack`, epilogue operands, output (further outputs). Pointers have the alignment of their element type, often more.
    A kernel never reads beyond its operands' bytes, nor writes beyond its output's.
    """

    family: str

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """Specs that compute `op` with a weight of this pattern; dense ones too. Empty if it is not this family's.

        `lanes` is the number of float32 in a vector register.
        """
        ...

    def prepare(self, spec: KernelSpec) -> KernelSpec | None:
        """A kernel that must run on the first activation; its result is what `build`'s function reads instead.

        The op of that kernel says how large its result is, as `out_bytes`. None if the activation is read as it is.
        """
        ...

    def build(self, spec: KernelSpec, isa: Any) -> Any:
        """The TIR PrimFunc for one instruction set."""
        ...

    def pack(self, spec: KernelSpec, weight: Array) -> Sequence[Array]:
        """The constants of the function from the dense weight: float32, or int8 codes."""
        ...

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """The same result by plain numpy; operands are activations then epilogue operands, in the spec's layouts."""
        ...

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """Predicted microseconds on the machine of `profile`."""
        ...


@dataclass(frozen=True, slots=True)
class FallbackCall:
    """A function of a fallback; a parameter is ``input``, ``constant``, ``temporary`` or ``output``, and its number."""

    symbol: str
    arguments: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Fallback:
    """An ONNX node as calls of general functions.

    Attributes:
        calls: In order.
        functions: The TIR functions by symbol.
        constants: Arrays that the functions read.
        temporaries: Bytes of each scratch buffer.
    """

    calls: tuple[FallbackCall, ...]
    functions: Mapping[str, Any]
    constants: tuple[Array, ...] = ()
    temporaries: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Backend:
    """All that lowering may know of a target.

    Attributes:
        name: The target, as text.
        lanes: float32 in a vector register of the widest code path.
        kernels: By family.
        profile: Measured costs; `profile_name` says of which machine.
        fallback: Lowers any other node: (node, input constants by position) -> Fallback.
        operators: ONNX operators that the fallback knows.
        twins: Profiles of slower code that is built from the same kernels; a sparse one must not lose there either.
    """

    name: str
    lanes: int
    kernels: Mapping[str, Kernel]
    profile: Profile
    profile_name: str
    fallback: Callable[..., Fallback]
    operators: frozenset[str] = frozenset()
    twins: tuple[Profile, ...] = ()
