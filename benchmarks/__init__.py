# SPDX-License-Identifier: Apache-2.0
"""Timings against peers, side by side in one run; `python -m benchmarks` writes the tables of docs/benchmarks.md."""
