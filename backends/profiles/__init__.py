# SPDX-License-Identifier: Apache-2.0
"""Measured costs of one machine for each instruction set: ``{"machine": text, "costs": {name: number}}``."""
