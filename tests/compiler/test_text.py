# SPDX-License-Identifier: Apache-2.0
import pytest

from sparsec.compiler.text import distinct, in_bytes, in_count, in_error, in_percent, in_time, printable, shortened


@pytest.mark.parametrize(
    ("text", "safe"),
    [("plain ä 中", "plain ä 中"), ("\x1b[0m", "\\x1b[0m"), ("a\nb", "a\\nb"), ("\u202e\x00\x7f", "\\u202e\\x00\\x7f"),
     ("\ud800", "\\ud800")],
)  # fmt: skip
def test_control_characters_become_escapes(text, safe):
    assert printable(text) == safe


def test_kept_characters_stay():
    assert printable("a\nb\t\x07", keep="\n\t") == "a\nb\t\\x07"


def test_long_texts_stay_different():
    assert distinct(["short", "x" * 30], 11) == ["short", "xxxx...xxxx"]
    assert distinct(["a" * 9 + "1" + "b" * 9, "a" * 9 + "2" + "b" * 9], 9) == ["1 ...bbbb", "2 ...bbbb"]
    assert distinct(["block" * 4 + "1/weights", "block" * 4 + "2/weights"], 12) == ["...1/weights", "...2/weights"]
    many = [f"encoder.layer.{n}.attention.self.query" for n in range(12)]
    for width in (14, 20, 28):
        found = distinct(many, width)
        assert len(set(found)) == 12
        assert max(map(len, found)) <= width


def test_long_text_loses_its_middle():
    assert shortened("a" * 30 + "b" * 30, 21) == "a" * 9 + "..." + "b" * 9
    assert shortened("short", 21) == "short"


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (in_bytes(0), "0 B"),
        (in_bytes(999), "999 B"),
        (in_bytes(1000), "1.00 kB"),
        (in_bytes(43_123), "43.1 kB"),
        (in_bytes(999_900), "1.00 MB"),
        (in_bytes(5_200_000), "5.20 MB"),
        (in_count(812), "812"),
        (in_count(29_380), "29.4 k"),
        (in_time(8.13), "8.13 us"),
        (in_time(2350), "2.35 ms"),
        (in_time(None), "-"),
        (in_percent(0.125), "12.5 %"),
        (in_error(1.234e-6), "1.23e-06"),
        (in_error(None), "not finite"),
    ],
)
def test_quantities(found, text):
    assert found == text
