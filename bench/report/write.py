"""Write the report's files: page, Markdown and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.claims.comparison import Comparison
from bench.claims.verdicts import Row, records
from bench.experiments import registry
from bench.experiments.capacity import LIMIT_S_PER_TOKEN, Bound, Estimate
from bench.files import write_file
from bench.report.build import Report
from bench.report.pictures import Drawing
from bench.report.render import to_html, to_markdown

PAGE, MARKDOWN, JSON = "index.html", "report.md", "report.json"
BOUNDS = {Bound.EXACT: "exact", Bound.AT_LEAST: "at least", Bound.AT_MOST: "at most"}
COUNTS = ("reference", "compared", "equal", "close", "other")
COLUMNS = (
    *("figure", "path", "claim", "unit", "paper", "ours", "deviation", "tolerance", "allowed"),
    *("kind", "verdict", "doubt", "reason", "basis", "calibrated", "backend", "method"),
    *("interval_95", "devices", "seeds", "stale", "absent"),
)


def write_report(report: Report, out_dir: Path, drawings: Mapping[str, Drawing]) -> list[Path]:
    """Write all files into `out_dir` and return their paths.

    `drawings` are the figures for the page, by name. Raises UserError where the files cannot be
    written.
    """
    contents = {
        PAGE: to_html(report, drawings),
        MARKDOWN: to_markdown(report),
        JSON: json.dumps(to_json(report), indent=2) + "\n",
    }
    for name, text in contents.items():
        write_file(out_dir / name, text.encode(errors="backslashreplace"))
    return [out_dir / name for name in contents]


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain values."""
    return {
        "backend": report.choice.backend,
        "effort": report.choice.effort.value,
        "overrides": dict(report.choice.overrides),
        "headline": report.headline,
        "claims": [_claim_values(row) for row in records(report.verdicts)],
        "limit_s_per_token": LIMIT_S_PER_TOKEN,
        "capacities": [
            {
                "panel": row.panel,
                "system": row.system,
                "capacity_req_s": _estimate_values(row.capacity),
                "astra_over_it": _estimate_values(row.ratio),
                "interval_95_req_s": row.interval,
                "seeds": row.seeds,
                "paper_req_s": row.paper,
                "points": row.num_sound,
                "points_registered": row.num_points,
            }
            for row in report.capacities
        ],
        "problems": list(report.problems),
        "pending": dict(report.pending),
        "calibrations": [asdict(item) for item in registry.CALIBRATIONS],
        "figures": {name: asdict(progress) for name, progress in report.progress.items()},
        "reference": _reference_values(report.reference),
        "provenance": asdict(report.summary),
    }


def _reference_values(found: Comparison | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "directory": found.directory.as_posix(),
        "tolerance": found.tolerance,
        **{f"num_{name}": found.total(name) for name in COUNTS},
        "num_unknown": found.num_unknown,
        "lines": list(found.lines),
    }


def _claim_values(row: Row) -> dict[str, Any]:
    ours = None if row["ours"] is None else Estimate(row["ours"], row["bound"])
    values = row | {
        "ours": _estimate_values(ours),
        "verdict": row["status"].value,
        "reason": row["reason_text"],
        "allowed": [end if math.isfinite(end) else None for end in row["allowed"]],
        "interval_95": row["interval"],
    }
    return {name: values[name] for name in COLUMNS}


def _estimate_values(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {"value": estimate.value, "bound": BOUNDS[estimate.bound]}
