"""Figures 18 and 19: the kernel's cost, the block size, recomputation against swapping."""

from __future__ import annotations

from typing import Any

from bench.experiments.fig_common import HARDWARE, NOT_RUNNABLE, PAPER_TRACE, SERVERS, paper_number
from bench.experiments.model import Claim, Curve, Figure, Panel

BLOCK_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Five minutes of warm-up of ten: latency near saturation takes that long to settle.
SETTLED_TRACE = {"duration": 600.0, "warmup": 300.0}


def _block_size_panel(name: str, title: str, rate: float, **settings: Any) -> Panel:
    return Panel(
        name,
        title,
        tuple(
            Curve("astra", (rate,), settings={"block_size": size}, label=f"block size {size}")
            for size in BLOCK_SIZES
        ),
        {**SERVERS["opt-13b"], **SETTLED_TRACE, **settings},
        PAPER_TRACE,
    )


FIG18A = Figure(
    name="fig18-a",
    title="Attention kernel: paged against contiguous (Fig. 18a)",
    section="7.1",
    claim="The paged kernel is 20-26 % slower than FasterTransformer's",
    panels=(),
    claims=(
        Claim(
            path="fig18a:range",
            text="latency of the paged over the contiguous kernel",
            paper=paper_number("fig18a:range"),
            tolerance=0.0,
            kind="range",
            measure="not_measured",
            unit="x",
        ),
    ),
    hardware=HARDWARE["opt-13b"],
    pending=NOT_RUNNABLE,
    sweep={"context_len": (64, 128, 256), "batch_size": (8, 32)},
)

# The rates 30.1 and 2.01 are the original's: just beyond what one server sustains.
FIG18B = Figure(
    name="fig18-b",
    title="Normalized latency against the block size (Fig. 18b)",
    section="7.2",
    claim="Block sizes 16-128 are best on ShareGPT, 16 and 32 on Alpaca",
    panels=(
        _block_size_panel("fig18-b-sharegpt", "ShareGPT, 2.01 req/s", 2.01, workload="sharegpt"),
        _block_size_panel("fig18-b-alpaca", "Alpaca, 30.1 req/s", 30.1, workload="alpaca"),
    ),
    hardware=HARDWARE["opt-13b"],
    pending=NOT_RUNNABLE,
)

FIG19A = Figure(
    name="fig19-a",
    title="Recomputation and swapping of one 256-token sequence (Fig. 19a)",
    section="7.3",
    claim="Recomputation is flat over block sizes; swapping falls as blocks grow",
    panels=(),
    hardware=HARDWARE["opt-13b"],
    pending=NOT_RUNNABLE,
    sweep={"context_len": (256,), "block_size": BLOCK_SIZES},
)

FIG19B = Figure(
    name="fig19-b",
    title="Recomputation and swapping, end to end (Fig. 19b)",
    section="7.3",
    claim="Recomputation is never more than 20 % above swapping; comparable from 16 to 64",
    panels=tuple(
        _block_size_panel(
            f"fig19-b-{preemption}",
            f"ShareGPT, 2.01 req/s, {preemption}",
            2.01,
            workload="sharegpt",
            preemption=preemption,
        )
        for preemption in ("recompute", "swap")
    ),
    claims=(
        Claim(
            path="fig19:recompute_over_swap_max",
            text="latency with recomputation over latency with swapping, the largest",
            paper=paper_number("fig19:recompute_over_swap_max"),
            tolerance=0.0,
            kind="at-most",
            measure="not_measured",
            unit="x",
        ),
    ),
    hardware=HARDWARE["opt-13b"],
    pending=NOT_RUNNABLE,
)
