# SPDX-License-Identifier: Apache-2.0
"""Kernel generators in TIR, one family a file, shared by the CPU targets."""
