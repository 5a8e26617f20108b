"""Reference results: small tables of a full run that others can hold theirs against.

`points.csv` has a row for each point of the registry with its main metrics, `claims.csv` one for
each claim and `capacities.csv` one for each curve; `figures/` holds small pictures. The simulation
is exact: equal sources give equal metrics, to the last bit on one machine.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.experiments import registry
from bench.experiments.tables import Choice, PointStore, load_panel
from engines.core.errors import UserError

if TYPE_CHECKING:
    from bench.point import PointSpec
    from bench.report import Report

POINTS, CLAIMS, CAPACITIES, FIGURES = "points.csv", "claims.csv", "capacities.csv", "figures"
USUAL = Path("artifacts", "reference")
RELATIVE_TOLERANCE = 1e-9
MOST_LINES = 20
KEYS = ("panel", "system", "sampling", "block_size", "rate", "seed", "digest")
METRICS = (
    "requests",
    "finished",
    "steps",
    "mean_normalized_latency_s",
    "p50_normalized_latency_s",
    "p90_normalized_latency_s",
    "p99_normalized_latency_s",
    "mean_ttft_s",
    "mean_tpot_s",
    "throughput_tok_s",
    "mean_running_requests",
    "preemptions",
    "kv_pct_token",
    "kv_pct_reservation",
    "kv_pct_internal",
    "kv_pct_external",
    "kv_used_pct",
    "sharing_saving_pct",
)


@dataclass(frozen=True)
class Comparison:
    """Results held against the reference.

    `lines` name the points that differ, with the metric that differs most; `num_unknown` points
    of the reference are not among the registry's present points.
    """

    directory: Path
    num_reference: int
    num_compared: int
    num_equal: int
    num_unknown: int
    lines: tuple[str, ...]


def point_rows(store: PointStore, choice: Choice) -> list[dict[str, Any]]:
    """One row for each sound point of the registry under this choice, in the paper's order."""
    rows = []
    for figure in registry.FIGURES.values():
        for panel in figure.panels:
            frame = load_panel(store, panel, choice).sound.assign(panel=panel.name)
            rows += frame.reindex(columns=[*KEYS, *METRICS]).to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]


def claim_rows(report: Report) -> list[dict[str, Any]]:
    """One row for each verdict."""
    from bench.reporting.verdicts import basis_text, reason_text

    return [
        {
            "figure": verdict.figure,
            "claim": verdict.claim.text,
            "paper": " to ".join(f"{v:g}" for v in _ends(verdict.claim.paper)),
            "ours": None if verdict.ours is None else verdict.ours.value,
            "bound": "" if verdict.ours is None else verdict.ours.bound.value.strip(),
            "interval_low": (verdict.measurement.interval or (None, None))[0],
            "interval_high": (verdict.measurement.interval or (None, None))[1],
            "unit": verdict.claim.unit,
            "deviation": verdict.deviation,
            "tolerance": verdict.claim.tolerance,
            "kind": verdict.claim.kind,
            "verdict": verdict.status.value,
            "basis": basis_text(verdict),
            "seeds": " ".join(map(str, verdict.measurement.seeds)),
            "device": ", ".join(verdict.measurement.devices),
            "reason": reason_text(verdict),
        }
        for verdict in report.verdicts
        if verdict.backend in (report.choice.backend, "none")  # no kernels measured beside
    ]


def _ends(paper: float | tuple[float, float]) -> tuple[float, ...]:
    return paper if isinstance(paper, tuple) else (paper,)


def capacity_rows(report: Report) -> list[dict[str, Any]]:
    """One row for each curve, with its capacity off the curve and by bisection."""
    rows = []
    for row in report.capacities:
        low, high = (row.searched.interval if row.searched else None) or (None, None)
        rows.append(
            {
                "panel": row.panel,
                "system": row.system,
                "capacity_req_s": None if row.capacity is None else row.capacity.value,
                "bound": "" if row.capacity is None else row.capacity.bound.value.strip(),
                "astra_over_it": None if row.ratio is None else row.ratio.value,
                "searched_req_s": None if row.searched is None else row.searched.value,
                "interval_low": low,
                "interval_high": high,
                "seeds": 0 if row.searched is None else row.searched.count,
            }
        )
    return rows


