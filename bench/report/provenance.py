"""What the results have in common and where they differ: sources, machines, times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.point.spec import PointSpec
from bench.results.point_files import PointRecord
from bench.results.store import Store

SHOWN = {
    "git_commit": "commit",
    "git_dirty": "uncommitted changes",
    "source_sha256": "sources (SHA-256)",
    "python": "Python",
    "engine_compiled": "engine compiled",
    "os": "operating system",
    "platform": "platform",
    "cpu": "processor",
    "cores": "cores",
    "gpus": "GPUs",
}


@dataclass(frozen=True)
class Summary:
    """Provenance over all points used.

    `facts` maps a property to its distinct values; more than one means that results of different
    origins stand side by side. `inputs` name workloads and device profiles with their sources.
    `busy_s` is the time of all points, one after another.
    """

    num_points: int
    facts: dict[str, list[str]]
    inputs: list[str]
    busy_s: float
    started: str
    ended: str

    def rows(self) -> list[tuple[str, str]]:
        """Everything as label and value; none without results."""
        if not self.num_points:
            return []
        facts = [(label, "; ".join(values)) for label, values in self.facts.items()]
        facts += [("inputs", "; ".join(self.inputs))] if self.inputs else []
        return [
            *facts,
            ("points", str(self.num_points)),
            ("time of all points, one after another", f"{self.busy_s:.1f} s"),
            ("first started, last ended (UTC)", f"{self.started}, {self.ended}"),
        ]


def summarize(store: Store, specs: Iterable[PointSpec]) -> Summary:
    """Gather the provenance of sound points."""
    records = [store.load_record(spec) for spec in specs]
    found: list[Mapping[str, Any]] = [record["provenance"] for record in records]
    facts = {
        label: _distinct(p[key] for p in found if p.get(key) is not None)
        for key, label in SHOWN.items()
    }
    facts["packages"] = _distinct(
        f"{n} {v}" for p in found for n, v in p.get("packages", {}).items() if v
    )
    return Summary(
        num_points=len(records),
        facts={label: values for label, values in facts.items() if values},
        inputs=_distinct(line for record in records for line in _inputs(record)),
        busy_s=sum(float(record["metrics"].get("wall_s") or 0.0) for record in records),
        started=min((p["started"] for p in found if "started" in p), default=""),
        ended=max((p["ended"] for p in found if "ended" in p), default=""),
    )


def _inputs(record: PointRecord) -> list[str]:
    lines = []
    for kind, found in record["inputs"].items():
        if isinstance(found, dict) and "name" in found:
            source = f", {found['source']}" if found.get("source") else ""
            lines.append(f"{kind.replace('_', ' ')} {found['name']}{source}")
    return lines


def _distinct(values: Iterable[Any]) -> list[str]:
    words = {True: "yes", False: "no"}
    return sorted({words[v] if isinstance(v, bool) else str(v) for v in values})
