# SPDX-License-Identifier: Apache-2.0
"""Runs a model with torch, differentiably; importing a module of this folder loads torch."""
