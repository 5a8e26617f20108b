"""A verdict on each claim: how far our number is from the paper's, and whether that passes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from bench.claims.measures import MEASURES, Measurement, Tables
from bench.experiments.capacity import Bound, Estimate
from bench.experiments.model import Claim


class Status(StrEnum):
    """What became of a claim. Only PASS counts as reproduced."""

    PASS = "pass"
    FAIL = "fail"
    OPEN = "open"  # neither held nor refuted: a bound, a quick run, or seeds that differ by more
    INCOMPLETE = "incomplete"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Verdict:
    """A claim, our measurement, and how far they are apart.

    `too_short` says that the numbers come from a quick run: they can agree, but not refute.
    `deviation` is in the claim's kind: percentage points, or a fraction of the paper's value (of
    the nearer end of a range; 0 inside it). None where there is no number.
    """

    figure: str
    claim: Claim
    measurement: Measurement
    status: Status
    deviation: float | None
    backend: str
    too_short: bool = False

    @property
    def ours(self) -> Estimate | None:
        """Our number."""
        return self.measurement.estimate

    @property
    def basis(self) -> str:
        """How our number came about."""
        if self.backend == "none":
            return "computed"
        if self.backend != "sim":
            return "measured"
        return "calibrated" if self.claim.calibrated else "predicted"


def judge(
    figure: str,
    claim: Claim,
    tables: Tables,
    backend: str,
    *,
    searched: Measurement | None = None,
    quick: bool = False,
) -> Verdict:
    """Measure a claim and compare. `backend` is that of the tables.

    `searched` comes from capacity searches or measured kernels and goes before the tables. The
    tables of a `quick` run refute nothing: what does not hold there is open. So is what does not
    hold on average while the 95 % interval over seeds reaches into what is allowed.
    """
    found = searched or MEASURES[claim.measure](tables, **claim.args)
    own = backend if found.num_points or found.estimate is None else "none"
    used = found.backend or own
    deviation = None if found.estimate is None else deviation_of(claim, found.estimate.value)
    status = _status(claim, found, deviation)
    too_short = quick and status is Status.FAIL and found.num_points > 0
    if too_short or (status is Status.FAIL and _reaches_inside(claim, found)):
        status = Status.OPEN
    return Verdict(figure, claim, found, status, deviation, used, too_short)


def deviation_of(claim: Claim, ours: float) -> float:
    """Signed distance from the paper's value, or from the nearer end of its range."""
    low, high = interval(claim)
    nearest = min(max(ours, low), high)
    return ours - nearest if claim.kind == "points" else (ours - nearest) / abs(nearest)


def interval(claim: Claim) -> tuple[float, float]:
    """The paper's range; both ends are the value where it gives just one."""
    low, high = claim.paper if isinstance(claim.paper, tuple) else (claim.paper, claim.paper)
    return (-math.inf if claim.kind == "at-most" else low), high


def _status(claim: Claim, found: Measurement, deviation: float | None) -> Status:
    if found.absent:
        all_absent = len(found.absent) == found.num_points
        return Status.NOT_RUN if all_absent else Status.INCOMPLETE
    if found.estimate is None or deviation is None:
        return Status.OPEN if found.num_points else Status.NOT_RUN
    # A rounding error on the edge of a tolerance is no failure.
    too_high = deviation > claim.tolerance + 1e-9
    too_low = deviation < -claim.tolerance - 1e-9
    bound = found.estimate.bound
    if bound is Bound.EXACT:
        return Status.FAIL if too_high or too_low else Status.PASS
    excluded = too_high if bound is Bound.AT_LEAST else too_low
    return Status.FAIL if excluded else Status.OPEN


def paper_text(claim: Claim) -> str:
    """The paper's value in print."""
    if isinstance(claim.paper, tuple):
        low, high = claim.paper
        less = " or less" if claim.kind == "at-most" else ""
        return f"{low:g} to {high:g}{_unit(claim)}{less}"
    prefix = "at most " if claim.kind == "at-most" else ""
    return f"{prefix}{claim.paper:g}{_unit(claim)}"


def ours_text(verdict: Verdict) -> str:
    """Our value in print."""
    if verdict.ours is None:
        return "-"
    value = verdict.ours.value
    digits = f"{value:.0f}" if abs(value) >= 1000 else f"{value:.2f}"
    return f"{verdict.ours.bound.value}{digits}{_unit(verdict.claim)}"


def interval_text(verdict: Verdict) -> str:
    """The confidence interval over seeds in print; "" where there is none."""
    if verdict.measurement.interval is None:
        return ""
    low, high = verdict.measurement.interval
    return f"{low:.2f} to {high:.2f}{_unit(verdict.claim)}"


