"""The simulation against the running system: each step and request, and latency over the rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from bench.experiments.capacity import LATENCY
from bench.validation.record import SAMPLES, ValidationRecord, read_validation
from plot.draw import METADATA, PLAIN_TEXT, STYLE, save
from plot.layout import finish, new_axes, place_legend, set_title
from plot.systems import EDGE, SYSTEMS, Look, in_order

if TYPE_CHECKING:
    import pandas as pd

NAME = "validation"
MEASURED, PREDICTED = Look("measured", "#444444", ""), Look("predicted", "#444444", "", "--")
_TIMES = ((0, "steps", "step time (ms)", 1e3), (1, "requests", "request latency (s)", 1.0))


def draw_validation(root: Path) -> list[Path]:
    """Draw the validation in a directory, from its two files, as PDF and PNG beside them."""
    import pandas as pd

    found, samples = read_validation(root), pd.read_csv(root / SAMPLES)
    with style.context([STYLE, PLAIN_TEXT]):
        canvas = compose(found, samples)
        return [save(canvas, root / f"{NAME}.{kind}") for kind in METADATA]


def compose(found: ValidationRecord, samples: pd.DataFrame) -> Canvas:
    """Steps, requests, and curves of latency side by side."""
    canvas, axes = new_axes(3, (7.2, 2.75))
    points = [point["system"] for point in found["points"]]  # as samples number them
    for index, kind, label, scale in _TIMES:
        ax = axes[0][index]
        _draw_pairs(ax, samples[samples["kind"] == kind], points, scale)
        ax.set_xlabel(f"measured {label}")
        ax.set_ylabel(f"predicted {label}")
        set_title(ax, f"Each {kind.removesuffix('s')}", index, of=3)
    _draw_curves(axes[0][2], found)
    set_title(axes[0][2], "ShareGPT's lengths", 2, of=3)
    sides = [MEASURED.handle(), PREDICTED.handle()]
    looks = [replace(SYSTEMS[name], line="none") for name in in_order(points)]
    handles = [look.handle(look.label, **EDGE) for look in looks]
    place_legend(canvas, [*handles, *sides])
    made = f"{found['model']} in {found['dtype']}"
    told = "nothing fitted to these points · the machine's speed measured beside them"
    finish(canvas, footer=f"measured on {found['device']} · {made} · {told}")
    return canvas


def _draw_pairs(ax: Axes, pairs: pd.DataFrame, systems: Sequence[str], scale: float) -> None:
    """Predicted over measured, and the lines of no error and of ten percent."""
    for name in in_order(systems):
        own = pairs[pairs["point"].map(lambda point: systems[point]) == name]
        ax.plot(
            scale * own["measured"], scale * own["predicted"], ".", color=SYSTEMS[name].colour,
            markersize=1.6, alpha=0.5, markeredgewidth=0, rasterized=True,
        )  # fmt: skip
    times = scale * pairs[["measured", "predicted"]].to_numpy()
    ends = [0.8 * times.min(), 1.25 * times.max()]
    for factor, width in ((1.0, 0.8), (0.9, 0.4), (1.1, 0.4)):
        ax.plot(ends, [factor * end for end in ends], color="#444444", linewidth=width)
    ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")


def _draw_curves(ax: Axes, found: ValidationRecord) -> None:
    points = [point for point in found["points"] if point["case"] == "sharegpt"]
    for name in in_order(point["system"] for point in points):
        own = sorted((p for p in points if p["system"] == name), key=lambda p: float(p["rate"]))
        rates, look = [point["rate"] for point in own], SYSTEMS[name]
        for side, drawn in (
            ("measured", replace(look, line="-")),
            ("predicted", replace(look, line="--", marker="")),
        ):
            drawn.draw(ax, rates, [1e3 * point[side][LATENCY] for point in own], **EDGE)
    ax.set_xlabel("request rate (req/s)")
    ax.set_ylabel("normalized latency (ms/token)")
    ax.set_ylim(0)
    ax.set_xlim(0)
