"""Which points of a set run, and how much work each is expected to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.point.spec import PointSpec
from bench.results.store import Check, State, Store, name_of

_SECOND_WORK = 7.0
_BEAM_WORK = 2.3


@dataclass(frozen=True)
class Plan:
    """Which points run and which do not, decided before anything starts.

    `notes` are lines for the user: what is corrupt, stale or kept, and why.
    """

    run: tuple[PointSpec, ...]
    skipped: tuple[PointSpec, ...] = ()
    kept: tuple[PointSpec, ...] = ()
    notes: tuple[str, ...] = ()


def weight(spec: PointSpec) -> float:
    """Expected work of a point, in requests of one sequence.

    Fitted to the simulation's times of all figures: each second of the trace takes some steps even
    if few requests arrive, and a beam search draws for each of its beams.
    """
    sampling = spec.sampling
    request_work = 1 + _BEAM_WORK * sampling.n if sampling.beam else 1.0
    return spec.duration * (_SECOND_WORK + spec.rate * request_work)


def make_plan(store: Store, specs: Iterable[PointSpec], *, force: bool = False) -> Plan:
    """Decide which points run: those that are not complete, or all with `force`.

    Stale simulated results are run again. Stale measured ones, which take hours and hardware, are
    kept unless `force`.
    """
    wanted = list(dict.fromkeys(specs))
    if force:
        return Plan(run=tuple(wanted))
    checks = {spec: store.check(spec) for spec in wanted}
    skipped = tuple(spec for spec, check in checks.items() if check.state is State.COMPLETE)
    stale = [spec for spec, check in checks.items() if check.state is State.STALE]
    kept = tuple(spec for spec in stale if spec.measured)
    run = tuple(spec for spec in wanted if spec not in {*skipped, *kept})
    return Plan(run=run, skipped=skipped, kept=kept, notes=tuple(_notes(checks)))


def _notes(checks: Mapping[PointSpec, Check]) -> Iterable[str]:
    stale = 0
    for spec, check in checks.items():
        if check.state is State.CORRUPT:
            yield f"corrupt result, run again: {name_of(spec)}: {check.reason}"
        elif check.state is State.STALE and spec.measured:
            yield f"measured result kept: {name_of(spec)}: {check.reason} (--force measures again)"
        elif check.state is State.STALE:
            stale += 1
    if stale:
        yield f"{stale} results are stale (sources or input files changed since): run again"
