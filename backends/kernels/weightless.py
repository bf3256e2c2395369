# SPDX-License-Identifier: Apache-2.0
"""What kernels without packed weights have in common."""

from collections.abc import Iterable, Sequence

from sparsec.compiler.lowering.kernel import Array, KernelSpec
from sparsec.compiler.lowering.ops import PLAIN, Op


class Weightless:
    """Base of the kernels that read activations only: one spec for each op of their type, nothing to pack."""

    family: str
    op_type: type

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """The one spec, if `op` is of this family."""
        return [KernelSpec(self.family, op, inputs=self._layouts(op))] if isinstance(op, self.op_type) else []

    def prepare(self, spec: KernelSpec) -> KernelSpec | None:
        """Activations are read as they are."""
        return None

    def pack(self, spec: KernelSpec, weight: Array) -> Sequence[Array]:
        """No constants."""
        return ()

    def _layouts(self, op: Op) -> tuple[str, ...]:
        """Layout of each operand."""
        return (PLAIN,) * len(getattr(op, "operands", (0,)))
