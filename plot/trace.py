"""A trace at a glance: arrivals over time, both lengths, and how they go together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from bench.workloads.traces import Trace
from plot.draw import STYLE, save

_BINS = 100
_MOST_DOTS = 20_000  # of a scatter plot; a longer trace is thinned evenly


def draw_trace(trace: Trace, path: Path) -> None:
    """Draw into a file, .pdf or .png."""
    with style.context(STYLE):
        canvas = Canvas(figsize=(7.2, 2.2), layout="constrained")
        arrivals, lengths, both = canvas.subplots(1, 3)
        _draw_arrivals(arrivals, trace)
        _draw_lengths(lengths, trace)
        _draw_both(both, trace)
        save(canvas, path)


def _draw_arrivals(axes: Axes, trace: Trace) -> None:
    axes.set(xlabel="time (s)", ylabel="requests/s")
    if trace.arrival_s is None:
        axes.text(0.5, 0.5, "no arrivals", ha="center", va="center", transform=axes.transAxes)
        return
    end_s = float(trace.arrival_s[-1]) or 1.0
    counts, edges = np.histogram(trace.arrival_s, bins=_BINS, range=(0.0, end_s))
    axes.stairs(counts / (edges[1] - edges[0]), edges)
    axes.set_ylim(bottom=0)


def _draw_lengths(axes: Axes, trace: Trace) -> None:
    """The share of requests up to each length."""
    shares = np.linspace(0, 1, 1001)
    for name, lengths in (("input", trace.input_len), ("output", trace.output_len)):
        axes.plot(np.quantile(lengths, shares, method="inverted_cdf"), shares, label=name)
    axes.set(xlabel="tokens", ylabel="share of requests", xscale="symlog", ylim=(0, 1))
    axes.legend()


def _draw_both(axes: Axes, trace: Trace) -> None:
    part = slice(None, None, -(-len(trace) // _MOST_DOTS))
    axes.plot(trace.input_len[part], trace.output_len[part], ".", markersize=1, rasterized=True)
    axes.set(xlabel="input tokens", ylabel="output tokens", xscale="symlog", yscale="symlog")
