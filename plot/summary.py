"""From result tables to what is drawn: pure functions of frames, no axes and no files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from bench.experiments.model import Figure
from bench.experiments.tables import PanelTable

CATEGORIES = ("token", "reservation", "internal", "external")
COMPUTED = {  # figures without points
    "fig11": "Drawn from the workloads · ShareGPT: shipped statistics · "
    "Alpaca: synthetic, with the paper's means",
    "fig19-a": "Simulated: computed from the prices of the device profile, nothing was run",
}
WORKLOADS = {
    "sharegpt": "ShareGPT",
    "alpaca": "Alpaca",
    "translation-1shot": "translation",
    "translation-5shot": "translation",
}
BACKEND_WORDS = {
    "sim": "Simulated, device profile",
    "cpu": "Measured on CPU,",
    "cuda": "Measured on GPU,",
}


def latency_curves(table: PanelTable) -> pd.DataFrame:
    """Columns curve, system, rate, latency_s; NaN where a point is missing.

    Rows keep the order of the registry's curves and rise in rate, so that a line drawn through
    them breaks where a point is missing.
    """
    frame = with_columns(table.frame, ["mean_normalized_latency_s"])
    columns = {"mean_normalized_latency_s": "latency_s"}
    picked = frame[["curve", "system", "rate", "mean_normalized_latency_s"]]
    return picked.rename(columns=columns).sort_values(["curve", "rate"], ignore_index=True)


def kv_breakdown(table: PanelTable) -> pd.DataFrame:
    """Percent of KV slots by category (columns) for each system (index)."""
    names = {f"kv_pct_{category}": category for category in CATEGORIES}
    frame = with_columns(table.frame, list(names))
    return frame.set_index("system")[list(names)].rename(columns=names)


def system_metric(table: PanelTable, metric: str) -> pd.Series[float]:
    """One metric for each system (index), in the registry's order; NaN where missing."""
    frame = with_columns(table.frame, [metric])
    return frame.set_index("system")[metric]


def paper_values(figure: Figure, panel: str, system: str) -> dict[tuple[str, ...], float]:
    """The paper's single numbers for a system in a panel, by the metrics they are the sum of."""
    return {
        tuple(claim.args["metrics"]): claim.paper
        for claim in figure.claims
        if claim.args.get("panel") == panel
        and claim.args.get("system") == system
        and "metrics" in claim.args
        and isinstance(claim.paper, float)
    }


def paper_range(figure: Figure, panel: str) -> tuple[float, float] | None:
    """The range that the paper gives for a panel as a whole; None if it gives none."""
    for claim in figure.claims:
        if claim.args.get("panel") == panel and isinstance(claim.paper, tuple):
            return claim.paper
    return None


def by_block_size(table: PanelTable) -> pd.Series[float]:
    """Mean normalized latency by block size (index), rising; NaN where a point is missing."""
    frame = with_columns(table.frame, ["mean_normalized_latency_s"])
    return frame.set_index("block_size")["mean_normalized_latency_s"].sort_index()


def footer(figure: Figure, tables: Sequence[PanelTable], backend: str) -> str:
    """What a figure shows and how it came about, in one line."""
    if not tables:
        return COMPUTED.get(figure.name, "Computed, nothing was run")
    devices = _distinct(tables, "device") or _distinct(tables, "device_profile")
    systems = {curve.system for table in tables for curve in table.panel.curves}
    parts = [f"{BACKEND_WORDS[backend]} {', '.join(devices) if devices else 'unknown'}"]
    parts.append(
        f"{_all_of(tables, 'model', model_name)}, {_all_of(tables, 'workload', _workload)}"
    )
    if any(system.startswith("orca") for system in systems):
        parts.append("Orca: our proxy on the same engine")
    if "ft" in systems:
        parts.append("FasterTransformer: our request-level policy")
    durations = [f"{float(value):g}" for value in _distinct(tables, "duration")]
    parts.append(f"traces of {' and '.join(durations)} s")
    parts += sorted({table.panel.note for table in tables if table.panel.note})
    seeds = _distinct(tables, "seed")
    parts.append(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}")
    return " · ".join(parts)


def gaps(tables: Iterable[PanelTable]) -> list[str]:
    """A line for each panel that lacks points or holds results of other sources."""
    lines = []
    for table in tables:
        for state, rows in table.frame.groupby("state", sort=True):
            if state != "complete":
                points = [f"{s} {r:g}" for s, r in zip(rows["system"], rows["rate"], strict=True)]
                shown = ", ".join(points[:6]) + (" …" if len(points) > 6 else "")
                lines.append(f"{table.panel.title}: {len(points)} {state} ({shown} req/s)")
    return lines


def model_name(name: str) -> str:
    """A model's name as people write it: `opt-13b` is OPT-13B."""
    return name.upper().replace("LLAMA", "LLaMA")


def _workload(name: str) -> str:
    return WORKLOADS.get(name, name)


def _all_of(tables: Sequence[PanelTable], column: str, word: Callable[[str], str]) -> str:
    values = _distinct(tables, column) or [str(table.panel.settings[column]) for table in tables]
    return ", ".join(dict.fromkeys(word(value) for value in values))


def _distinct(tables: Iterable[PanelTable], column: str) -> list[str]:
    return list(dict.fromkeys(value for table in tables for value in table.column(column)))


def with_columns(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The frame with these columns too, NaN where it lacks them."""
    return frame.reindex(columns=list(dict.fromkeys([*frame.columns, *columns])))
