"""The verdict table: one row a claim, with the paper's number, ours, and whether the claim holds.

Page, Markdown, terminal, JSON, CSV and README are views of it. Columns that end in `_text` are for
people, the others for machines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import pandas as pd

from bench.claims.evidence import Evidence
from bench.claims.measures import MEASURES, Measurement
from bench.experiments import registry
from bench.experiments.capacity import Bound
from bench.experiments.effort import Effort
from bench.experiments.model import Claim

Row = dict[str, Any]


class Status(StrEnum):
    """What became of a claim. Only PASS counts as reproduced."""

    PASS = "pass"
    FAIL = "fail"
    OPEN = "open"  # neither held nor refuted, see Doubt
    INCOMPLETE = "incomplete"
    NOT_RUN = "not run"


class Doubt(StrEnum):
    """Why a claim is open."""

    INTERVAL = "interval"  # the seeds' 95 % interval reaches over the edge of what is allowed
    ASSUMED = "assumed"  # an assumption would decide it
    ONE_SIDED = "one-sided"  # of our number only a bound is known
    SHORT = "quick"  # it does not hold in a quick run, which refutes nothing


# Columns of the table that are taken over as they are.
_OF_CLAIM = ("path", "unit", "paper", "kind", "tolerance", "calibrated", "assumed", "notes")
_OF_MEASUREMENT = ("num_points", "absent", "devices", "seeds", "stale", "interval", "method")

UNDECIDED = (Status.OPEN, Status.INCOMPLETE, Status.NOT_RUN)


def table(evidence: Evidence) -> pd.DataFrame:
    """Judge every claim from whatever results there are; the columns are those of `judge`.

    Claims that only a device can decide are left out unless existing results decide them.
    """
    claims = [("table1", claim) for claim in registry.TABLE1_CLAIMS]
    claims += [(figure.name, c) for figure in registry.FIGURES.values() for c in figure.claims]
    choice = evidence.choice
    rows = [
        judge(
            figure,
            claim,
            MEASURES[claim.measure](evidence, **claim.args),
            backend=choice.backend,
            quick=choice.effort is Effort.QUICK,
        )
        for figure, claim in claims
    ]
    pending = evidence.pending
    shown = [r for r in rows if not (r["figure"] in pending and r["status"] in UNDECIDED)]
    return pd.DataFrame(shown, dtype=object)


def judge(
    figure: str, claim: Claim, found: Measurement, *, backend: str, quick: bool = False
) -> Row:
    """Compare a measurement with the paper's number: one row of the table.

    `backend` is that of the results. `deviation` is in the claim's kind: percentage points, or a
    fraction of the paper's value (of the nearer end of a range; 0 inside it). Of a mean over seeds
    the whole 95 % interval must be allowed for the claim to hold, and none of it for it not to.
    """
    estimate = found.estimate
    used = found.backend or (backend if found.num_points or estimate is None else "none")
    status, doubt = _status(claim, found, quick=quick, simulated=used == "sim")
    row: Row = {
        "figure": figure,
        "claim": claim.text,
        "limit": claim.bound,
        **{name: getattr(claim, name) for name in _OF_CLAIM},
        **{name: getattr(found, name) for name in _OF_MEASUREMENT},
        "backend": used,
        "paper_range": paper_range(claim),
        "ours": None if estimate is None else estimate.value,
        "bound": None if estimate is None else estimate.bound,
        "deviation": None if estimate is None else deviation_of(claim, estimate.value),
        "allowed": allowed(claim),
        "status": status,
        "doubt": doubt,
        "basis": None if estimate is None else _basis(claim, used),
    }
    return row | _texts(row, claim)


def _status(
    claim: Claim, found: Measurement, *, quick: bool, simulated: bool
) -> tuple[Status, Doubt | None]:
    if found.absent:
        all_absent = len(found.absent) == found.num_points
        return (Status.NOT_RUN if all_absent else Status.INCOMPLETE), None
    if found.estimate is None:
        return (Status.OPEN, Doubt.ONE_SIDED) if found.num_points else (Status.NOT_RUN, None)
    if claim.assumed and simulated:
        return Status.OPEN, Doubt.ASSUMED
    doubt = _doubt(claim, found)
    if doubt is not None:
        return Status.OPEN, doubt
    if _is_within(found.estimate.value, allowed(claim)):
        return Status.PASS, None
    too_short = quick and found.num_points > 0
    return (Status.OPEN, Doubt.SHORT) if too_short else (Status.FAIL, None)


def _doubt(claim: Claim, found: Measurement) -> Doubt | None:
    """Why a number leaves open whether it is within what is allowed; None if it does not."""
    assert found.estimate is not None, "without a number there is nothing to doubt"
    low, high = allowed(claim)
    value, bound = found.estimate.value, found.estimate.bound
    ends = found.interval or (value, value)
    if bound is not Bound.EXACT:
        excluded = ends[0] > high if bound is Bound.AT_LEAST else ends[1] < low
        return None if excluded else Doubt.ONE_SIDED
    inside = [_is_within(end, (low, high)) for end in ends]
    apart = ends[1] < low or ends[0] > high
    return None if all(inside) or apart else Doubt.INTERVAL


def _is_within(value: float, ends: tuple[float, float]) -> bool:
    """Whether a value is allowed; a rounding error on the edge is no failure."""
    slack = 1e-9 * max(1.0, abs(value))
    return ends[0] - slack <= value <= ends[1] + slack


def allowed(claim: Claim) -> tuple[float, float]:
    """What our number may be: half a unit of the paper's last digit about it, or the tolerance."""
    low, high = paper_range(claim)
    below, above = claim.half_units
    if claim.tolerance is not None:
        scale = (1.0, 1.0) if claim.kind == "points" else (abs(low), abs(high))
        below, above = (claim.tolerance * size for size in scale)
    return (low if math.isinf(low) else low - below), high + above


