"""How much of an experiment is run: quick, as the original's scripts do, or as the paper did.

A quick run is the same code on the same model and server with less to serve, to see that all works
before hours are spent. Its numbers are no evidence: a trace that short ends before a queue is long.

- Traces, warm-up, window and time limit last `QUICK_SHARE` of the scripts'; where a window is
  averaged under overload, the few requests that finish all count.
- Of each curve's rates every second remains, the highest included, without those that would send
  fewer than `FEWEST_REQUESTS` after the warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any

from bench.experiments.model import Curve, Figure, Panel
from engines.core.errors import UserError

QUICK_SHARE = 0.25
FEWEST_REQUESTS = 8.0
_TIMES = ("duration", "warmup", "timeout")


class Effort(StrEnum):
    """Which traces and rates are served. The value is also the option's name."""

    QUICK = "quick"
    SHORT = "short"
    FULL = "full"

    @classmethod
    def usual(cls, backend: str) -> Effort:
        """What is served unless asked: the paper's traces take hours on GPUs, seconds here."""
        return cls.FULL if backend == "sim" else cls.SHORT

    @classmethod
    def of(cls, backend: str, **given: bool) -> Effort:
        """The effort that the options of these names stand for; raises UserError for several."""
        chosen = [effort for effort in cls if given[effort]]
        if len(chosen) > 1:
            raise UserError(
                f"{' and '.join(f'--{one}' for one in chosen)} exclude each other: give one of them"
            )
        return chosen[0] if chosen else cls.usual(backend)

    @property
    def words(self) -> str:
        """What is served, for people."""
        return {
            Effort.QUICK: "Quick run: a quarter of the original scripts' traces, every second rate",
            Effort.SHORT: "The original scripts' traces",
            Effort.FULL: "The paper's trace lengths",
        }[self]


def at_effort(panel: Panel, effort: Effort) -> Panel:
    """The panel as it is run with this effort."""
    if effort is Effort.FULL:
        return panel
    settings = {**panel.settings, **panel.short_settings}
    curves = tuple(
        replace(curve, extra_rates=(*curve.extra_rates, *curve.short_rates), short_rates=())
        for curve in panel.curves
    )
    short = replace(panel, curves=curves, settings=settings, short_settings={})
    if effort is Effort.SHORT:
        return short
    settings = _shortened(short.settings)
    seconds = settings["duration"] - settings.get("warmup", 0.0)
    curves = tuple(_thinned(curve, seconds) for curve in short.curves)
    return replace(short, curves=curves, settings=settings)


def _shortened(settings: Mapping[str, Any]) -> dict[str, Any]:
    shorter = {name: QUICK_SHARE * settings[name] for name in _TIMES if name in settings}
    if settings.get("window") is not None:
        start, end = settings["window"]
        shorter["window"] = (QUICK_SHARE * start, QUICK_SHARE * end)
        shorter["warmup"] = 0.0  # of an overload's steady state, no latency is asked for
    return {**settings, **shorter}


def _thinned(curve: Curve, seconds: float) -> Curve:
    """Every second rate from the highest down; `seconds` of arrivals count for latency."""
    rates = curve.all_rates[::-2]
    kept = [rate for rate in rates if rate * seconds >= FEWEST_REQUESTS] or rates[:1]
    return replace(curve, rates=tuple(sorted(kept)), extra_rates=())


def gpu_hours(figure: Figure, effort: Effort) -> float:
    """Hours on the paper's GPUs to serve a figure's traces at the original's rates.

    The time to drain the queues after the last arrival is not in it.
    """
    return sum(
        point.duration * (point.tensor_parallel or 1) / 3600.0
        for panel in (at_effort(panel, effort) for panel in figure.panels)
        for curve in panel.curves
        for point in panel.curve_points(curve)
        if point.rate in curve.rates
    )
