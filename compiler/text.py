# SPDX-License-Identifier: Apache-2.0
"""Text for people: names made harmless, quantities with units."""

from collections.abc import Sequence


def printable(text: str, keep: str = "") -> str:
    """The text with control and formatting characters (but those in `keep`) as backslash escapes.

    Names come from models, which may be anyone's: an escape sequence in one must not reach the terminal.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str, width: int = 60) -> str:
    """The text, printable; one longer than `width` without its middle."""
    safe = printable(text)
    if len(safe) <= width:
        return safe
    half = (width - 3) // 2
    return f"{safe[:half]}...{safe[-half:]}"


def distinct(texts: Sequence[str], width: int) -> list[str]:
    """The texts, different ones, shortened so that they stay different.

    By their middles if that does; else to their ends; else to their ends behind a number, counted from 1.
    """
    ends = [_end(text, width) for text in texts]
    for found in ([shortened(text, width) for text in texts], ends):
        if len(set(found)) == len(texts):
            return found
    room = width - len(f"{len(texts)} ")
    return [f"{number} {_end(text, room)}" for number, text in enumerate(texts, 1)]


def _end(text: str, width: int) -> str:
    safe = printable(text)
    return safe if len(safe) <= width else f"...{safe[3 - width :]}"


def in_bytes(count: float) -> str:
    """``812 B``, ``43.1 kB``, ``5.20 MB``: powers of 1000."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB"))


def in_count(count: float) -> str:
    """``812``, ``43.1 k``, ``5.20 M``."""
    return _scaled(count, ("", "k", "M", "G", "T")).strip()


def in_time(microseconds: float | None) -> str:
    """``8.1 us``, ``2.35 ms``, ``1.20 s``; a dash for None."""
    return "-" if microseconds is None else _scaled(microseconds, ("us", "ms", "s"), whole=False)


def in_percent(share: float) -> str:
    """``12.5 %``."""
    return f"{100 * share:.1f} %"


def in_error(error: float | None) -> str:
    """A relative error; None stands for one that is not finite."""
    return "not finite" if error is None else f"{error:.2e}"


def _scaled(number: float, units: tuple[str, ...], *, whole: bool = True) -> str:
    unit = units[0]
    for unit in units:
        if number < 999.5 or unit == units[-1]:
            break
        number /= 1000
    digits = 0 if (whole and unit == units[0]) or number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f} {unit}"
