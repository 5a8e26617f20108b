"""Reference results: small tables of a whole run that others can hold theirs against.

`points.csv` has a row for each point of the registry with its main metrics, `claims.csv` one for
each claim and `capacities.csv` one for each curve; `figures/` holds small pictures. They are of the
simulation; those of quick runs and of the paper's traces have a folder of their own.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.experiments import registry
from bench.experiments.tables import Choice, PointStore, load_panel
from engines.core.errors import UserError

if TYPE_CHECKING:
    from bench.claims.verdicts import Verdict
    from bench.report.build import Report
    from bench.report.provenance import ReportStore

POINTS, CLAIMS, CAPACITIES, FIGURES = "points.csv", "claims.csv", "capacities.csv", "figures"
USUAL = Path("artifacts", "reference", "sim")
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


def point_rows(store: PointStore, choice: Choice) -> list[dict[str, Any]]:
    """One row for each sound point of the registry under this choice, in the paper's order."""
    rows = []
    for figure in registry.FIGURES.values():
        for panel in figure.panels:
            frame = load_panel(store, panel, choice).sound.assign(panel=panel.name)
            rows += frame.reindex(columns=[*KEYS, *METRICS]).to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]


def claim_rows(report: Report, searched: Report) -> list[dict[str, Any]]:
    """One row for each verdict off the figures' curves, with the number of capacity searches."""
    from bench.claims.verdicts import basis_text, reason_text

    return [
        {
            "figure": verdict.figure,
            "claim": verdict.claim.text,
            "paper": " to ".join(f"{v:g}" for v in _ends(verdict.claim.paper)),
            "ours": None if verdict.ours is None else verdict.ours.value,
            "bound": "" if verdict.ours is None else verdict.ours.bound.value.strip(),
            **_searched_cells(other),
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
        for verdict, other in zip(report.verdicts, searched.verdicts, strict=True)
    ]


def _searched_cells(verdict: Verdict) -> dict[str, Any]:
    """A claim's number by bisection, where its capacities were searched."""
    found = verdict.measurement
    if found.method != "searched" or found.estimate is None:
        return dict.fromkeys(("searched", "interval_low", "interval_high", "searched_verdict"))
    low, high = found.interval or (None, None)
    return {
        "searched": found.estimate.value,
        "interval_low": low,
        "interval_high": high,
        "searched_verdict": verdict.status.value,
    }


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


def reference_report(store: ReportStore, choice: Choice, *, searched: bool = False) -> Report:
    """The report that a reference tells of: without kernels that were measured beside it."""
    from bench.report.build import build_report

    report = build_report(store, choice, searched=searched)
    own = (choice.backend, "none")
    return replace(report, verdicts=tuple(v for v in report.verdicts if v.backend in own))


def reference_files(
    store: ReportStore, choice: Choice, pictures: Mapping[str, bytes]
) -> dict[str, bytes]:
    """All tables and pictures of the reference by relative path. `pictures` are PNGs by figure."""
    searched = reference_report(store, choice, searched=True)
    tables = {
        POINTS: point_rows(store, choice),
        CLAIMS: claim_rows(reference_report(store, choice), searched),
        CAPACITIES: capacity_rows(searched),
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


def usual_directory(choice: Choice) -> Path:
    """Where the reference for a choice lies, below the present folder."""
    return USUAL / choice.effort.folder


def find_reference(directory: str | None, choice: Choice) -> Path | None:
    """The directory given, or the usual one if it holds results that the choice's can equal."""
    if directory is not None:
        return Path(directory)
    usual = usual_directory(choice)
    comparable = choice.backend == "sim" and not choice.overrides
    return usual if comparable and (usual / POINTS).exists() else None


def read_points(directory: Path) -> dict[str, dict[str, Any]]:
    """The reference's points by digest, metrics as floats; raises UserError if there are none."""
    path = directory / POINTS
    return {row["digest"]: _numbers(row, path) for row in _rows(path, {*KEYS, *METRICS})}


def read_claims(directory: Path) -> list[dict[str, str]]:
    """The reference's claims as text; raises UserError if there are none or a number is bad."""
    path = directory / CLAIMS
    columns = {"figure", "claim", "ours", "searched", "unit", "verdict", "searched_verdict"}
    rows = _rows(path, columns)
    for row in rows:
        try:
            for name in ("ours", "searched"):
                float(row[name] or 0.0)
        except ValueError as error:
            raise UserError(f"reference results {path} hold a bad number: {error}") from error
    return rows


def _rows(path: Path, columns: set[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(
            f"no reference results at {path}: name their folder with --reference, or make them "
            "with 'bench reference --renew'"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"reference results {path} cannot be read: {error}") from error
    missing = columns - set(rows[0] if rows else ())
    if missing:
        raise UserError(f"reference results {path} lack columns: {', '.join(sorted(missing))}")
    return rows


def _numbers(row: dict[str, str], path: Path) -> dict[str, Any]:
    try:
        numbers = {name: float(row[name] or math.nan) for name in ("rate", *METRICS)}
    except (TypeError, ValueError) as error:
        raise UserError(f"reference results {path} hold a bad number: {error}") from error
    return {**row, **numbers}
