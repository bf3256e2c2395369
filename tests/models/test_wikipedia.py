# SPDX-License-Identifier: Apache-2.0
"""The text of a dump: what is an article, and what of it is running text."""

import bz2

import pytest

from sparsec.models import wikipedia
from sparsec.models.packages import import_tool

LONG = "A sentence about [[Rivers|rivers]] that is '''long''' enough to be a paragraph. " * 4
PAGE = f"""{{{{Infobox|a=1}}}}
{LONG}<ref>Smith, ''Rivers'', p. 4 {LONG}</ref>
== Sources ==
{{| class="wikitable"
| {LONG}
|}}
* short
{LONG}
"""


@pytest.fixture
def parser(installed):
    installed("mwparserfromhell")
    return import_tool("mwparserfromhell", "mwparserfromhell")


def test_pages_that_point_elsewhere_are_no_articles(tmp_path):
    pages = "".join(f"<page><text>{text}</text></page>" for text in ("one", "#REDIRECT [[one]]", "", "#Redirect x"))
    dump = f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{pages}</mediawiki>'
    (tmp_path / "dump.bz2").write_bytes(bz2.compress(dump.encode()))
    assert list(wikipedia._markup(tmp_path / "dump.bz2")) == ["one"]


def test_paragraphs_alone_are_kept(parser):
    sentence = "A sentence about rivers that is long enough to be a paragraph."
    paragraph = " ".join([sentence] * 4)
    assert wikipedia._plain(parser.parse(PAGE)) == f"{paragraph}\n{paragraph}"
