"""The report as one page that needs no network and no scripts: verdicts, figures, provenance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from typing import TYPE_CHECKING

from bench.claims.verdicts import Status, Verdict, figure_label
from bench.experiments import registry
from bench.progress import clock
from bench.report.markup import Html, element, join, prose
from bench.report.page_method import method, provenance, workloads
from bench.report.page_parts import (
    SIGNS,
    bullets,
    capacity_tables,
    claim_table,
    dots,
    failure_list,
    picture,
    section,
)
from bench.report.wording import (
    BACKENDS,
    bases_text,
    figure_title,
    headline,
    pending_by_reason,
    settings_text,
)

if TYPE_CHECKING:
    from bench.report.build import Report
    from bench.report.pictures import Drawing

TITLE = "The paper's claims against this artifact"
NOTHING = (
    "There are no results of this kind yet: run figures first, for example `bench figure fig2`, "
    "then `bench report` again."
)


def to_html(report: Report, drawings: Mapping[str, Drawing]) -> str:
    """The whole page; equal reports and drawings give equal pages."""
    style = resources.files("bench.report").joinpath("page.css").read_text(encoding="utf-8")
    assert "</" not in style, "the style sheet must not close its element"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", TITLE),
        element("style", Html(style)),
    )
    body = element(
        "body",
        element("a", "Skip to the claims", href="#claims", class_="skip"),
        _header(report),
        element("main", *_sections(report, drawings)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _sections(report: Report, drawings: Mapping[str, Drawing]) -> Iterable[Html]:
    yield _contents(report)
    yield from _failures(report)
    for name in ("table1", *registry.FIGURES):
        verdicts = [verdict for verdict in report.verdicts if verdict.figure == name]
        if verdicts or (name in report.progress and name not in report.pending):
            yield _figure(report, name, verdicts, drawings.get(name))
    yield from _problems(report)
    yield method()
    yield workloads()
    yield from provenance(report)


def _header(report: Report) -> Html:
    return element(
        "header",
        element("p", "PagedAttention, SOSP 2023: reproducibility report", class_="kicker"),
        element("h1", TITLE),
        element("p", f"{headline(report)}.", class_="headline"),
        _glance(report),
        element("p", prose(BACKENDS[report.choice.backend]), class_="lead"),
        _facts(report),
        *([] if report.summary.num_points else [element("p", prose(NOTHING), class_="notice")]),
    )


def _facts(report: Report) -> Html:
    summary = report.summary
    devices = dict.fromkeys(d for v in report.verdicts for d in v.measurement.devices)
    kinds = {"sim": "simulated", "cpu": "measured on CPU", "cuda": "measured on GPU"}
    sources = [digest[:12] for digest in summary.facts.get("sources (SHA-256)", [])]
    facts = {
        "results": kinds[report.choice.backend],
        "devices": ", ".join(devices) or "none",
        "traces": settings_text(report).rstrip("."),
        "claims by basis": bases_text(report),
        "points": str(summary.num_points),
        "work, one point after another": clock(summary.busy_s),
        "sources": ", ".join(sources) or "-",
    }
    pairs = (
        element("div", element("dt", label), element("dd", value)) for label, value in facts.items()
    )
    return element("dl", *pairs, class_="facts")


def _glance(report: Report) -> Html:
    shares = [(status, report.count(status)) for status in Status]
    bar = [
        element("i", class_=status.name.lower(), style=f"flex-grow:{count}")
        for status, count in shares
        if count
    ]
    tiles = [
        element(
            "li",
            element("b", str(count)),
            element("span", SIGNS[status][2]),
            class_=f"tile {status.name.lower()}{'' if count else ' none'}",
        )
        for status, count in shares
    ]
    return join(
        element("div", *bar, class_="bar", aria_hidden="true"),
        element("ul", *tiles, class_="tiles"),
    )


def _contents(report: Report) -> Html:
    rows = []
    for name in dict.fromkeys(verdict.figure for verdict in report.verdicts):
        verdicts = [verdict for verdict in report.verdicts if verdict.figure == name]
        held = sum(verdict.status is Status.PASS for verdict in verdicts)
        rows.append(
            element(
                "li",
                element("a", figure_label(name), href=f"#{name}"),
                element("span", _short(figure_title(name)), class_="what"),
                dots(verdicts),
                element("span", f"{held} of {len(verdicts)} hold", class_="held"),
            )
        )
    return section("claims", "Claims by figure", element("ol", *rows, class_="contents"))


def _short(title: str) -> str:
    """A title without the figure's number at its end."""
    return title.rsplit(" (", 1)[0]


def _failures(report: Report) -> Iterable[Html]:
    undecided = [v for v in report.verdicts if v.status in (Status.FAIL, Status.OPEN)]
    if undecided:
        yield section(
            "failures", "What does not hold, or is open, and why", failure_list(undecided)
        )


def _figure(report: Report, name: str, verdicts: list[Verdict], drawing: Drawing | None) -> Html:
    figure = registry.FIGURES.get(name)
    parts: list[str] = []
    if figure is not None:
        parts.append(element("p", f"The paper, section {figure.section}: {figure.claim}."))
    capacities = capacity_tables(
        [row for row in report.capacities if figure and row.panel in _panels(name)]
    )
    shown = figure is not None and report.progress[name].num_sound > 0
    beside = [picture(drawing, name)] if drawing and (drawing.png or shown) else []
    if verdicts:
        beside.append(claim_table(verdicts, caption=f"Claims of {figure_label(name)}"))
    parts.append(element("div", *beside, class_="beside"))
    if capacities:
        parts.append(element("div", *capacities, class_="numbers"))
    if figure is not None:
        parts.append(element("p", prose(_made(report, name)), class_="made"))
    return section(name, figure_title(name), *parts)


def _panels(name: str) -> set[str]:
    return {panel.name for panel in registry.FIGURES[name].panels}


def _made(report: Report, name: str) -> str:
    """The command behind a figure, and how much of it has been run."""
    progress = report.progress[name]
    command = report.choice.command(name)
    if not progress.num_points:
        return f"Made by `{command}`."
    points = f"{progress.num_sound} of {progress.num_points} points"
    return f"Made by `{command}`: {points}, {progress.busy_s:.1f} s of work."


def _problems(report: Report) -> Iterable[Html]:
    if report.problems:
        lines = element("ul", *(element("li", line) for line in report.problems))
        count = f"{len(report.problems)} points"
        yield section(
            "problems",
            "Missing, corrupt and stale results",
            element("p", "Missing and corrupt points count for nothing on this page."),
            element("details", element("summary", count), lines, open="")
            if len(report.problems) <= 12
            else element("details", element("summary", count), lines),
        )
    if report.pending:
        lines = bullets(f"{', '.join(names)}: {why}." for why, names in pending_by_reason(report))
        yield section("pending", "Figures without results", lines)
