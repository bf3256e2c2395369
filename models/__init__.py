# SPDX-License-Identifier: Apache-2.0
"""Networks to try sparsec on: real ones from pinned packages, and tiny ones drawn from a seed."""
