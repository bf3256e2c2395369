# SPDX-License-Identifier: Apache-2.0
"""Quantities as the page writes them; those of the command line, with the signs that a page may use."""

import re

from sparsec.compiler.text import in_bytes, in_count, in_percent, in_time, printable

__all__ = [
    "NONE", "brief", "decibels", "factor", "in_bytes", "in_count", "in_percent", "ratio", "scientific", "share",
    "sides", "time",
]  # fmt: skip

NONE = "\N{EN DASH}"
_TIMES = "\N{MULTIPLICATION SIGN}"
_RAISED = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
_PARTS = re.compile(r"([./])")


def time(microseconds: float | None) -> str:
    """``8.1 µs``, ``2.35 ms``; a dash for None."""
    return NONE if microseconds is None else in_time(microseconds).replace("us", "\N{MICRO SIGN}s")


def factor(gain: float | None) -> str:
    """``1.35x``, ``12.3x``, with a multiplication sign; a dash for None."""
    return NONE if gain is None else f"{gain:.{2 if gain < 9.995 else 1}f}{_TIMES}"


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
    return f"{digits}{_TIMES}10{str(int(power)).translate(_RAISED)}"


def brief(name: str, width: int = 28) -> str:
    """The name, printable; in a longer one, parts of the path without a digit become a letter, from the left.

    ``/backbone/encoder/layer.0/mlp/fc1/MatMul`` becomes ``/b/e/layer.0/mlp/fc1/MatMul``, which still differs from its
    neighbours. What is then too long loses its beginning.
    """
    parts = _PARTS.split(printable(name))
    for index, part in enumerate(parts[:-1]):
        if sum(map(len, parts)) <= width:
            break
        parts[index] = part if any(map(str.isdigit, part)) else part[:1]
    short = "".join(parts)
    return short if len(short) <= width else f"\N{HORIZONTAL ELLIPSIS}{short[1 - width :]}"


def ratio(part: float | None, whole: float | None) -> float | None:
    """Their quotient, where there is one."""
    return part / whole if whole and part is not None else None


def sides(shape: list[int] | tuple[int, ...]) -> str:
    """``32x16x3x3``, with multiplication signs; a dash without any."""
    return _TIMES.join(map(str, shape)) or NONE
