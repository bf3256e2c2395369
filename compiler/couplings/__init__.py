# SPDX-License-Identifier: Apache-2.0
"""Couplings: which channels of which values and weights belong together, and how to remove or reorder them."""

from sparsec.compiler.couplings.analysis import Couplings, analyse
from sparsec.compiler.couplings.groups import CoupledGroup, Site
from sparsec.compiler.couplings.rewrite import Edit, rearrange

__all__ = ["CoupledGroup", "Couplings", "Edit", "Site", "analyse", "rearrange"]
