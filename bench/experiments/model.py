"""The vocabulary of the registry: figures, panels, curves and claims, as plain records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.point import PointSpec


@dataclass(frozen=True)
class Curve:
    """One line (or bar) of a panel: a system over request rates, with its own settings."""

    system: str
    rates: tuple[float, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None  # None: the system's label


@dataclass(frozen=True)
class Panel:
    """One set of axes: curves that share a model, a workload and settings.

    `name` is also a name for `bench figure` (for example `fig12-13b-sharegpt`).
    `settings` are fields of PointSpec; `full_settings` replace them under `--full`
    (the paper's own trace lengths).
    """

    name: str
    title: str
    curves: tuple[Curve, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    full_settings: Mapping[str, Any] = field(default_factory=dict)

    def points(self, *, full: bool = False, **overrides: Any) -> list[PointSpec]:
        """All points of the panel, in curve order."""
        extra = {**self.settings, **(self.full_settings if full else {})}
        return [
            PointSpec(**{**extra, **curve.settings, "system": curve.system, "rate": rate,
                         **overrides})
            for curve in self.curves
            for rate in curve.rates
        ]


@dataclass(frozen=True)
class Claim:
    """A number of the paper that a figure must reproduce.

    `path` leads into claims.json. `paper` is a value, or (low, high) for a range; `tolerance` is
    in `kind`: "points" (percentage points), "relative" (fraction of the paper's value),
    "range" (fraction beyond either end). `calibrated` marks numbers that fixed a parameter.
    `measure` names a function of `bench.report` and `args` are its arguments.
    """

    path: str
    text: str
    paper: float | tuple[float, float]
    tolerance: float
    kind: str
    measure: str
    args: Mapping[str, Any] = field(default_factory=dict)
    calibrated: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure of the paper: what to run, what it claims, what it needs.

    `pending` is why a figure cannot run yet ("" if it can). Times are in seconds on two cores for
    the simulation, in hours on the paper's hardware for the original.
    """

    name: str
    title: str
    section: str
    claim: str
    panels: tuple[Panel, ...]
    claims: tuple[Claim, ...] = ()
    hardware: str = ""
    gpu_hours: float = 0.0
    sim_seconds: float = 0.0
    pending: str = ""

    def points(self, *, full: bool = False, **overrides: Any) -> list[PointSpec]:
        """All points of all panels, each once."""
        specs = [spec for panel in self.panels for spec in panel.points(full=full, **overrides)]
        return list(dict.fromkeys(specs))
