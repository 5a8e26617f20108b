"""HTML from plain values: text and attributes are always escaped, markup never twice."""

from __future__ import annotations

import re
from base64 import b64encode
from html import escape

VOID = frozenset({"img", "meta", "br", "hr", "rect", "line", "circle", "path"})
_MARKED = re.compile(r"(\*\*.+?\*\*|`.+?`)")


class Html(str):
    """Markup that is ready to be written."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str | float | None) -> Html:
    """An element; children that are not markup are escaped.

    In attributes' names, `_` stands for `-`, and a trailing one only avoids Python's keywords.
    None leaves an attribute out.
    """
    told = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in VOID:
        assert not children, f"<{tag}> holds nothing"
        return Html(f"<{tag}{told}/>")
    return Html(f"<{tag}{told}>{join(*children)}</{tag}>")


def join(*children: str) -> Html:
    """Markup and text in a row; the text is escaped."""
    return Html("".join(c if isinstance(c, Html) else escape(c, quote=False) for c in children))


def prose(text: str) -> Html:
    """Text in which `**` marks strong words and backticks mark code."""
    parts = []
    for part in _MARKED.split(text):
        if part.startswith("**") and len(part) > 4:
            parts.append(element("strong", part[2:-2]))
        elif part.startswith("`") and len(part) > 2:
            parts.append(element("code", part[1:-1]))
        else:
            parts.append(join(part))
    return join(*parts)


def embedded(content: bytes, media_type: str) -> str:
    """A data URL, which needs no file and no network."""
    return f"data:{media_type};base64,{b64encode(content).decode('ascii')}"


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"
