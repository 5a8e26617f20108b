"""Hold results against the reference: points by their metrics, claims by their numbers.

Equal sources give equal metrics, to the last bit on one machine. Another processor may round a sum
differently, after which a request can enter a batch one step sooner: `TOLERANCE` allows for that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.claims.reference import METRICS, read_claims, read_points
from bench.experiments import registry
from bench.experiments.tables import Choice, PointStore

if TYPE_CHECKING:
    from bench.point.spec import PointSpec
    from bench.report.build import Report

ROUNDING = 1e-9  # relative; what differs by less is equal
TOLERANCE = 0.01
MOST_LINES = 20


@dataclass(frozen=True)
class PanelComparison:
    """How the points of one panel compare. `worst` describes the largest difference, if any."""

    panel: str
    num_reference: int
    num_compared: int
    num_equal: int
    num_close: int  # not equal, but within the tolerance
    worst: str = ""

    @property
    def num_other(self) -> int:
        """Points beyond the tolerance."""
        return self.num_compared - self.num_equal - self.num_close


@dataclass(frozen=True)
class Comparison:
    """Results held against the reference.

    `lines` name the points beyond the tolerance, with the metric that differs most; `num_unknown`
    points of the reference are not among the registry's present points.
    """

    directory: Path
    tolerance: float
    panels: tuple[PanelComparison, ...]
    num_unknown: int
    lines: tuple[str, ...] = field(default=())

    def total(self, name: str) -> int:
        """The sum of a count over all panels."""
        return sum(getattr(panel, name) for panel in self.panels)


@dataclass(frozen=True)
class ClaimComparison:
    """A claim's number in the reference and here; None where there is none."""

    figure: str
    claim: str
    paper: str
    unit: str
    reference: float | None
    ours: float | None
    verdicts: tuple[str, str]  # there and here

    @property
    def difference(self) -> float | None:
        """Ours over the reference's, less one; None where either is missing or zero."""
        if self.reference is None or self.ours is None:
            return None
        if self.reference == 0:
            return 0.0 if self.ours == 0 else None
        return self.ours / self.reference - 1


def registered_specs(choice: Choice) -> dict[str, PointSpec]:
    """Every point of the registry under this choice, by digest."""
    panels = [panel for figure in registry.FIGURES.values() for panel in figure.panels]
    return {spec.digest: spec for panel in panels for spec in choice.points(panel)}


def compare(
    store: PointStore, directory: Path, choice: Choice, *, tolerance: float = TOLERANCE
) -> Comparison:
    """Hold all sound results of this choice against the reference in `directory`."""
    reference = read_points(directory)
    specs = registered_specs(choice)
    known = [digest for digest in reference if digest in specs]
    loaded = store.load(specs[digest] for digest in known).set_index("digest")
    rows = {str(digest): row for digest, row in loaded.to_dict("index").items()}
    panels: dict[str, list[str]] = {}
    for digest, row in reference.items():
        panels.setdefault(row["panel"], []).append(digest)
    lines: list[str] = []
    compared = [
        _panel(name, [(reference[d], rows.get(d)) for d in digests], lines, tolerance=tolerance)
        for name, digests in panels.items()
    ]
    unknown = len(reference) - len(known)
    return Comparison(directory, tolerance, tuple(compared), unknown, tuple(lines))


def _panel(
    name: str,
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[Any, Any] | None]],
    lines: list[str],
    *,
    tolerance: float,
) -> PanelComparison:
    """Compare one panel's points; adds a line for each that is beyond the tolerance."""
    num_equal = num_close = 0
    worst: tuple[float, str] = (0.0, "")
    compared = [(reference, ours) for reference, ours in pairs if ours is not None]
    for reference, ours in compared:
        found = differences(reference, ours)
        if not found:
            num_equal += 1
            continue
        metric = max(found, key=lambda key: found[key])
        worst = max(worst, (found[metric], f"{metric} {found[metric]:.2g}"))
        if found[metric] <= tolerance:
            num_close += 1
        else:
            lines.append(_line(reference, ours, metric))
    return PanelComparison(name, len(pairs), len(compared), num_equal, num_close, worst[1])


def differences(reference: Mapping[Any, Any], ours: Mapping[Any, Any]) -> dict[str, float]:
    """Relative difference of every metric that is not the same within rounding."""
    found = {}
    for metric in METRICS:
        expected, got = (_number(row.get(metric)) for row in (reference, ours))
        if math.isnan(expected) and math.isnan(got):
            continue
        if not math.isclose(expected, got, rel_tol=ROUNDING, abs_tol=1e-12):
            scale = abs(expected) or 1.0
            found[metric] = abs(got - expected) / scale if math.isfinite(got) else math.inf
    return found


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _line(reference: Mapping[str, Any], ours: Mapping[Any, Any], metric: str) -> str:
    return (
        f"{reference['panel']}: {reference['system']} at {reference['rate']:g} req/s: {metric} is "
        f"{_number(ours.get(metric)):.6g}, the reference has {reference[metric]:.6g}"
    )


def compare_claims(report: Report, directory: Path) -> list[ClaimComparison]:
    """Hold the report's numbers against the reference's, for every claim with a number there.

    A number that rests on capacity searches is held against the one that does so there.
    """
    from bench.claims.verdicts import paper_text

    ours = {(v.figure, v.claim.text): v for v in report.verdicts}
    found = []
    for row in read_claims(directory):
        verdict = ours.get((row["figure"], row["claim"]))
        if verdict is None:
            continue
        by_search = verdict.measurement.method == "searched"
        number, status = ("searched", "searched_verdict") if by_search else ("ours", "verdict")
        if row[number]:
            estimate = verdict.ours
            found.append(
                ClaimComparison(
                    figure=row["figure"],
                    claim=row["claim"],
                    paper=paper_text(verdict.claim),
                    unit=row["unit"],
                    reference=float(row[number]),
                    ours=None if estimate is None else estimate.value,
                    verdicts=(row[status], verdict.status.value),
                )
            )
    return found


def comparison_text(found: Comparison) -> str:
    """The comparison in one line."""
    run, held = found.total("num_compared"), found.total("num_reference")
    if not run:
        return f"none of the {held} reference points has been run"
    parts = [f"{found.total('num_equal')} of {run} points run equal the reference"]
    if close := found.total("num_close"):
        parts.append(f"{close} are within {100 * found.tolerance:g} %")
    if other := found.total("num_other"):
        parts.append(f"{other} differ by more")
    return f"{', '.join(parts)}; it holds {held}"


def shown_lines(lines: Sequence[str]) -> Iterable[str]:
    """The first lines, and how many more there are."""
    yield from lines[:MOST_LINES]
    if len(lines) > MOST_LINES:
        yield f"… and {len(lines) - MOST_LINES} more"
