# SPDX-License-Identifier: Apache-2.0
"""The core: knows no single pass and no single target."""
