# SPDX-License-Identifier: Apache-2.0
"""A package with one pass, as anyone may publish it."""
