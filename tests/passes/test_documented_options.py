# SPDX-License-Identifier: Apache-2.0
"""Each option of the passes that quantize and recover has a row in the tables of their page."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from sparsec.compiler.registry import parse_pass

DOCS = Path(__file__).resolve().parents[2] / "docs"
SECTIONS = {
    "quantize": ("quantization", "## `quantize`"),
    "smooth-quant": ("quantization", "## `smooth-quant` and `awq`"),
    "awq": ("quantization", "## `smooth-quant` and `awq`"),
    "gqsa": ("quantization", "## `gqsa`"),
    "recover": ("recovery", "## Methods"),
}
ELSEWHERE = {"gqsa": {"densities"}}
"""Options that the row of another one explains."""


@pytest.mark.parametrize("name", SECTIONS)
def test_each_option_has_a_row(name):
    page, heading = SECTIONS[name]
    section = (DOCS / f"{page}.md").read_text("utf-8").partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) | ELSEWHERE.get(name, set())
    assert {field.name for field in fields(parse_pass(name))} - told == set()
