"""What a figure says beside its data: the paper's numbers, where results come from, what lacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.experiments.model import Figure
from bench.experiments.tables import PanelTable

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


def footer(figure: Figure, tables: Sequence[PanelTable], backend: str) -> str:
    """What a figure shows and how it came about, in one line."""
    if not tables:
        return COMPUTED.get(figure.name, "Computed, nothing was run")
    devices = _distinct(tables, "device") or _distinct(tables, "device_profile")
    systems = {curve.system for table in tables for curve in table.panel.curves}
    parts = [f"{BACKEND_WORDS[backend]} {', '.join(devices) if devices else 'unknown'}"]
    models = [name.upper().replace("LLAMA", "LLaMA") for name in _distinct(tables, "model")]
    workloads = dict.fromkeys(WORKLOADS.get(w, w) for w in _distinct(tables, "workload"))
    parts.append(f"{', '.join(models)}, {', '.join(workloads)}")
    if any(system.startswith("orca") for system in systems):
        parts.append("Orca: our proxy on the same engine")
    if "ft" in systems:
        parts.append("FasterTransformer: our request-level policy")
    durations = [f"{float(value):g}" for value in _distinct(tables, "duration")]
    parts.append(f"traces of {' and '.join(durations)} s")
    parts += sorted({table.panel.note for table in tables if table.panel.note})
    seeds = _distinct(tables, "seed")
    arrows = (
        "; arrows of claims: means over seeds" if any(table.searched for table in tables) else ""
    )
    parts.append(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}{arrows}")
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


def _distinct(tables: Iterable[PanelTable], column: str) -> list[str]:
    return list(dict.fromkeys(value for table in tables for value in table.column(column)))
