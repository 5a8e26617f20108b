"""Compare results with the reference: points by their metrics, claims by their numbers.

Equal sources give equal metrics, to the last bit on one machine. Another processor may round a sum
differently, after which a request can enter a batch one step sooner: `TOLERANCE` allows for that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.claims.evidence import SEARCHED, search_of
from bench.claims.reference import METRICS, read_claims, read_points
from bench.claims.searches import probe_spec
from bench.claims.verdicts import records
from bench.experiments import registry
from bench.experiments.tables import Choice
from bench.results.store import Store

if TYPE_CHECKING:
    from bench.point.spec import PointSpec

ROUNDING = 1e-9  # relative; what differs by less is equal
TOLERANCE = 0.01
MOST_LINES = 20


@dataclass(frozen=True)
class Comparison:
    """Results beside the reference.

    `panels` has a row for each panel: how many points the reference holds (`reference`), how many
    of them have been run (`compared`), are `equal`, `close` (within the tolerance) or differ by
    more (`other`), and the `worst` metric with its relative difference ("" if all are equal).
    `lines` name the points that differ by more; `num_unknown` points of the reference are not among
    the registry's present points.
    """

    directory: Path
    tolerance: float
    panels: pd.DataFrame
    num_unknown: int
    lines: tuple[str, ...] = ()

    def total(self, count: str) -> int:
        """The sum of a column of counts over all panels."""
        return int(self.panels[count].sum())

    @property
    def text(self) -> str:
        """The comparison in one line."""
        run, held = self.total("compared"), self.total("reference")
        if not run:
            return f"none of the {held} reference points has been run"
        parts = [f"{self.total('equal')} of {run} points run equal the reference"]
        if close := self.total("close"):
            parts.append(f"{close} are within {100 * self.tolerance:g} %")
        if other := self.total("other"):
            parts.append(f"{other} differ by more")
        return f"{', '.join(parts)}; it holds {held}"

    @property
    def shown_lines(self) -> Sequence[str]:
        """The first lines, and how many more there are."""
        more = len(self.lines) - MOST_LINES
        return [*self.lines[:MOST_LINES], *([f"… and {more} more"] if more > 0 else [])]


def known_specs(rows: Iterable[Mapping[str, Any]], choice: Choice) -> dict[str, PointSpec]:
    """The points of a reference by digest: the registry's, and those that its searches ask for."""
    panels = [panel for figure in registry.FIGURES.values() for panel in figure.panels]
    specs = {spec.digest: spec for panel in panels for spec in choice.points(panel)}
    for row in rows:
        if row["digest"] not in specs and (row["panel"], row["system"]) in SEARCHED:
            spec = search_of(row["panel"], row["system"], choice).spec
            probe = probe_spec(spec, int(row["seed"]), row["rate"])
            specs[probe.digest] = probe
    return specs


def compare(
    store: Store, directory: Path, choice: Choice, *, tolerance: float = TOLERANCE
) -> Comparison:
    """Compare all sound results of this choice with the reference in `directory`."""
    rows = read_points(directory)
    reference = pd.DataFrame(rows.values()).set_index("digest")
    specs = known_specs(rows.values(), choice)
    known = [digest for digest in reference.index if digest in specs]
    ours = store.load(specs[digest] for digest in known).set_index("digest")
    ours = ours.reindex(columns=list(METRICS)).astype(float)
    run = reference[reference.index.isin(ours.index)]
    ours = ours.loc[run.index]
    found = differences(run, ours)
    points = pd.DataFrame(
        {
            "panel": run["panel"],
            "compared": True,
            "equal": found.max(axis=1) == 0,
            "close": found.max(axis=1).between(0, tolerance, inclusive="right"),
            "other": found.max(axis=1) > tolerance,
            "difference": found.max(axis=1),
            "metric": [METRICS[i] for i in found.to_numpy().argmax(axis=1)],
        }
    )
    lines = [
        _line(run.loc[digest], ours.loc[digest], metric)
        for digest, metric in points.loc[points["other"], "metric"].items()
    ]
    num_unknown = len(reference) - len(known)
    panels = _by_panel(reference, points)
    return Comparison(directory, tolerance, panels, num_unknown, tuple(lines))


def _by_panel(reference: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """The counts of `Comparison.panels` from a row for each point compared."""
    held = reference.groupby("panel", sort=False).size().to_frame("reference")
    counts = points.groupby("panel")[["compared", "equal", "close", "other"]].sum()
    panels = held.join(counts).fillna(0).astype(int)
    worst = {
        row["panel"]: f"{row['metric']} {row['difference']:.2g}"
        for row in records(points[~points["equal"]].sort_values("difference"))
    }
    return panels.assign(worst=[worst.get(name, "") for name in panels.index]).reset_index()


def differences(reference: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    """Relative difference of every metric: 0 within rounding, infinite where only one has it."""
    expected, got = (frame[list(METRICS)].to_numpy(float) for frame in (reference, ours))
    gap = np.abs(got - expected)
    largest = np.fmax(np.abs(expected), np.abs(got))
    both_absent = np.isnan(expected) & np.isnan(got)
    equal = both_absent | (gap <= np.fmax(ROUNDING * largest, 1e-12))
    relative = gap / np.where(expected == 0, 1.0, np.abs(expected))
    found = np.where(equal, 0.0, np.where(np.isfinite(relative), relative, math.inf))
    return pd.DataFrame(found, index=reference.index, columns=list(METRICS))


def _line(reference: pd.Series[Any], ours: pd.Series[Any], metric: str) -> str:
    return (
        f"{reference['panel']}: {reference['system']} at {reference['rate']:g} req/s: {metric} is "
        f"{ours[metric]:.6g}, the reference has {reference[metric]:.6g}"
    )


def compare_claims(verdicts: pd.DataFrame, directory: Path) -> pd.DataFrame:
    """Compare our numbers with the reference's, for every claim with a number there.

    `difference` is ours over the reference's, less one; NaN where either is missing or zero.
    """
    there = pd.DataFrame(read_claims(directory)).dropna(subset="ours")
    there = there[["figure", "claim", "unit", "ours", "status"]]
    there = there.rename(columns={"ours": "reference", "status": "verdict_there"})
    here = verdicts[["figure", "claim", "paper_text", "ours", "status"]].astype({"ours": float})
    here = here.rename(columns={"paper_text": "paper", "status": "verdict"})
    found = there.merge(here, on=["figure", "claim"])
    ratio = found["ours"] / found["reference"].replace(0, math.nan) - 1
    found["difference"] = ratio.mask((found["reference"] == 0) & (found["ours"] == 0), 0.0)
    return found
