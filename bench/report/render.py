"""The report as one HTML page and as Markdown, from the templates beside this file.

The page needs no network and no scripts: style and figures are inside it. Equal reports and
drawings give equal files.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.claims import counts, verdicts
from bench.claims.verdicts import Status, records
from bench.experiments import registry
from bench.experiments.capacity import LIMIT_S_PER_TOKEN
from bench.progress import clock
from bench.report.build import Report
from bench.report.pictures import Drawing
from bench.report.points import panels_of
from bench.report.scale import scale
from bench.results.store import folder_of
from bench.validation import compare
from bench.workloads.assumed import assumptions
from engines.core.text import printable

_MARKED = re.compile(r"\*\*(.+?)\*\*|`(.+?)`")
# Signs of Markdown's; an underscore within a word is none.
_SIGNS = re.compile(r"([\\`*\[\]<>|$~&]|(?<![^\W_])_|_(?![^\W_]))")
PIXELS_PER_DOT = 96 / 300  # pictures have 300 dots to the inch, pages 96
ENLARGED = 1.25  # letters of 7 points are for print


def to_html(report: Report, drawings: Mapping[str, Drawing]) -> str:
    """The whole page."""
    return printable(_render("page.html.j2", report, drawings=drawings), keep="\n")


def to_markdown(report: Report) -> str:
    """The report as Markdown."""
    text = _render("report.md.j2", report)
    return printable(re.sub(r"\n{3,}", "\n\n", text).strip(), keep="\n") + "\n"


def to_reference_readme(report: Report) -> str:
    """The README of reference results: provenance, and every claim with what to expect."""
    return _render("reference.md.j2", report)


def _render(template: str, report: Report, **further: Any) -> str:
    rows = records(report.verdicts)
    panels = dict.fromkeys(row.panel for row in report.capacities)
    reasons = dict.fromkeys(report.pending.values())
    return (
        _environment()
        .get_template(template)
        .render(
            report=report,
            rows=rows,
            counts=counts.count(rows),
            figures={name: [r for r in rows if r["figure"] == name] for name in _figures(report)},
            capacities={name: [r for r in report.capacities if r.panel == name] for name in panels},
            pending={why: [n for n, w in report.pending.items() if w == why] for why in reasons},
            settings=settings_text(report),
            artifacts="../../" if report.choice.folder else "../",
            **further,
        )
    )


def _tolerances() -> list[tuple[str, str, str]]:
    """Claims that need not agree to the paper's last digit: which, how far off they may be, why."""
    figures = {"table1": registry.TABLE1_CLAIMS}
    figures |= {name: figure.claims for name, figure in registry.FIGURES.items()}
    found: dict[tuple[str, str, str], int] = {}
    for name, claims in figures.items():
        for claim in claims:
            if claim.tolerance is not None:
                key = (name, verdicts.tolerance_text(claim), claim.because)
                found[key] = found.get(key, 0) + 1
    return [
        (f"{verdicts.figure_label(name)}, {number} of {len(figures[name])}", amount, reason)
        for (name, amount, reason), number in found.items()
    ]


def _figures(report: Report) -> list[str]:
    """Figures with claims to show or points to run, in the paper's order."""
    judged = set(report.verdicts["figure"])
    runnable = set(report.progress) - set(report.pending)
    return [name for name in ("table1", *registry.FIGURES) if name in judged | runnable]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bench.report"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "basis": verdicts.basis_text,
        "cell": lambda text: text.replace("|", "/"),
        "folder": lambda spec: folder_of(spec).as_posix(),
        "foreign": markdown,
        "clock": clock,
        "data_url": _data_url,
        "label": verdicts.figure_label,
        "panels": panels_of,
        "prose": prose,
        "reasons": verdicts.by_reason,
        "scale": scale,
        "size": _size,
        "title": figure_title,
    }
    environment.globals |= {
        "validated": compare.TITLES,
        "Status": Status,
        "assumptions": assumptions(),
        "calibrations": registry.CALIBRATIONS,
        "limit": LIMIT_S_PER_TOKEN,
        "registry": registry.FIGURES,
        "tolerances": _tolerances(),
    }
    return environment


def settings_text(report: Report) -> str:
    """Which of the possible results are shown."""
    changed = ", ".join(f"{name} = {value}" for name, value in report.choice.overrides)
    return f"{report.choice.effort.words}{f'; changed settings: {changed}' if changed else ''}."


def figure_title(name: str) -> str:
    """The title over a figure's verdicts; Table 1 has verdicts too."""
    figure = registry.FIGURES.get(name)
    return figure.title if figure else "Memory for the KV cache (Table 1)"


def prose(text: str) -> Markup:
    """Text as HTML, in which `**` marks strong words and backticks mark code."""

    def mark(found: re.Match[str]) -> str:
        strong, code = found.groups()
        return f"<strong>{strong}</strong>" if strong else f"<code>{code}</code>"

    return Markup(_MARKED.sub(mark, str(escape(text))))


def markdown(text: object) -> str:
    """Text of results, which may hold anything, as Markdown that shows it as it is."""
    return _SIGNS.sub(r"\\\1", printable(str(text)))


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode('ascii')}"


def _size(png: bytes) -> tuple[int, int]:
    """Width and height of a picture on the page, in pixels."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n", "a picture is a PNG"
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    return round(width * PIXELS_PER_DOT * ENLARGED), round(height * PIXELS_PER_DOT * ENLARGED)
