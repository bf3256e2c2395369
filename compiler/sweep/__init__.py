# SPDX-License-Identifier: Apache-2.0
"""Sweep: what pruning would cost, measured before anything is pruned, and how to spend a budget of densities."""
