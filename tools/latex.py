"""Markdown as LaTeX: as much of it as the appendix uses, in two columns of article.cls."""

from __future__ import annotations

import re
from collections.abc import Iterable

from markdown_it import MarkdownIt
from markdown_it.token import Token

HEAD = r"""% Made from tools/appendix.md.j2 by `python -m tools.readme`: do not edit.
\documentclass[10pt,twocolumn]{article}
\usepackage[utf8]{inputenc}
\usepackage[a4paper,margin=18mm,columnsep=7mm]{geometry}
\usepackage[hidelinks]{hyperref}
\setlength{\parindent}{0pt}\setlength{\parskip}{2pt}\setlength{\emergencystretch}{3em}
\pagestyle{empty}
\begin{document}
\small
"""
COLUMN = 50  # characters of typewriter in a column
SPECIAL = str.maketrans(
    {sign: rf"\{sign}" for sign in "%&_#{}$"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$", "<": r"$<$", ">": r"$>$", "|": r"$|$"}
)
MARKS = {
    "paragraph_open": "", "paragraph_close": "\n\n", "heading_close": "}\n\n",
    "bullet_list_open": "\\begin{list}{$\\bullet$}{\\leftmargin=1em \\itemsep=1pt "
    "\\parsep=0pt \\topsep=1pt}\n",
    "bullet_list_close": "\\end{list}\n\n", "list_item_open": r"\item ", "list_item_close": "",
    "strong_open": r"\textbf{", "strong_close": "}", "em_open": r"\emph{", "em_close": "}",
    "link_close": "}", "softbreak": "\n",
}  # fmt: skip


def to_latex(markdown: str) -> str:
    """A whole document; raises KeyError for what it does not know, such as tables."""
    return f"{HEAD}{''.join(map(_text, _flat(MarkdownIt().parse(markdown))))}\\end{{document}}\n"


def _flat(tokens: Iterable[Token]) -> Iterable[Token]:
    for token in tokens:
        yield from _flat(token.children or ()) if token.type == "inline" else (token,)


def _text(token: Token) -> str:
    match token.type:
        case "heading_open":
            text = r"\section*{" if token.tag == "h1" else r"\subsection*{"
        case "text":
            text = escape(token.content)
        case "code_inline":
            text = rf"\texttt{{{escape(token.content)}}}".replace("/", r"/\allowbreak ")
        case "fence":
            text = f"\\begin{{verbatim}}\n{_folded(token.content)}\\end{{verbatim}}\n\n"
        case "link_open":
            address = str(token.attrs["href"])  # of a file beside the appendix: its words suffice
            text = rf"\href{{{address}}}{{" if "://" in address else "{"
        case _:
            text = MARKS[token.type]
    return text


def _folded(text: str) -> str:
    """Lines that fit into a column."""
    return re.sub(rf"(.{{1,{COLUMN}}})(?: |$)\n?", r"\1\n", text, flags=re.M)


def escape(text: str) -> str:
    """Text with LaTeX's signs as they are read."""
    return text.translate(SPECIAL)
