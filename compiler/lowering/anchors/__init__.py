# SPDX-License-Identifier: Apache-2.0
"""Operators that have kernels of their own: which uses they accept, and how each becomes calls."""
