# SPDX-License-Identifier: Apache-2.0
"""x86-64: a static and a shared library with a C header."""

from sparsec.backends.native import emit

__all__ = ["emit"]
