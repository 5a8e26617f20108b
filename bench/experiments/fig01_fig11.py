"""Figures 1 (right) and 11: what batching costs in memory, and how long the requests are."""

from __future__ import annotations

from bench.experiments.fig_common import HARDWARE, OVERLOAD_TRACE, SERVERS
from bench.experiments.model import Curve, Figure, Panel

# The paper does not say how Figure 1 was measured. Ours: Figure 2's overload, with the number of
# sequences in a batch bounded.
BATCH_SIZES = (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40)

FIG1 = Figure(
    name="fig1",
    title="KV memory and throughput against the batch size (Fig. 1, right)",
    section="1",
    claim="Paged memory grows with the tokens held, which lets larger batches run",
    panels=(
        Panel(
            "fig1-13b-sharegpt",
            "OPT-13B, 1 GPU, ShareGPT",
            tuple(
                Curve(system, (4.0,), settings={"max_num_seqs": size})
                for system in ("orca-max", "astra")
                for size in BATCH_SIZES
            ),
            {**SERVERS["opt-13b"], "workload": "sharegpt", **OVERLOAD_TRACE, "warmup": 0.0},
        ),
    ),
    plot="batch-size",
    hardware=HARDWARE["opt-13b"],
)

FIG11 = Figure(
    name="fig11",
    title="Input and output lengths of ShareGPT and Alpaca (Fig. 11)",
    section="6.1",
    claim="Mean input and output: ShareGPT 161.31 and 337.99 tokens, Alpaca 19.31 and 58.45",
    panels=(),
    plot="lengths",
    hardware="none",
)
