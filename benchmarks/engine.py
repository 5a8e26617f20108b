"""What the engine costs its host: `make benchmark`. Numbers are of this machine, in one run."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.experiments import registry
from bench.experiments.effort import Effort
from bench.experiments.tables import Choice
from bench.point.serve import run_point
from bench.point.spec import PointSpec
from bench.progress import choose
from bench.results.store import Store
from bench.sweep.runner import run_points

HOUR = PointSpec(system="astra", workload="sharegpt", rate=2.0, duration=3600.0)
# A cache large enough for 256 requests at once, and more requests than it takes.
CROWD = PointSpec(system="astra", workload="sharegpt", rate=12.0, duration=300.0, kv_slots=130_000)
FLEET = PointSpec(
    system="astra", workload="sharegpt", rate=128.0, duration=600.0, replicas=64,
    router="least-loaded",
)  # fmt: skip
FIGURES = ("fig2", "fig12", "fig13")
REPETITIONS = 3


@dataclass(frozen=True)
class Measurement:
    """A measured number and the most that it should be."""

    text: str
    value: float
    limit: float
    unit: str
    remark: str = ""

    @property
    def holds(self) -> bool:
        """Whether the number is within its limit."""
        return self.value <= self.limit


def main() -> int:
    """Measure, print a table, and return 1 if a limit is exceeded."""
    measurements = [*measure_steps(), measure_fleet(), measure_memory(), *measure_figures()]
    table = Table("what", "here", "at most", "", "remark")
    for m in measurements:
        verdict = "ok" if m.holds else "[red]too much[/red]"
        table.add_row(m.text, f"{m.value:.3g} {m.unit}", f"{m.limit:g} {m.unit}", verdict, m.remark)
    Console().print(table)
    return 0 if all(m.holds for m in measurements) else 1


def measure_steps() -> list[Measurement]:
    """Host time of a step at about 30 and at 256 running sequences; the best of three runs."""
    hour, crowd = _best(HOUR), _best(CROWD)
    running = f"{hour['mean_running_requests']:.0f} sequences running, {hour['steps']} steps"
    many = f"{crowd['mean_running_requests']:.0f} sequences running"
    original = "the original's scheduler: 415 to 670 us at 25 to 31 running"
    return [
        Measurement(f"step, {running}", hour["host_us_per_step"], 25, "us", original),
        Measurement("trace of 3600 s at 2 req/s", hour["wall_s"], 3, "s", "the original: 64 s"),
        Measurement(f"step, {many}", crowd["host_us_per_step"], 60, "us"),
    ]


def _best(spec: PointSpec) -> dict[str, Any]:
    runs = [run_point(spec).metrics for _ in range(REPETITIONS)]
    return min(runs, key=lambda metrics: metrics["host_us_per_step"])


def measure_fleet() -> Measurement:
    """Wall time of 64 engines behind one router."""
    text = f"{FLEET.replicas} replicas of OPT-13B, {FLEET.rate:g} req/s for {FLEET.duration:g} s"
    return Measurement(text, run_point(FLEET).metrics["wall_s"], 60, "s", "in one process")


def measure_memory() -> Measurement:
    """Peak memory of a process that serves the point with the longest queue."""
    spec = PointSpec(system="orca-max", workload="alpaca", rate=30.0, duration=3600.0)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak_mib = pool.apply(_peak_memory_mib, (spec,))
    return Measurement("peak memory, 108,000 requests, overload", peak_mib, 1024, "MiB")


def _peak_memory_mib(spec: PointSpec) -> float:
    run_point(spec)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def measure_figures() -> list[Measurement]:
    """Wall time of all points of Figures 2, 12 and 13, then of all figures, on all cores."""
    first = [point for name in FIGURES for point in _short_points(name)]
    every = _short_points("all")
    remark = f"{multiprocessing.cpu_count()} cores; the limit is for two"
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        first_s = _bring(store, first)
        every_s = first_s + _bring(store, every)
    return [
        Measurement(f"{len(first)} points of Figures 2, 12, 13", first_s, 60, "s", remark),
        Measurement(f"{len(every)} points of all figures", every_s, 300, "s", remark),
    ]


def _short_points(name: str) -> list[PointSpec]:
    """The points of a figure or a group, each once, with the original scripts' traces."""
    short = Choice.of(effort=Effort.SHORT)
    return list(
        dict.fromkeys(s for panel in registry.find(name).panels for s in short.points(panel))
    )


def _bring(store: Store, points: Sequence[PointSpec]) -> float:
    """Run what the store lacks; returns the seconds taken."""
    started = time.perf_counter()
    summary = run_points(store, points, display=choose())
    assert not summary.failed, f"points failed: {summary.failed}"
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