def basis_text(verdict: Verdict, *, detail: bool = True) -> str:
    """How our number came about, in print; with `detail` also what was calibrated."""
    if verdict.ours is None:
        return "-"
    told = detail and verdict.basis == "calibrated"
    parts = [f"calibrated: {verdict.claim.calibrated}" if told else verdict.basis]
    if verdict.measurement.method:
        how = {"searched": "capacities by bisection", "curve": "capacities off the curves"}
        parts.append(how[verdict.measurement.method])
    return "; ".join(parts)


def source_text(verdict: Verdict) -> str:
    """Backend, device and seeds in print."""
    found = verdict.measurement
    if not found.devices:
        return "-"
    where = {"sim": "simulated ", "none": ""}.get(verdict.backend, f"{verdict.backend} ")
    plural = "s" if len(found.seeds) > 1 else ""
    seeds = f", seed{plural} {', '.join(map(str, found.seeds))}" if found.seeds else ""
    return f"{where}{', '.join(found.devices)}{seeds}"


def deviation_text(verdict: Verdict) -> str:
    """The deviation in print."""
    if verdict.deviation is None:
        return "-"
    ranged = isinstance(verdict.claim.paper, tuple) or verdict.claim.kind == "at-most"
    if verdict.deviation == 0 and ranged:
        return "inside"
    return _amount(verdict.claim, verdict.deviation, sign="+")


def tolerance_text(claim: Claim) -> str:
    """The tolerance in print."""
    if claim.tolerance == 0:
        return "inside" if isinstance(claim.paper, tuple) else "none"
    return f"±{_amount(claim, claim.tolerance)}"


def reason_text(verdict: Verdict) -> str:
    """By how much and why a claim does not hold, or what is missing; "" if it holds."""
    claim = verdict.claim
    if verdict.status in (Status.INCOMPLETE, Status.NOT_RUN):
        found = verdict.measurement
        if not found.num_points:
            return "this version cannot measure it"
        return f"{len(found.absent)} of {found.num_points} points have no sound result"
    if verdict.status is Status.OPEN:
        return _open_text(verdict)
    if verdict.status is Status.PASS:
        return ""
    return f"{gap_text(verdict)}: {why_text(claim)}"


def _open_text(verdict: Verdict) -> str:
    if verdict.too_short:
        return f"a quick run is too short to decide ({ours_text(verdict)} here)"
    if verdict.ours is None:
        return "neither capacity is known: the rates of both curves do not reach the limit"
    if verdict.ours.bound is Bound.EXACT:
        seeds = len(verdict.measurement.seeds)
        known = f". Should it not hold: {verdict.claim.notes}" if verdict.claim.notes else ""
        return (
            f"{gap_text(verdict)}; but the 95 % interval over {seeds} seeds, "
            f"{interval_text(verdict)}, reaches into what is allowed (`bench capacity --figure "
            f"{verdict.figure} --seeds {4 * seeds}` narrows it){known}"
        )
    return f"only a bound is known ({ours_text(verdict)}): the rates do not reach the limit"


def gap_text(verdict: Verdict) -> str:
    """By how much a claim does not hold."""
    claim = verdict.claim
    allowed = f" where {tolerance_text(claim)} is allowed" if claim.tolerance else ""
    return (
        f"{ours_text(verdict)} against {paper_text(claim)}, off by {deviation_text(verdict)}"
        f"{allowed}"
    )


def _reaches_inside(claim: Claim, found: Measurement) -> bool:
    """Whether the interval over seeds holds a value with which the claim would hold."""
    if found.interval is None:
        return False
    low, high = (deviation_of(claim, end) for end in found.interval)
    return low <= claim.tolerance and high >= -claim.tolerance


def why_text(claim: Claim) -> str:
    """Why a claim does not hold."""
    return claim.notes or "no explanation is recorded"


def figure_label(name: str) -> str:
    """What a figure is called in text: `Fig. 12`, `Table 1`."""
    number = name.removeprefix("fig").replace("-", "")
    return f"Fig. {number}" if name.startswith("fig") else "Table 1"


def by_reason(verdicts: Iterable[Verdict]) -> list[tuple[Verdict, ...]]:
    """Those that do not hold, with one reason for several claims of a figure told once."""
    groups: dict[object, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.status is not Status.PASS:
            shared = verdict.status is Status.FAIL and verdict.claim.notes
            key = (verdict.figure, verdict.claim.notes) if shared else id(verdict)
            groups.setdefault(key, []).append(verdict)
    return [tuple(group) for group in groups.values()]


def _amount(claim: Claim, value: float, sign: str = "") -> str:
    if claim.kind == "points":
        return f"{value:{sign}.2f} points"
    return f"{100 * value:{sign}.1f} %"


def _unit(claim: Claim) -> str:
    return {"": "", "x": "x"}.get(claim.unit, f" {claim.unit}")
