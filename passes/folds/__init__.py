# SPDX-License-Identifier: Apache-2.0
"""Folding scales through a graph, exactly: what `smooth-quant` and `awq` share."""