def deviation_of(claim: Claim, ours: float) -> float:
    """Signed distance from the paper's value, or from the nearer end of its range."""
    low, high = paper_range(claim)
    nearest = min(max(ours, low), high)
    return ours - nearest if claim.kind == "points" else (ours - nearest) / abs(nearest)


def paper_range(claim: Claim) -> tuple[float, float]:
    """The paper's range; both ends are the value where it gives just one."""
    low, high = claim.paper if isinstance(claim.paper, tuple) else (claim.paper, claim.paper)
    return (-math.inf if claim.kind == "at-most" else low), high


def _basis(claim: Claim, backend: str) -> str:
    """How our number came about: one of `counts.BASES`."""
    if backend == "none":
        return "computed"
    if backend != "sim":
        return "measured"
    return "calibrated" if claim.calibrated else "predicted"


def _texts(row: Row, claim: Claim) -> Row:
    """The columns for people: `gap_text` says by how much a claim misses, `reason_text` why."""
    unit = _unit(claim)
    texts = {
        "paper_text": paper_text(claim),
        "tolerance_text": tolerance_text(claim),
        "allowed_text": _allowed_text(claim),
        "ours_text": "-",
        "deviation_text": "-",
        "interval_text": "",
        "source_text": _source_text(row),
    }
    if row["ours"] is not None:
        digits = 0 if abs(row["ours"]) >= 1000 else 2
        texts["ours_text"] = f"{row['bound'].value}{row['ours']:.{digits}f}{unit}"
        ranged = isinstance(claim.paper, tuple) or claim.kind == "at-most"
        inside = row["deviation"] == 0 and ranged
        texts["deviation_text"] = "inside" if inside else _amount(claim, row["deviation"], sign="+")
    if row["interval"] is not None:
        low, high = row["interval"]
        texts["interval_text"] = f"{low:.2f} to {high:.2f}{unit}"
    texts["gap_text"] = (
        f"{texts['ours_text']} against {texts['paper_text']}, off by {texts['deviation_text']} "
        f"where {texts['allowed_text']} is allowed"
    )
    bound = f"its setup allows at most {claim.bound} (docs/bounds.md)" if claim.bound else ""
    texts["why_text"] = (
        "; ".join(filter(None, (bound, claim.notes))) or "no explanation is recorded"
    )
    texts["reason_text"] = _reason_text(row | texts)
    return texts


def paper_text(claim: Claim) -> str:
    """The paper's value in print."""
    if isinstance(claim.paper, tuple):
        low, high = claim.paper
        less = " or less" if claim.kind == "at-most" else ""
        return f"{low:g} to {high:g}{_unit(claim)}{less}"
    prefix = "at most " if claim.kind == "at-most" else ""
    return f"{prefix}{claim.paper:g}{_unit(claim)}"


