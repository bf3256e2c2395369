# SPDX-License-Identifier: Apache-2.0
"""The report as a page: `report.html`, one file that loads nothing, made of `report.json` and the manifest."""
