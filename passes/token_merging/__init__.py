# SPDX-License-Identifier: Apache-2.0
"""Token merging: what `merge-tokens` is made of."""
