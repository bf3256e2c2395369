# SPDX-License-Identifier: Apache-2.0
"""Articles of Wikipedia as plain text, from the sample of its dump of April 2016 that gensim's tests carry."""

import bz2
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import iterparse

from sparsec.models.packages import import_tool, verified_file

_DUMP = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_ASIDE = ("ref", "table", "gallery", "math", "code", "source")
"""Tags whose content is no running text."""
_SHORTEST = 200
"""Characters of a paragraph; what is shorter is a heading, an entry of a list or a caption."""


def articles(folder: Path | None = None) -> list[str]:
    """The 106 articles, in the order of the dump: whole paragraphs, one a line, without references and tables.

    Args:
        folder: The folder of all packages.
    """
    parser = import_tool("mwparserfromhell", "mwparserfromhell", folder)
    return [_plain(parser.parse(markup)) for markup in _markup(verified_file("gensim", _DUMP, folder))]


def _markup(path: Path) -> Iterator[str]:
    """The markup of each article; pages that only point to another are left out."""
    with bz2.open(path) as dump:
        for _, element in iterparse(dump):
            text = element.text or ""
            if element.tag.endswith("}text") and text and not text.upper().startswith("#REDIRECT"):
                yield text


def _plain(code: Any) -> str:
    for tag in code.filter_tags(recursive=False, matches=lambda tag: str(tag.tag).lower() in _ASIDE):
        code.remove(tag)
    lines = (" ".join(line.split()) for line in code.strip_code().splitlines())
    return "\n".join(line for line in lines if len(line) >= _SHORTEST)
