"""Parts of the report's page: tables, verdicts, pictures, lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from bench.claims.verdicts import (
    Status,
    Verdict,
    basis_text,
    by_reason,
    deviation_text,
    figure_label,
    gap_text,
    interval_text,
    ours_text,
    paper_text,
    reason_text,
    source_text,
    tolerance_text,
    why_text,
)
from bench.experiments import registry
from bench.report.markup import Html, element, embedded, join, prose
from bench.report.scale import scale
from bench.report.wording import CAPACITY_HEAD, capacity_cells

if TYPE_CHECKING:
    from bench.report.build import CurveCapacity
    from bench.report.pictures import Drawing

# Sign, words for one claim, words for several.
SIGNS = {
    Status.PASS: ("✓", "holds", "hold"),
    Status.FAIL: ("✕", "does not hold", "do not hold"),
    Status.OPEN: ("?", "open", "open"),
    Status.INCOMPLETE: ("…", "incomplete", "incomplete"),
    Status.NOT_RUN: ("-", "not run", "not run"),
}
PIXELS_PER_DOT = 96 / 300  # pictures have 300 dots to the inch, pages 96
ENLARGED = 1.25  # letters of 7 points are for print
CLAIM_HEAD = ("claim", "verdict", "paper", "ours", "deviation", "", "obtained")
NUMBERS = frozenset({"paper", "ours", "deviation"})


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str, class_: str = ""
) -> Html:
    """A table whose cells name their column, so that a narrow page can stack them."""
    columns = element("tr", *(_header(name) for name in head), role="row")
    body = [element("tr", *_cells(head, row), role="row") for row in rows]
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", columns, role="rowgroup"),
            element("tbody", *body, role="rowgroup"),
            class_=class_ or None,
            role="table",
        ),
        class_="scroll",
    )


def _header(name: str) -> Html:
    number = "number" if name in NUMBERS else None
    label = name or element("span", "picture of the deviation", class_="hidden")
    return element("th", label, scope="col", role="columnheader", class_=number)


def _cells(head: Sequence[str], row: Sequence[str]) -> Iterable[Html]:
    for index, (name, cell) in enumerate(zip(head, row, strict=True)):
        number = "number" if name in NUMBERS else None
        if index == 0:
            yield element("th", cell, scope="row", role="rowheader")
        else:
            yield element("td", cell, role="cell", class_=number, data_label=name or None)


def badge(status: Status) -> Html:
    """A verdict as a sign and words."""
    sign, words, _ = SIGNS[status]
    mark = element("span", sign, aria_hidden="true")
    return element("span", mark, join(" " + words), class_=f"badge {status.name.lower()}")


def dots(verdicts: Iterable[Verdict]) -> Html:
    """One small square for each claim; the words beside say the same."""
    marks = [element("i", class_=f"dot {verdict.status.name.lower()}") for verdict in verdicts]
    return element("span", *marks, class_="dots", aria_hidden="true")


def claim_table(verdicts: Sequence[Verdict], *, caption: str) -> Html:
    """The claims of one figure, with what was calibrated on them as notes below."""
    texts = [v.claim.calibrated for v in verdicts if v.ours and v.basis == "calibrated"]
    notes = {text: chr(ord("a") + i) for i, text in enumerate(dict.fromkeys(texts))}
    rows = [_claim_row(verdict, notes) for verdict in verdicts]
    told = [join(element("sup", mark), f" calibrated: {text}. ") for text, mark in notes.items()]
    return element(
        "div",
        table(CLAIM_HEAD, rows, caption=caption, class_="claims stacked"),
        *([element("p", *told, class_="made")] if told else []),
        class_="verdicts",
    )


def _claim_row(verdict: Verdict, notes: Mapping[str, str]) -> list[str]:
    interval = interval_text(verdict)
    ours = ours_text(verdict)
    if interval:
        ours = join(ours, element("small", f"95 %: {interval}"))
    allowed = (
        element("small", f"allowed {tolerance_text(verdict.claim)}")
        if verdict.claim.tolerance
        else ""
    )
    source = element("small", source_text(verdict)) if verdict.ours else ""
    stale = element("small", "stale") if verdict.measurement.stale else ""
    mark = notes.get(verdict.claim.calibrated) if verdict.basis == "calibrated" else None
    note = element("sup", mark) if mark and verdict.ours else ""
    return [
        verdict.claim.text,
        join(badge(verdict.status), stale),
        paper_text(verdict.claim),
        ours,
        join(deviation_text(verdict), allowed),
        scale(verdict),
        join(basis_text(verdict, detail=False), note, source),
    ]


def failure_list(verdicts: Sequence[Verdict]) -> Html:
    """The claims that do not hold or are not decided, each with its reason."""
    return element("ul", *(_reason(group) for group in by_reason(verdicts)), class_="reasons")


def _reason(group: Sequence[Verdict]) -> Html:
    first = group[0]
    heading = [badge(first.status), " ", _link(first.figure), ": "]
    if len(group) == 1:
        heading.append(element("strong", first.claim.text))
        parts = [element("p", *heading), element("p", _sentence(reason_text(first)))]
    else:
        heading.append(element("strong", f"{len(group)} claims"))
        gaps = (element("li", f"{v.claim.text}: {gap_text(v)}") for v in group)
        why = element("p", _sentence(why_text(first.claim)))
        parts = [element("p", *heading), element("ul", *gaps), why]
    return element("li", *parts, class_=f"reason {first.status.name.lower()}")


def _sentence(text: str) -> Html:
    return prose(text[:1].upper() + text[1:] + ("" if text.endswith(".") else "."))


def _link(name: str) -> Html:
    return element("a", figure_label(name), href=f"#{name}")


def picture(drawing: Drawing, name: str) -> Html:
    """A figure inside the page, with words for those who cannot see it."""
    if not drawing.png:
        return element("p", f"Not drawn: {drawing.problem}.", class_="notice")
    width, height = _pixels(drawing.png)
    figure = registry.FIGURES[name]
    return element(
        "figure",
        element(
            "img",
            src=embedded(drawing.png, "image/png"),
            alt=f"{figure.title}: {figure.claim}. The numbers stand in the tables beside.",
            width=round(width * PIXELS_PER_DOT * ENLARGED),
            height=round(height * PIXELS_PER_DOT * ENLARGED),
        ),
    )


def _pixels(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n", "a picture is a PNG"
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def capacity_tables(rows: Sequence[CurveCapacity]) -> list[Html]:
    """One small table for each panel; the last column only where something was searched."""
    panels = dict.fromkeys(row.panel for row in rows)
    return [_capacity_table([row for row in rows if row.panel == panel]) for panel in panels]


def _capacity_table(rows: Sequence[CurveCapacity]) -> Html:
    searched = any(row.searched is not None for row in rows)
    count = len(CAPACITY_HEAD) if searched else len(CAPACITY_HEAD) - 1
    cells = [capacity_cells(row)[:count] for row in rows]
    return table(CAPACITY_HEAD[:count], cells, caption=rows[0].title, class_="capacities")


def bullets(lines: Iterable[str]) -> Html:
    """A plain list; `**` and backticks mark words."""
    return element("ul", *(element("li", prose(line)) for line in lines))


def section(name: str, title: str, *children: str) -> Html:
    """A section with a heading, to which links lead by `name`."""
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *children, id=name, aria_labelledby=f"{name}-title")