def tolerance_text(claim: Claim) -> str:
    """The tolerance in print."""
    return "as printed" if claim.tolerance is None else f"±{_amount(claim, claim.tolerance)}"


def _allowed_text(claim: Claim) -> str:
    low, high = (float(f"{end:.10g}") for end in allowed(claim))  # 2.7 + 0.05 in print
    return f"{'at most' if math.isinf(low) else f'{low:g} to'} {high:g}{_unit(claim)}"


def _source_text(row: Row) -> str:
    """Backend, device and seeds in print."""
    if not row["devices"]:
        return "-"
    where = {"sim": "simulated ", "none": ""}.get(row["backend"], f"{row['backend']} ")
    plural = "s" if len(row["seeds"]) > 1 else ""
    seeds = f", seed{plural} {', '.join(map(str, row['seeds']))}" if row["seeds"] else ""
    return f"{where}{', '.join(row['devices'])}{seeds}"


def _reason_text(row: Row) -> str:
    """By how much and why a claim does not hold, or what is missing; "" if it holds."""
    match row["status"]:
        case Status.PASS:
            return ""
        case Status.FAIL:
            return f"{row['gap_text']}: {row['why_text']}"
        case Status.OPEN:
            return _open_text(row)
    if not row["num_points"]:
        return "this version cannot measure it"
    return f"{len(row['absent'])} of {row['num_points']} points have no sound result"


def _open_text(row: Row) -> str:
    match row["doubt"]:
        case Doubt.SHORT:
            return f"a quick run is too short to decide ({row['ours_text']} here)"
        case Doubt.ASSUMED:
            return f"{row['ours_text']} here, which an assumption decides: {row['assumed']}"
        case Doubt.INTERVAL:
            return _interval_doubt(row)
    if row["ours"] is None:
        return "neither capacity is known: the rates of both curves do not reach the limit"
    return f"only a bound is known ({row['ours_text']}): the rates do not reach the limit"


def _interval_doubt(row: Row) -> str:
    low, high = row["allowed"]
    inside = _is_within(row["ours"], (low, high))
    known = f". Should it not hold: {row['notes']}" if row["notes"] else ""
    seeds = len(row["seeds"])
    return (
        f"{row['gap_text']}; but the 95 % interval over {seeds} seeds, {row['interval_text']}, "
        f"reaches {'beyond' if inside else 'into'} what is allowed (`bench capacity --figure "
        f"{row['figure']} --seeds {4 * seeds}` narrows it){known}"
    )


def basis_text(row: Row, *, detail: bool = True) -> str:
    """How our number came about, in print; with `detail` also what was calibrated."""
    if row["ours"] is None:
        return "-"
    told = detail and row["basis"] == "calibrated"
    text = f"calibrated: {row['calibrated']}" if told else row["basis"]
    how = {"searched": "; capacities by bisection", "curve": "; capacities off the curves"}
    return f"{text}{how.get(row['method'], '')}"


def records(verdicts: pd.DataFrame) -> list[Row]:
    """The rows of the table, for views that go through them one by one."""
    found = verdicts.to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in found]


def figure_label(name: str) -> str:
    """What a figure is called in text: `Fig. 12`, `Table 1`."""
    number = name.removeprefix("fig").replace("-", "")
    return f"Fig. {number}" if name.startswith("fig") else "Table 1"


def by_reason(rows: Iterable[Row]) -> list[list[Row]]:
    """Those that do not hold, with one reason for several claims of a figure told once."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        if row["status"] is not Status.PASS:
            shared = row["status"] is Status.FAIL and row["notes"]
            key = (row["figure"], row["why_text"]) if shared else id(row)
            groups.setdefault(key, []).append(row)
    return list(groups.values())


def _amount(claim: Claim, value: float, sign: str = "") -> str:
    if claim.kind == "points":
        return f"{value:{sign}.2f} points"
    return f"{100 * value:{sign}.1f} %"


def _unit(claim: Claim) -> str:
    return {"": "", "x": "x"}.get(claim.unit, f" {claim.unit}")
