"""Which ratio of sustained rates depends on which price: the table in docs/simulator.md.

Each parameter is set to the two ends of what is known of it, one at a time and without fitting any
other again, and the claims' capacities are searched for on traces of 600 s with seed 0:

    python -m tools.sensitivity

Ten minutes on two cores with the engine compiled. A verdict that changes is marked by `!`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.claims.bisection import Bracket, Target, bisect
from bench.claims.verdicts import allowed
from bench.experiments.model import Claim
from bench.experiments.registry import FIGURES, find_panel
from bench.point.serve import run_point
from engines.sim.profile import DeviceProfile, load_profile

JOBS = 2
TARGET = Target(tolerance=0.02)
SHORT_S = 600.0
# Where a search starts: about the capacity (req/s).
CURVES = {
    "fig12-13b-sharegpt": {"astra": 2.5, "orca-oracle": 1.4, "orca-max": 0.86},
    "fig12-175b-sharegpt": {"astra": 3.2, "orca-oracle": 2.1, "orca-max": 1.4},
    "fig12-13b-alpaca": {"astra": 35.0, "orca-oracle": 26.0},
    "fig14-beam6": {"astra": 9.2, "orca-oracle": 4.8},
}
CLAIMS = {  # by the words that the table uses
    "13B / Oracle": ("fig12-13b-sharegpt", "orca-oracle"),
    "13B / Max": ("fig12-13b-sharegpt", "orca-max"),
    "175B / Oracle": ("fig12-175b-sharegpt", "orca-oracle"),
    "175B / Max": ("fig12-175b-sharegpt", "orca-max"),
    "Alpaca / Oracle": ("fig12-13b-alpaca", "orca-oracle"),
    "beam 6 / Oracle": ("fig14-beam6", "orca-oracle"),
}
# The ends of what is known: factors on the profile's value.
RANGES = {
    "weight_bandwidth": (0.92, 1.08),
    "flops": (0.93, 1.05),
    "kv_bandwidth": (0.75, 1.25),
    "attention_flops": (0.7, 1.5),
    "link_latency_s": (0.5, 2.0),
    "worker_overhead_s": (0.67, 1.33),
    "worker_group_overhead_s": (0.5, 1.5),
    "group_overhead_s": (0.7, 1.3),
    "sequence_overhead_s": (0.5, 1.5),
    "beam_overhead_s": (0.0, 2.0),
    "fork_token_overhead_s": (0.5, 3.0),
    "copy_bandwidth": (0.5, 1.15),
}


def claim_of(panel: str, under: str) -> Claim:
    """The registry's claim about a panel's ratio of sustained rates."""
    claims = (claim for figure in FIGURES.values() for claim in figure.claims)
    wanted = {"panel": panel, "under": under, "over": "astra"}
    return next(claim for claim in claims if wanted.items() <= dict(claim.args).items())


def profile_text(profile: DeviceProfile, changes: Mapping[str, float]) -> str:
    """A profile as TOML, its host's times included, with some rates multiplied."""
    values = {n: v for n, v in vars(profile).items() if isinstance(v, int | float)}
    lines = [f'name = "{profile.name}"']
    lines += [f"{name} = {value * changes.get(name, 1.0)!r}" for name, value in values.items()]
    table = [f"{size} = {factor}" for size, factor in profile.kv_block_efficiency.items()]
    return "\n".join([*lines, "[kv_block_efficiency]", *table]) + "\n"


def sustained(
    panel: str, system: str, about: float, changes: Mapping[str, float], duration_s: float
) -> float:
    """The rate (req/s) that a system sustains in a panel where rates and times are multiplied.

    It is searched for from `about` it, on a trace of a length with seed 0.
    """
    spec = next(s for s in find_panel(panel).points() if s.system.value == system)
    assert spec.device_profile is not None, "the paper's server"
    text = profile_text(load_profile(spec.device_profile), changes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "changed.toml"
        path.write_text(text, encoding="utf-8")
        spec = replace(spec, device_profile=str(path), duration=duration_s)

        def latency_at(rate: float) -> float:
            return float(run_point(replace(spec, rate=rate)).metrics["mean_normalized_latency_s"])

        rates = (0.93 * about, about, 1.07 * about)
        found = bisect(rates, latency_at, target=TARGET, duration_s=duration_s)
    assert isinstance(found, Bracket), "all latencies are known"
    return found.capacity


def ratios(
    curves: Mapping[str, Mapping[str, float]],
    claims: Mapping[str, tuple[str, str]],
    duration_s: float,
    changes: Mapping[str, float],
) -> dict[str, float]:
    """Ratios of sustained rates, Astra's over another system's, by the words for them.

    curves: about the rate (req/s) by panel and system. claims: panel and other system.
    """
    rates = {
        (panel, system): sustained(panel, system, about, changes, duration_s)
        for panel, systems in curves.items()
        for system, about in systems.items()
    }
    return {
        name: rates[panel, "astra"] / rates[panel, under] for name, (panel, under) in claims.items()
    }


def lines() -> Iterator[str]:
    """The table in Markdown."""
    limits = {name: allowed(claim_of(*of)) for name, of in CLAIMS.items()}
    settings = [("as it is", 1.0)] + [(name, f) for name, ends in RANGES.items() for f in ends]
    yield f"| parameter | factor | {' | '.join(CLAIMS)} |"
    yield f"|---|---|{'---|' * len(CLAIMS)}"
    with ProcessPoolExecutor(JOBS) as pool:
        changes = [{parameter: factor} for parameter, factor in settings]
        found = pool.map(partial(ratios, CURVES, CLAIMS, SHORT_S), changes)
        base: dict[str, float] = {}
        for (parameter, factor), row in zip(settings, found, strict=True):
            base = base or row
            cells = []
            for name, value in row.items():
                low, high = limits[name]
                changed = (low <= value <= high) is not (low <= base[name] <= high)
                cells.append(f"{value:.2f}{' !' if changed else ''}")
            yield f"| {parameter} | {factor:g} | {' | '.join(cells)} |"


if __name__ == "__main__":
    for line in lines():
        print(line, flush=True)
