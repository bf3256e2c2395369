# SPDX-License-Identifier: Apache-2.0
"""What `prune-channels` and `permute-channels` are made of: which units matter, and in which order they stand best."""
