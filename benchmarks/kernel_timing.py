# SPDX-License-Identifier: Apache-2.0
"""Times single kernels on this machine: natively through ctypes, WebAssembly in Node."""

from sparsec.backends.tuning.timing import Case, best_us

__all__ = ["Case", "best_us"]
