# SPDX-License-Identifier: Apache-2.0
"""Every kernel of the CPU targets."""

from sparsec.backends.kernels.elementwise import ElementwiseKernel
from sparsec.compiler.lowering.kernel import Kernel

KERNELS: tuple[Kernel, ...] = (ElementwiseKernel(),)
