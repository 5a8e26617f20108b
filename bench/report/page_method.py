"""Sections of the page about where its numbers come from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench.claims.comparison import comparison_text, shown_lines
from bench.experiments import registry
from bench.report.markup import Html, element, prose
from bench.report.page_parts import bullets, section, table
from bench.report.wording import BASELINES, CAPACITY_METHOD, provenance_rows
from bench.workloads import assumptions

if TYPE_CHECKING:
    from bench.report.build import Report

BASES = (
    "**predicted**: simulated, and no parameter was fitted on this number.",
    "**calibrated**: simulated, and a parameter was fitted on this very number.",
    "**measured**: a model ran on the device that is named.",
    "**computed**: follows from sizes, or from a device profile's prices, without a run.",
)
PICTURES = (
    "Small pictures in the tables: the dark mark is the paper's value or range, the band what the "
    "tolerance allows, the dot ours (an arrow if it lies beyond the picture), and the thin line "
    "its 95 % interval over seeds."
)


def method() -> Html:
    """How numbers come about, and what was calibrated on what."""
    calibrations = [
        (f"{item.parameter} ({item.where})", item.fitted_on) for item in registry.CALIBRATIONS
    ]
    return section(
        "method",
        "How the numbers were obtained",
        bullets(BASES),
        element("p", PICTURES),
        element("h3", "Capacity"),
        element("p", prose(CAPACITY_METHOD)),
        element("h3", "What is calibrated"),
        element(
            "p", "These were fitted on numbers of the paper; all other numbers are predictions."
        ),
        table(("parameter", "fitted on"), calibrations, caption="Calibrations", class_="stacked"),
        element("h3", "What the baselines are"),
        bullets(BASELINES),
    )


def workloads() -> Html:
    """Every number that a synthetic workload assumes."""
    rows = [(a.workload, a.name, f"{a.value:g}", a.source) for a in assumptions()]
    head = ("workload", "number", "value", "source")
    return section(
        "workloads",
        "What the workloads assume",
        table(head, rows, caption="Assumptions of synthetic workloads", class_="stacked"),
    )


def provenance(report: Report) -> Iterable[Html]:
    """The reference held against the results, then sources, machine and time."""
    found = report.reference
    if found is not None:
        lines = element("ul", *(element("li", line) for line in shown_lines(found.lines)))
        yield section(
            "reference",
            "Against the reference results",
            element("p", f"{comparison_text(found)}."),
            *([lines] if found.lines else []),
        )
    rows = provenance_rows(report.summary)
    if rows:
        yield section(
            "provenance",
            "Provenance",
            table(("what", "value"), rows, caption="Sources, machine, time", class_="provenance"),
        )
