"""Text and numbers from outside: what is read from a person, and shown to one."""

from __future__ import annotations

import math
import re
import reprlib

SHOWN = 60  # characters of a value in a message
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(
    r"-?(?:0|[1-9][0-9]{0,17}|(?=\.[0-9]))(?:\.[0-9]{0,20})?(?:[eE][+-]?[0-9]{1,3})?"
)


def parse_whole(text: str) -> int:
    """Read a whole number in ASCII digits without leading zeros; raises ValueError."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a whole number such as 12")
    return int(text)


def parse_decimal(text: str) -> float:
    """Read a finite number in ASCII digits, such as 0.5 or 1e-3; raises ValueError."""
    number = float(text) if _DECIMAL.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is not a number such as 2.5")
    return number


def shorten(text: str, limit: int = SHOWN) -> str:
    """The text, cut in its middle if it is longer than `limit` characters."""
    half = (limit - 3) // 2
    return text if len(text) <= limit else f"{text[: limit - 3 - half]}...{text[-half:]}"


def printable(text: str, *, keep: str = "") -> str:
    """The text with control characters and the like, but those to `keep`, as escapes: \\x1b."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign in keep else sign.encode("unicode_escape").decode()
        for sign in text
    )


def shown(value: object) -> str:
    """A value in a message: quoted if it is text, printable, and not too long."""
    text = f"'{value}'" if isinstance(value, str) else reprlib.repr(value)
    return shorten(printable(text))
