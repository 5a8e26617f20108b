"""How far the paper's setup allows the claims that miss: the table in docs/bounds.md.

Prices that stand in a claim's way are made free for all systems alike, on traces of an hour with
seed 0. What is left is a bound: no host and no kernel on the paper's servers reaches more.

    python -m tools.bounds

Two minutes on two cores with the engine compiled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from engines.sim.profile import HOST_TERMS
from tools.sensitivity import JOBS, ratios

HOUR_S = 3600.0
FREE_COMPUTING = {"flops": math.inf, "attention_flops": math.inf}
FREE_HOST = dict.fromkeys([*HOST_TERMS, "link_latency_s"], 0.0)
FREE_READS = {"kv_bandwidth": math.inf}
PEAKS = {  # of the data sheet, over what the profiles take kernels to reach
    "weight_bandwidth": 1.3155,
    "kv_bandwidth": 1.556,
    "flops": 1.3684,
    "attention_flops": 3.12,
    "link_bandwidth": 1.3043,
}
VARIANTS: dict[str, Mapping[str, float]] = {
    "as priced": {},
    "prompts and all computing free": FREE_COMPUTING,
    "reading the KV cache free": FREE_READS,
    "Python and the exchanges' latency free": FREE_HOST,
    "Python free, all rates the data sheet's peaks": {**PEAKS, **FREE_HOST},
    "all of it free: only the weights are read": {**FREE_COMPUTING, **FREE_READS, **FREE_HOST},
}
# What is compared, and about where each curve crosses the limit (req/s).
PANELS: dict[str, dict[str, float]] = {
    "fig17-13b-chat": {"astra": 0.7, "orca-oracle": 0.52, "orca-pow2": 0.5, "orca-max": 0.48},
    "fig12-13b-sharegpt": {"astra": 2.0, "ft": 0.27},
    "fig12-66b-sharegpt": {"astra": 1.05, "ft": 0.12},
    "fig12-175b-sharegpt": {"astra": 3.0, "orca-oracle": 2.0, "orca-max": 1.3, "ft": 0.3},
}
RATIOS = {
    "chat / Oracle": ("fig17-13b-chat", "orca-oracle"),
    "chat / Pow2": ("fig17-13b-chat", "orca-pow2"),
    "chat / Max": ("fig17-13b-chat", "orca-max"),
    "13B / FT": ("fig12-13b-sharegpt", "ft"),
    "66B / FT": ("fig12-66b-sharegpt", "ft"),
    "175B / FT": ("fig12-175b-sharegpt", "ft"),
    "175B / Oracle": ("fig12-175b-sharegpt", "orca-oracle"),
    "175B / Max": ("fig12-175b-sharegpt", "orca-max"),
}


def lines() -> Iterator[str]:
    """The table in Markdown."""
    yield f"| {' | '.join(['free', *RATIOS])} |"
    yield f"|---|{'---|' * len(RATIOS)}"
    with ProcessPoolExecutor(JOBS) as pool:
        found = pool.map(partial(ratios, PANELS, RATIOS, HOUR_S), VARIANTS.values())
        for variant, row in zip(VARIANTS, found, strict=True):
            yield f"| {variant} | {' | '.join(f'{ratio:.2f}' for ratio in row.values())} |"


if __name__ == "__main__":
    for line in lines():
        print(line, flush=True)
