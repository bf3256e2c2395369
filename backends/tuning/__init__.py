# SPDX-License-Identifier: Apache-2.0
"""Measuring a machine: kernels are timed alone, and their times become the profile that kernels are priced with."""
