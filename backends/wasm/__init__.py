# SPDX-License-Identifier: Apache-2.0
"""WebAssembly: twin modules and an ES-module loader."""
