"""Reference results: small tables of a whole run that others can hold theirs against.

`points.csv` has a row for each point, with its main metrics, `claims.csv` one for
each claim and `capacities.csv` one for each curve; `figures/` holds small pictures. They are of the
simulation; those of quick runs and of the paper's traces have a folder of their own.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.claims import verdicts
from bench.claims.capacities import capacity_table
from bench.claims.evidence import Evidence
from bench.experiments.tables import Choice
from bench.results.store import Store
from engines.core.errors import UserError

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


def reference_files(store: Store, choice: Choice) -> dict[str, bytes]:
    """The tables of the reference by name."""
    evidence = Evidence(store, choice)
    tables = {
        POINTS: _point_rows(evidence),
        CLAIMS: claim_rows(reference_verdicts(evidence)),
        CAPACITIES: _capacity_rows(evidence),
    }
    return {name: csv_bytes(rows) for name, rows in tables.items()}


def reference_verdicts(evidence: Evidence) -> pd.DataFrame:
    """The verdicts that a reference shows: without kernels measured on this machine."""
    found = verdicts.table(evidence)
    return found[found["backend"].isin([evidence.choice.backend, "none"])]


def _point_rows(evidence: Evidence) -> list[dict[str, Any]]:
    """One row for each sound point of the registry, in the paper's order, then the searches'."""
    frames = [table.sound.assign(panel=name) for name, table in evidence.panels.items()]
    frames += [
        evidence.store.load(probes).assign(panel=name)
        for name in evidence.panels
        if (probes := evidence.probes(name))
    ]
    shown = [frame.reindex(columns=[*KEYS, *METRICS]) for frame in frames]
    return [row for frame in shown for row in verdicts.records(frame)]


def claim_rows(found: pd.DataFrame) -> list[dict[str, Any]]:
    """One row for each verdict."""
    return [
        {
            "figure": row["figure"],
            "claim": row["claim"],
            "paper": _paper_cell(row["paper"]),
            "ours": row["ours"],
            "bound": "" if row["bound"] is None else row["bound"].value.strip(),
            **_interval_cells(row["interval"]),
            "unit": row["unit"],
            "deviation": row["deviation"],
            "allowed": row["allowed_text"],
            "status": row["status"].value,
            "doubt": row["doubt"] or "",
            "basis": row["basis"] or "",
            "calibrated": row["calibrated"],
            "limit": row["limit"],
            "method": row["method"],
            "seeds": " ".join(map(str, row["seeds"])),
            "device": ", ".join(row["devices"]),
            "reason": row["reason_text"],
        }
        for row in verdicts.records(found)
    ]


def _paper_cell(paper: float | tuple[float, float]) -> str:
    return " to ".join(f"{v:g}" for v in (paper if isinstance(paper, tuple) else (paper,)))


def _interval_cells(interval: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {"interval_low": low, "interval_high": high}


def _capacity_rows(evidence: Evidence) -> list[dict[str, Any]]:
    """One row for each curve with its capacity."""
    return [
        {
            "panel": row.panel,
            "system": row.system,
            "capacity_req_s": None if row.capacity is None else row.capacity.value,
            "bound": row.capacity.bound.value.strip() if row.capacity else "",
            **_interval_cells(row.interval),
            "seeds": row.seeds,
            "astra_over_it": None if row.ratio is None else row.ratio.value,
            "paper_req_s": row.paper,
        }
        for row in capacity_table(evidence)
    ]


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A CSV table; floats are written so that they are read back exactly."""
    assert rows, "a reference table has rows"
    cells = pd.DataFrame(rows, dtype=object).map(_cell)
    return cells.to_csv(index=False, lineterminator="\n").encode()


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(float(value))
    return str(value)


def usual_directory(choice: Choice) -> Path:
    """Where the reference for a choice lies, below the present folder."""
    return USUAL / choice.folder


def find_reference(directory: Path | None, choice: Choice) -> Path | None:
    """The directory given, or the usual one if it holds results that the choice's can equal."""
    if directory is not None:
        return directory
    usual = usual_directory(choice)
    comparable = choice.backend == "sim" and not choice.overrides
    return usual if comparable and (usual / POINTS).exists() else None


def read_points(directory: Path) -> dict[str, dict[str, Any]]:
    """The reference's points by digest, metrics as floats; raises UserError if there are none."""
    rows = _read(directory / POINTS, columns={*KEYS, *METRICS}, numbers=("rate", *METRICS))
    return {row["digest"]: row for row in rows}


def read_claims(directory: Path) -> list[dict[str, Any]]:
    """The reference's claims, numbers as floats (NaN: none); raises UserError if there are none."""
    columns = {"figure", "claim", "ours", "unit", "status", "doubt", "basis", "limit"}
    return _read(directory / CLAIMS, columns=columns, numbers=("ours",))


def _read(path: Path, *, columns: set[str], numbers: Iterable[str]) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(
            f"no reference results at {path} (full and quick runs have some): name their folder "
            "with --reference, or make them with 'bench reference --renew'"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"reference results {path} cannot be read: {error}") from error
    missing = columns - set(rows[0] if rows else ())
    if missing:
        raise UserError(f"reference results {path} lack columns: {', '.join(sorted(missing))}")
    try:
        return [row | {name: float(row[name] or math.nan) for name in numbers} for row in rows]
    except (TypeError, ValueError) as error:
        raise UserError(f"reference results {path} hold a bad number: {error}") from error
