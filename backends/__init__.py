# SPDX-License-Identifier: Apache-2.0
"""One folder a target; kernels and the door to TVM are shared."""
