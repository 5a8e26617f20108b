"""Results arranged as the registry describes them: one row for each registered point.

Everything that is drawn or judged starts here, so that figures and report cannot disagree about
what is there, what is missing and what is corrupt.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bench.experiments.capacity import LATENCY, Estimate, capacity
from bench.experiments.effort import Effort, at_effort
from bench.experiments.miniature import scale_panel
from bench.experiments.model import Panel
from bench.point.spec import PointSpec
from bench.results.store import Store

COMPLETE, STALE = "complete", "stale"
REAL_LENGTHS_FOR = ("sharegpt", "chat")  # workloads that a file of ShareGPT lengths can replace


@dataclass(frozen=True)
class Choice:
    """Which of the possible results of a panel are meant.

    `overrides` are fields of PointSpec that replace the registry's, as the command line's options
    do. Results of one backend or effort never mix with another's.
    """

    backend: str = "sim"
    effort: Effort = Effort.FULL
    overrides: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(
        cls,
        *,
        backend: str = "sim",
        effort: Effort | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Choice:
        """Build a choice from a mapping of overrides, by default of the backend's usual effort."""
        effort = effort or Effort.usual(backend)
        return cls(backend, effort, tuple(sorted((overrides or {}).items())))

    @property
    def is_usual(self) -> bool:
        """Whether the effort is what the backend is served with unless asked."""
        return self.effort is Effort.usual(self.backend)

    @property
    def options(self) -> list[str]:
        """The command line's options for the effort."""
        return [] if self.is_usual else [f"--{self.effort}"]

    @property
    def folder(self) -> str:
        """Where figures and report of this effort lie, below those of the usual one."""
        return "" if self.is_usual else self.effort.value

    def command(self, name: str) -> str:
        """The command that makes the results of a figure which are meant."""
        changed = [word for key, value in self.overrides for word in (f"--{key}", str(value))]
        options = ["--backend", self.backend, *self.options, *changed]
        return shlex.join(["bench", "figure", name, *options])

    def panel(self, panel: Panel) -> Panel:
        """The panel as it is run under this choice: in miniature where a scale is given."""
        speed = dict(self.overrides).get("scale")
        return at_effort(panel if speed is None else scale_panel(panel, speed), self.effort)

    def points(self, panel: Panel) -> list[PointSpec]:
        """The points of the panel under this choice, in curve order."""
        panel = self.panel(panel)
        overrides = {**dict(self.overrides), "backend": self.backend}
        overrides.pop("scale", None)
        if panel.settings.get("workload") not in REAL_LENGTHS_FOR:
            overrides.pop("lengths", None)
        return panel.points(**overrides)


@dataclass(frozen=True)
class Searched:
    """A capacity by bisection, over several seeds (req/s).

    `probes` are the rates (req/s) that were tried with the panel's seed, and their mean normalized
    latencies (s/token).
    """

    capacity: float
    probes: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class PanelTable:
    """A panel and its results.

    `frame` has one row per registered point: `curve` (its index in the panel), `system`, `rate`,
    `state` ("complete", "stale", "missing" or "corrupt"), `reason`, `digest`, the other settings,
    and the metrics, which are NaN where there is no sound result. `searched` are the systems whose
    capacity was found by bisection.
    """

    panel: Panel
    frame: pd.DataFrame
    specs: tuple[PointSpec, ...]  # as the rows of `frame`
    searched: Mapping[str, Searched] = field(default_factory=dict)

    @property
    def sound(self) -> pd.DataFrame:
        """The rows that hold results."""
        return self.frame[self.frame["state"].isin([COMPLETE, STALE])]

    @property
    def sound_specs(self) -> list[PointSpec]:
        """The points that hold results."""
        found = set(self.sound["digest"])
        return [spec for spec in self.specs if spec.digest in found]

    @property
    def absent(self) -> pd.DataFrame:
        """The rows of points that are missing or corrupt."""
        return self.frame[~self.frame["state"].isin([COMPLETE, STALE])]

    def curve(self, index: int) -> pd.DataFrame:
        """The rows of one curve, at rising rates, those without a result included."""
        return self.frame[self.frame["curve"] == index].sort_values("rate")

    def curve_of(self, system: str) -> int:
        """Index of the only curve of `system`."""
        found = [i for i, curve in enumerate(self.panel.curves) if curve.system == system]
        assert len(found) == 1, f"panel {self.panel.name} has {len(found)} curves of {system}"
        return found[0]

    def metric(self, name: str, *, by: str = "system") -> pd.Series[float]:
        """A metric of all points by one of their settings (index); NaN where it is missing."""
        return self.frame.reindex(columns=[by, name]).set_index(by)[name]

    def capacity(self, index: int) -> Estimate | None:
        """Capacity of a curve from the points that are there; None if there is none."""
        curve = self.curve(index).reindex(columns=["rate", LATENCY]).dropna()
        return None if curve.empty else capacity(list(curve["rate"]), list(curve[LATENCY]))

    def column(self, name: str) -> list[str]:
        """The distinct values of a column over the sound rows, sorted, as text."""
        if name not in self.frame:
            return []
        return sorted({str(value) for value in self.sound[name].dropna()})


def load_panel(store: Store, panel: Panel, choice: Choice) -> PanelTable:
    """Read a panel's results."""
    specs = choice.points(panel)
    panel = choice.panel(panel)
    indices = [index for index, curve in enumerate(panel.curves) for _ in curve.all_rates]
    loaded = store.load(specs).drop_duplicates("digest").set_index("digest").to_dict("index")
    rows = []
    for index, spec in zip(indices, specs, strict=True):
        row: dict[Any, Any] = {"curve": index, "digest": spec.digest, "reason": ""}
        row |= spec.to_dict()
        if (found := loaded.get(spec.digest)) is not None:
            row |= {**found, "state": STALE if found["stale"] else COMPLETE}
        else:
            check = store.check(spec)
            row |= {"state": check.state.value, "reason": check.reason}
        rows.append(row)
    return PanelTable(panel, pd.DataFrame(rows), tuple(specs))
