# SPDX-License-Identifier: Apache-2.0
"""The catalog: real networks built in code, and where their weights come from."""
