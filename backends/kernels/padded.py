# SPDX-License-Identifier: Apache-2.0
"""What kernels share that read a convolution's input through a `Plan`: in place, or from a padded copy."""

from sparsec.backends.kernels.pad import pad_spec
from sparsec.backends.kernels.plan import Plan, sums_of
from sparsec.backends.kernels.reference import finish_channels
from sparsec.compiler.lowering.kernel import Array, KernelSpec


class PaddedKernel:
    """Half of a `sparsec.compiler.lowering.kernel.Kernel`."""

    def prepare(self, spec: KernelSpec) -> KernelSpec | None:
        """The `Pad` kernel whose result is this kernel's operand; None if it reads the input itself."""
        pad = Plan.of(spec).walk.pad
        return pad_spec(pad) if pad else None

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """The same from the prepared operand, by numpy."""
        plan = Plan.of(spec)
        assert weight is not None
        return finish_channels(plan.op.epilogue, sums_of(plan, weight, operands[0]), operands[1:])
