"""Figures 18 and 19: the kernel's cost, the block size, recomputation against swapping."""

from __future__ import annotations

from typing import Any

from bench.experiments.fig_common import HARDWARE, PAPER_TRACE, SERVERS, paper_number
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
    plot="kernel-latency",
    claims=(
        Claim(
            path="fig18a:range",
            text="latency of the paged over the contiguous kernel, the largest of all shapes",
            paper=paper_number("fig18a:range"),
            tolerance=0.0,
            kind="at-most",
            measure="kernel_ratio",
            unit="x",
            notes="this device's caches and cores are not an A100's",
        ),
    ),
    hardware=HARDWARE["opt-13b"],
    microbenchmark="attention",
    only_measured=True,
    sweep={"context_len": (64, 128, 256), "batch_size": (8, 32)},
)


DATASETS = {"sharegpt": "ShareGPT", "alpaca": "Alpaca"}
# The original's rate in Figure 19b, near what one server sustains.
END_TO_END_RATE = 2.01
NEAR_SATURATION = {
    "sharegpt": (
        ". 16, 32 and 64 are the best three at any rate, and 128 is the fourth up to 1.5 req/s. "
        "Nearer to saturation 8 takes its place: of blocks of 128 tokens those partly filled waste "
        "an eighth of the cache, which then is what latency depends on"
    )
}
KERNEL_ASSUMED = (
    "block sizes differ by what they waste and by how well the kernel reads them; the latter, "
    "kv_block_efficiency of the profile, is assumed"
)
# Both rates are the original's: of its Figure 18b (Alpaca), and of its Figure 19b, which sweeps the
# same block sizes on ShareGPT. The paper gives no rate of Figure 18b for ShareGPT.
BLOCK_SIZE_RATES = {"sharegpt": END_TO_END_RATE, "alpaca": 30.1}
# How many block sizes the paper calls best.
BEST = {"sharegpt": 4, "alpaca": 2}


def _best_sizes(dataset: str, panel: str, count: int, end: str) -> Claim:
    path = f"fig18b:best_block_sizes:{dataset}"
    return Claim(
        path=path,
        text=f"{end} of the {count} best block sizes (assumed kernel), {DATASETS[dataset]}",
        paper=paper_number(path),
        tolerance=0.0,
        kind="range",
        measure="best_block_size",
        args={"panel": panel, "count": count, "end": end},
        unit="tokens",
        notes=KERNEL_ASSUMED + NEAR_SATURATION.get(dataset, ""),
    )


FIG18B = Figure(
    name="fig18-b",
    title="Normalized latency against the block size (Fig. 18b)",
    section="7.2",
    claim="Block sizes 16-128 are best on ShareGPT, 16 and 32 on Alpaca",
    panels=tuple(
        _block_size_panel(
            f"fig18-b-{name}", f"{DATASETS[name]}, {rate:g} req/s", rate, workload=name
        )
        for name, rate in BLOCK_SIZE_RATES.items()
    ),
    plot="block-sizes",
    claims=tuple(
        _best_sizes(name, f"fig18-b-{name}", BEST[name], end)
        for name in BLOCK_SIZE_RATES
        for end in ("smallest", "largest")
    ),
    hardware=HARDWARE["opt-13b"],
)

PREEMPTED: dict[str, Any] = {"context_len": 256, "model": "opt-13b", "device_profile": "a100-40gb"}

FIG19A = Figure(
    name="fig19-a",
    title="Recomputation and swapping of one 256-token sequence (Fig. 19a)",
    section="7.3",
    claim="Recomputation is flat over block sizes; swapping falls as blocks grow",
    panels=(),
    plot="preemption-costs",
    claims=(
        Claim(
            path="fig19:recompute_over_swap_max",
            text="cost of recomputing a sequence beside 30 that decode, over that of swapping it",
            paper=paper_number("fig19:recompute_over_swap_max"),
            tolerance=0.0,
            kind="at-most",
            measure="largest_cost_ratio",
            args={"block_sizes": BLOCK_SIZES, **PREEMPTED},
            unit="x",
        ),
    ),
    hardware=HARDWARE["opt-13b"],
    microbenchmark="recovery",
    sweep={"context_len": (256,), "block_size": BLOCK_SIZES},
)

LARGE_BLOCKS = (
    "the largest ratio is that of 256-token blocks; it is 1.24 to 1.30 for four seeds, and at most "
    "1.1 from 1 to 128. With 256 tokens to a block the cache holds 61 blocks, two for each "
    "sequence that runs: one is evicted soon after it was admitted. Recomputed ones return at once "
    "and are evicted again, 5 times as often; nothing is admitted while one is swapped out"
)

# "Comparable" in the paper.
COMPARABLE = (16, 32, 64)


def _end_to_end(which: str, sizes: tuple[int, ...], notes: str = "") -> Claim:
    return Claim(
        path="fig19:recompute_over_swap_max",
        text=f"latency with recomputation over that with swapping, {which} block sizes",
        paper=paper_number("fig19:recompute_over_swap_max"),
        tolerance=0.0,
        kind="at-most",
        measure="largest_latency_ratio",
        args={"over": "fig19-b-recompute", "under": "fig19-b-swap", "block_sizes": sizes},
        unit="x",
        notes=notes,
    )


FIG19B = Figure(
    name="fig19-b",
    title="Recomputation and swapping, end to end (Fig. 19b)",
    section="7.3",
    claim="Swapping is slow with small blocks; the two are comparable from 16 to 64",
    panels=tuple(
        _block_size_panel(
            f"fig19-b-{preemption}",
            f"ShareGPT, {END_TO_END_RATE:g} req/s, {preemption}",
            END_TO_END_RATE,
            workload="sharegpt",
            preemption=preemption,
        )
        for preemption in ("recompute", "swap")
    ),
    plot="preemption-latency",
    claims=(
        _end_to_end("comparable", COMPARABLE),
        _end_to_end("all", BLOCK_SIZES, LARGE_BLOCKS),
    ),
    hardware=HARDWARE["opt-13b"],
)
