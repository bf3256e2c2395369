# SPDX-License-Identifier: Apache-2.0
"""x86-64: a static and a shared library with a C header."""
