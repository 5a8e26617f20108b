"""Figures 14 and 15: parallel sampling and beam search, and the memory that sharing saves."""

from __future__ import annotations

from bench.experiments.fig_common import (
    HARDWARE,
    OVERLOAD_TRACE,
    PAPER_TRACE,
    SCRIPT_TRACE,
    SERVERS,
    curves,
    paper_number,
)
from bench.experiments.model import Claim, Figure, Panel

Rates = dict[str, tuple[float, ...]]

_MAX_WIDE = (0.1, 0.25, 0.5, 0.75, 1.0)
RATES: dict[str, Rates] = {
    "n2": {
        "astra": (12.5, 15.0, 18.0, 19.0, 20.0),
        "orca-oracle": (10.0, 11.0, 12.0, 13.0, 14.0),
        "orca-pow2": (6.0, 7.0, 8.0, 9.0, 10.0, 12.0),
        "orca-max": (1.0, 1.5, 2.0, 2.5),
    },
    "n4": {
        "astra": (6.0, 8.0, 10.0, 11.0, 12.0),
        "orca-oracle": (4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
        "orca-pow2": (2.0, 3.0, 4.0, 5.0, 6.0),
        "orca-max": _MAX_WIDE,
    },
    "n6": {
        "astra": (4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
        "orca-oracle": (2.0, 3.0, 4.0, 5.0, 6.0),
        "orca-pow2": (1.0, 2.0, 2.5, 3.0, 4.0, 4.5),
        "orca-max": _MAX_WIDE,
    },
    "beam2": {
        "astra": (10.0, 12.5, 15.0, 16.0, 17.5, 19.0),
        "orca-oracle": (6.0, 8.0, 9.0, 10.0, 11.0),
        "orca-pow2": (3.0, 5.0, 6.0, 7.0, 8.0, 9.0),
        "orca-max": (0.5, 1.0, 1.25, 1.5, 2.0),
    },
    "beam4": {
        "astra": (6.0, 8.0, 9.0, 10.0, 11.0),
        "orca-oracle": (3.0, 4.0, 4.5, 5.0, 6.0),
        "orca-pow2": (1.0, 2.0, 3.0, 3.5, 4.0, 4.5),
        "orca-max": _MAX_WIDE,
    },
    "beam6": {
        "astra": (4.0, 6.0, 6.5, 7.0, 8.0, 8.5),
        "orca-oracle": (1.0, 2.0, 3.0, 3.5, 4.0, 4.5),
        "orca-pow2": (0.5, 1.5, 2.0, 2.5, 3.0),
        "orca-max": _MAX_WIDE,
    },
}
# Ours, where the original's end before a curve reaches 1 s/token or pass it in a wide step.
EXTRA_RATES: dict[str, Rates] = {
    "n2": {"astra": (21.0, 22.5), "orca-oracle": (15.0, 16.5), "orca-pow2": (11.0,)},
    "n4": {"astra": (13.5,), "orca-pow2": (5.5, 6.5)},
    "n6": {"orca-oracle": (5.25, 6.5), "orca-pow2": (3.5,)},
    "beam2": {
        "astra": (21.5, 23.5),
        "orca-oracle": (13.5, 15.0, 16.5),
        "orca-pow2": (10.5, 11.5),
        "orca-max": (1.8,),
    },
    "beam4": {
        "astra": (12.0, 13.0),
        "orca-oracle": (7.0, 7.5, 8.5),
        "orca-pow2": (5.0, 5.5, 6.0),
    },
    "beam6": {"astra": (9.25, 10.0), "orca-oracle": (5.0, 5.5), "orca-pow2": (3.5,)},
}
PARALLEL, BEAM = ("n2", "n4", "n6"), ("beam2", "beam4", "beam6")


def sampling_title(sampling: str) -> str:
    """A caption such as "Beam search, width 4"."""
    if sampling.startswith("beam"):
        return f"Beam search, width {sampling.removeprefix('beam')}"
    return f"Parallel sampling, {sampling.removeprefix('n')} outputs"


def _latency_panel(sampling: str) -> Panel:
    settings = {**SERVERS["opt-13b"], "workload": "alpaca", "sampling": sampling, **SCRIPT_TRACE}
    title = sampling_title(sampling)
    return Panel(
        f"fig14-{sampling}",
        title,
        curves(RATES[sampling], EXTRA_RATES[sampling]),
        settings,
        PAPER_TRACE,
    )


def _ratio(path: str, panel: str, text: str, *, calibrated: str = "", notes: str = "") -> Claim:
    return Claim(
        path=path,
        text=f"sustained rate, astra over orca-oracle, Alpaca, {text}",
        paper=paper_number(path),
        tolerance=0.15,
        kind="relative",
        measure="capacity_ratio",
        args={"panel": panel, "over": "astra", "under": "orca-oracle"},
        calibrated=calibrated,
        unit="x",
        notes=notes,
    )


BEAM_NOTES = (
    "with beam width 6 Astra batches 5.3 times the sequences of Orca (Oracle), 386 against 73, in "
    "steps 2.6 times as long, 121 ms against 46. Of Orca's step 11 ms are copies of whole beams. "
    "What a copied block costs was fitted on the last rates of the original's Orca (Pow2); on "
    "those of Orca (Oracle) and Astra, 4.5 and 8.5 req/s, the original's own ratio would be 1.9"
)

# Not on this ratio, but on what the same figure's other systems and widths were served with.
BEAMS_CALIBRATED = "copy_latency_s, beam_overhead_s and sequence_overhead_s of the device profiles"

FIG14 = Figure(
    name="fig14",
    title="Parallel sampling and beam search (Fig. 14)",
    section="6.3",
    claim="Astra over Orca (Oracle) grows from 1.3x (one output) to 2.3x (beam width 6)",
    panels=tuple(_latency_panel(sampling) for sampling in RATES),
    plot="normalized-latency",
    claims=(
        _ratio("fig14:n1", "fig12-13b-alpaca", "one output"),
        _ratio(
            "fig14:beam6",
            "fig14-beam6",
            "beam width 6",
            calibrated=BEAMS_CALIBRATED,
            notes=BEAM_NOTES,
        ),
    ),
    hardware=HARDWARE["opt-13b"],
)


# The paper gives no rate for ShareGPT; ours saturates the server, as Alpaca's does.
SHARING_RATES = {"alpaca": 20.0, "sharegpt": 4.0}


CALIBRATED = {"fig15:alpaca:beam6": "novelty of the process that beams follow in the simulation"}


LONG_BEAMS = (
    "3.1 points above the paper's range (to 4.2, four seeds): beams' one parameter was fitted on "
    "Alpaca's 58 output tokens; on ShareGPT's 338 the process lets beams share a little too much"
)


def _sharing_panel(workload: str, sampling: str) -> Panel:
    settings = {**SERVERS["opt-13b"], "workload": workload, "sampling": sampling, **OVERLOAD_TRACE}
    return Panel(
        f"fig15-{workload}-{sampling}",
        f"{'Alpaca' if workload == 'alpaca' else 'ShareGPT'}: {sampling_title(sampling)}",
        curves({"astra": (SHARING_RATES[workload],)}),
        settings,
    )


def _saving(workload: str, sampling: str) -> Claim:
    method = "beam" if sampling in BEAM else "parallel"
    path = f"fig15:{workload}:{sampling if workload == 'alpaca' else method}"
    alpaca_tolerance = 5.0 if method == "beam" else 1.5
    return Claim(
        path=path,
        text=f"blocks saved by sharing, {workload}, {sampling}",
        paper=paper_number(path),
        tolerance=alpaca_tolerance if workload == "alpaca" else 3.0,
        kind="points",
        measure="mean_metric",
        args={
            "panel": f"fig15-{workload}-{sampling}",
            "system": "astra",
            "metrics": ("sharing_saving_pct",),
        },
        calibrated=CALIBRATED.get(path, ""),
        notes=LONG_BEAMS if (workload, sampling) == ("sharegpt", "beam6") else "",
        unit="%",
    )


_SHARING = tuple((workload, sampling) for workload in SHARING_RATES for sampling in RATES)

FIG15 = Figure(
    name="fig15",
    title="Memory saved by sharing blocks (Fig. 15)",
    section="6.3",
    claim="Sharing saves 6-10 % of the blocks in parallel sampling and 38-55 % in beam search",
    panels=tuple(_sharing_panel(workload, sampling) for workload, sampling in _SHARING),
    plot="sharing",
    claims=tuple(_saving(workload, sampling) for workload, sampling in _SHARING),
    hardware=HARDWARE["opt-13b"],
)