def reference_files(
    store: PointStore, report: Report, pictures: Mapping[str, bytes]
) -> dict[str, bytes]:
    """All files of the reference by their relative path. `pictures` are PNGs by figure."""
    tables = {
        POINTS: point_rows(store, report.choice),
        CLAIMS: claim_rows(report),
        CAPACITIES: capacity_rows(report),
    }
    return {
        **{name: csv_bytes(rows) for name, rows in tables.items()},
        **{f"{FIGURES}/{name}.png": content for name, content in pictures.items()},
    }


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A CSV table; floats are written so that they are read back exactly."""
    assert rows, "a reference table has rows"
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in row.items()})
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(float(value))
    return str(value)


def find_reference(directory: str | None, choice: Choice) -> Path | None:
    """The directory given, or the usual one below the present folder if it holds results."""
    if directory is not None:
        return Path(directory)
    usual = USUAL / choice.backend
    return usual if (usual / POINTS).exists() else None


def read_points(directory: Path) -> dict[str, dict[str, Any]]:
    """The reference's points by digest, metrics as floats; raises UserError if there are none."""
    path = directory / POINTS
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"no reference results at {path}: see --reference") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"reference results {path} cannot be read: {error}") from error
    missing = {*KEYS, *METRICS} - set(rows[0] if rows else ())
    if missing:
        raise UserError(f"reference results {path} lack columns: {', '.join(sorted(missing))}")
    return {row["digest"]: _numbers(row, path) for row in rows}


def _numbers(row: dict[str, str], path: Path) -> dict[str, Any]:
    try:
        numbers = {name: float(row[name] or math.nan) for name in ("rate", *METRICS)}
    except (TypeError, ValueError) as error:
        raise UserError(f"reference results {path} hold a bad number: {error}") from error
    return {**row, **numbers}


def differences(reference: Mapping[Any, Any], ours: Mapping[Any, Any]) -> dict[str, float]:
    """Relative difference of every metric that is not the same within rounding."""
    found = {}
    for metric in METRICS:
        expected, got = (_number(row.get(metric)) for row in (reference, ours))
        if math.isnan(expected) and math.isnan(got):
            continue
        if not math.isclose(expected, got, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-12):
            scale = abs(expected) or 1.0
            found[metric] = abs(got - expected) / scale if math.isfinite(got) else math.inf
    return found


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def registered_specs(choice: Choice) -> dict[str, PointSpec]:
    """Every point of the registry under this choice, by digest."""
    panels = [panel for figure in registry.FIGURES.values() for panel in figure.panels]
    return {spec.digest: spec for panel in panels for spec in choice.points(panel)}


def compare(store: PointStore, directory: Path, choice: Choice) -> Comparison:
    """Hold all sound results of this choice against the reference in `directory`."""
    reference = read_points(directory)
    specs = registered_specs(choice)
    known = [digest for digest in reference if digest in specs]
    loaded = store.load(specs[digest] for digest in known).set_index("digest")
    rows = {str(digest): row for digest, row in loaded.to_dict("index").items()}
    lines = []
    for digest in (d for d in known if d in rows):
        found = differences(reference[digest], rows[digest])
        if found:
            lines.append(_line(reference[digest], rows[digest], found))
    num_compared = sum(digest in rows for digest in known)
    return Comparison(
        directory=directory,
        num_reference=len(reference),
        num_compared=num_compared,
        num_equal=num_compared - len(lines),
        num_unknown=len(reference) - len(known),
        lines=tuple(lines),
    )


def _line(reference: Mapping[str, Any], ours: Mapping[Any, Any], found: Mapping[str, float]) -> str:
    metric = max(found, key=lambda name: found[name])
    return (
        f"{reference['panel']}: {reference['system']} at {reference['rate']:g} req/s: {metric} is "
        f"{_number(ours.get(metric)):.6g}, the reference has {reference[metric]:.6g}"
    )


def comparison_text(found: Comparison) -> str:
    """The comparison in one line."""
    if not found.num_compared:
        return f"none of the {found.num_reference} reference points has been run"
    same = f"{found.num_equal} of {found.num_compared} points run equal the reference"
    return f"{same}; it holds {found.num_reference}"


def shown_lines(lines: Sequence[str]) -> Iterable[str]:
    """The first lines, and how many more there are."""
    yield from lines[:MOST_LINES]
    if len(lines) > MOST_LINES:
        yield f"… and {len(lines) - MOST_LINES} more"
