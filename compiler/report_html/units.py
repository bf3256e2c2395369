# SPDX-License-Identifier: Apache-2.0
"""Quantities as the page writes them; those of the command line, with the signs that a page may use."""

from sparsec.compiler.text import in_bytes, in_count, in_percent, in_time, printable

NONE = "\N{EN DASH}"
_POWERS = str.maketrans("-0123456789", "\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT ZERO}\N{SUPERSCRIPT ONE}\N{SUPERSCRIPT TWO}"
                        "\N{SUPERSCRIPT THREE}\N{SUPERSCRIPT FOUR}\N{SUPERSCRIPT FIVE}\N{SUPERSCRIPT SIX}"
                        "\N{SUPERSCRIPT SEVEN}\N{SUPERSCRIPT EIGHT}\N{SUPERSCRIPT NINE}")  # fmt: skip

__all__ = ["NONE", "decibels", "factor", "in_bytes", "in_count", "in_percent", "ratio", "scientific", "share", "sides",
           "tail", "time"]  # fmt: skip


def time(microseconds: float | None) -> str:
    """``8.1 µs``, ``2.35 ms``; a dash for None."""
    return NONE if microseconds is None else in_time(microseconds).replace("us", "\N{MICRO SIGN}s")


def factor(ratio: float | None) -> str:
    """``1.35x``, ``12.3x``, with a multiplication sign; a dash for None."""
    return NONE if ratio is None else f"{ratio:.{2 if ratio < 9.995 else 1}f}\N{MULTIPLICATION SIGN}"


def share(part: float | None) -> str:
    """``12.5 %``; a dash for None."""
    return NONE if part is None else in_percent(part)


def decibels(value: float | None) -> str:
    """``27.8 dB``; a dash for None."""
    return NONE if value is None else f"{value:.1f} dB".replace("-", "\N{MINUS SIGN}")


def scientific(value: float) -> str:
    """``0.0409``; a small or great one as digits and a power of ten."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits}\N{MULTIPLICATION SIGN}10{str(int(power)).translate(_POWERS)}"


def tail(name: str, width: int = 26) -> str:
    """The name, printable; of a longer one the end, which tells layers apart better than the beginning."""
    safe = printable(name)
    return safe if len(safe) <= width else f"\N{HORIZONTAL ELLIPSIS}{safe[1 - width :]}"


def ratio(part: float | None, whole: float | None) -> float | None:
    """Their quotient, where there is one."""
    return part / whole if whole and part is not None else None


def sides(shape: list[int] | tuple[int, ...]) -> str:
    """``32x16x3x3``, with multiplication signs; a dash without any."""
    return "\N{MULTIPLICATION SIGN}".join(map(str, shape)) or NONE
