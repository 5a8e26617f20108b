"""The vocabulary of the registry: figures, panels, curves and claims, as plain records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.point.spec import PointSpec
from engines.core.config import System


@dataclass(frozen=True)
class Curve:
    """One line (or bar) of a panel: a system over request rates, with its own settings.

    `rates` are the original artifact's, in requests per second. `extra_rates` are ours, added
    where the original's do not reach the point at which the curve crosses the latency limit, and
    `short_rates` where only those of short traces do not, which cross later.
    `paper` is where the paper's curve crosses it (req/s, in print), as far as its axis tells.
    """

    system: System
    rates: tuple[float, ...]
    extra_rates: tuple[float, ...] = ()
    short_rates: tuple[float, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None  # None: the system's label
    paper: str = ""

    @property
    def all_rates(self) -> tuple[float, ...]:
        """The original's rates and ours, rising, each once."""
        return tuple(sorted({*self.rates, *self.extra_rates}))


@dataclass(frozen=True)
class Panel:
    """One set of axes: curves that share a model, a workload and settings.

    `name` is also a name for `bench figure` (for example `fig12-13b-sharegpt`).
    `settings` are fields of PointSpec, with the paper's trace lengths; `short_settings` replace
    them where the original scripts' are served. `note` says how it departs from the paper's, if it
    does.
    """

    name: str
    title: str
    curves: tuple[Curve, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    short_settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def curve_points(self, curve: Curve, **overrides: Any) -> list[PointSpec]:
        """The points of one curve, at rising rates."""
        settings = {**self.settings, **curve.settings, "system": curve.system, **overrides}
        return [PointSpec(**{"rate": rate, **settings}) for rate in curve.all_rates]

    def points(self, **overrides: Any) -> list[PointSpec]:
        """All points of the panel, in curve order."""
        return [spec for curve in self.curves for spec in self.curve_points(curve, **overrides)]


@dataclass(frozen=True)
class Claim:
    """A number of the paper that a figure must reproduce.

    `path` identifies the number, for example "fig13:alpaca@30:astra"; several claims may share it.
    `paper` is a value, or (low, high) for a range, and `half_units` half a unit of the last digit
    that the paper prints of each end. Within these a claim is met, or within `tolerance` where one
    is given, and then `because` says why. It is in `kind`: "points" (percentage points), "relative"
    (fraction of the paper's value), "range" (fraction beyond either end), "at-most".
    `measure` names a function of `bench.claims.measures` and `args` are its arguments.
    `bound` is what the paper's setup allows at most, where that has been computed (docs/bounds.md).
    `calibrated` says which parameters were fitted on this number ("" for a prediction), `assumed`
    the assumption that would decide the claim in simulation. `notes` explain a miss and are shown
    only then.
    """

    path: str
    text: str
    paper: float | tuple[float, float]
    kind: str
    measure: str
    tolerance: float | None = None
    because: str = ""
    half_units: tuple[float, float] = (0.0, 0.0)
    args: Mapping[str, Any] = field(default_factory=dict)
    calibrated: str = ""
    assumed: str = ""
    bound: str = ""
    unit: str = ""
    notes: str = ""


@dataclass(frozen=True)
class Calibration:
    """A parameter that was fitted, or a sum of them, and the number of the paper it was fitted on.

    `claims` are the paths of the claims about that number, or what several of them start with;
    none where no claim is about it.
    """

    parameter: str
    where: str
    fitted_on: str
    claims: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters in the sum."""
        return tuple(self.parameter.split(" + "))


@dataclass(frozen=True)
class Figure:
    """A figure of the paper: what to run, what it claims, what it needs.

    `plot` names how it is drawn (a key of `plot.draw.DRAWERS`). `sweep` holds the parameters of
    figures that are not made of served points. `microbenchmark` names the part of `bench kernels`
    that measures it on a device, `only_measured` says that nothing simulates it.
    """

    name: str
    title: str
    section: str
    claim: str
    panels: tuple[Panel, ...]
    plot: str = ""
    claims: tuple[Claim, ...] = ()
    hardware: str = ""
    sweep: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    microbenchmark: str = ""
    only_measured: bool = False

    def is_measured(self, backend: str) -> bool:
        """Whether it comes from a microbenchmark: where models run, or where nothing else can."""
        return bool(self.microbenchmark) and (backend != "sim" or self.only_measured)

    def points(self, **overrides: Any) -> list[PointSpec]:
        """All points of all panels, each once."""
        return list(dict.fromkeys(s for panel in self.panels for s in panel.points(**overrides)))


@dataclass(frozen=True)
class Selection:
    """What a name on the command line stands for: figures, whole or in part."""

    name: str
    figures: tuple[Figure, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """The panels to run, in the order of the paper."""
        return tuple(panel for figure in self.figures for panel in figure.panels)
