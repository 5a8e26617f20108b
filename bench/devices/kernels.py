"""Figure 18a's and 19a's microbenchmarks on the present device."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain, product
from typing import Any

import torch

from bench.devices import cases
from bench.devices.cases import Subject
from bench.devices.device import Shapes, out_of_memory
from bench.devices.timing import Case, measure_copy_bandwidth, time_cases
from bench.results.measurements import FORMAT, AttentionRow, RatioRow, RecoveryRow
from bench.results.provenance import environment
from engines.execution.device import device_name

Key = tuple[Any, ...]  # ("paged" | "contiguous", batch, context), ("host" | "device", staged, size)
Seconds = Mapping[Key, Sequence[Sequence[float]]]  # samples by rounds


@dataclass(frozen=True, kw_only=True)
class Setup(Subject):
    """What to measure, with the block size of paged attention; `samples` in each of `rounds`."""

    block_size: int = 16
    samples: int = 7
    rounds: int = 3


def measure(
    setup: Setup, shapes: Shapes, *, tell: Callable[[float], None] = lambda _: None
) -> dict[str, Any]:
    """Measure what has shapes given; returns plain values with their provenance.

    `tell` hears the share that is done, 0 to 1. Raises UserError where memory does not suffice.
    """
    started = datetime.now(UTC)
    with out_of_memory("use smaller --batches, --contexts or --tokens, or a smaller --model"):
        copy = measure_copy_bandwidth(setup.device)
        seconds = time_cases(
            {**_attention_cases(setup, shapes), **_recovery_cases(setup, shapes)},
            setup.device, samples=setup.samples, rounds=setup.rounds, tell=tell,
        )  # fmt: skip
    pairs = list(product(shapes.batches, shapes.contexts))
    attention = [
        _attention_row(setup, (kind, *pair), seconds, copy)
        for kind in ("contiguous", "paged")
        for pair in sorted(pairs)
    ]
    ratios = [
        ratio_row(pair, seconds["paged", *pair], seconds["contiguous", *pair]) for pair in pairs
    ]
    recovery = [
        _recovery_row(setup, shapes.num_tokens, staged, size, seconds, copy)
        for staged in _gathering(setup)
        for size in sorted(shapes.block_sizes)
    ]
    return {
        "format": FORMAT,
        "backend": setup.device,
        "device": device_name(torch.device(setup.device)),
        "setup": asdict(setup),
        "num_tokens": shapes.num_tokens,
        "copy_bandwidth": copy,
        "attention": [asdict(row) for row in attention],
        "ratios": [asdict(row) for row in ratios],
        "recovery": [asdict(row) for row in recovery],
        "provenance": {
            **environment(gpu=setup.device == "cuda"),
            "started": started.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }


def _attention_cases(setup: Setup, shapes: Shapes) -> dict[Key, Case]:
    found: dict[Key, Case] = {}
    for batch, context in product(shapes.batches, shapes.contexts):
        found["paged", batch, context] = partial(
            cases.paged_attention, setup, batch, context, setup.block_size
        )
        found["contiguous", batch, context] = partial(
            cases.contiguous_attention, setup, batch, context
        )
    return found


def _attention_row(setup: Setup, key: Key, seconds: Seconds, copy_bandwidth: float) -> AttentionRow:
    kind, batch, context = key
    samples = sorted(chain.from_iterable(seconds[key]))
    latency_s = statistics.median(samples)
    moved = cases.attention_bytes(setup, batch, context)
    return AttentionRow(
        kind, batch, context, setup.block_size, latency_s, samples[len(samples) // 4],
        samples[(3 * len(samples)) // 4], moved, moved / latency_s / copy_bandwidth,
    )  # fmt: skip


def ratio_row(
    shape: tuple[int, int],
    paged: Sequence[Sequence[float]],
    contiguous: Sequence[Sequence[float]],
) -> RatioRow:
    """Compare the kernels on one shape (batch, context), given the samples of every round."""
    pairs = zip(paged, contiguous, strict=True)
    by_round = [statistics.median(a) / statistics.median(b) for a, b in pairs]
    quickest = min(map(min, paged)) / min(map(min, contiguous))
    return RatioRow(*shape, quickest, min(by_round), max(by_round))


def _gathering(setup: Setup) -> tuple[bool, ...]:
    """Whether blocks are gathered; on a CPU nothing crosses a bus, so that is not measured."""
    return (False, True) if setup.device == "cuda" else (False,)


def _recovery_cases(setup: Setup, shapes: Shapes) -> dict[Key, Case]:
    tokens = shapes.num_tokens
    found: dict[Key, Case] = {
        (into, staged, size): partial(cases.swap, setup, tokens, size, into=into, staged=staged)
        for staged in _gathering(setup)
        for size in shapes.block_sizes
        for into in ("host", "device")
    }
    if found:
        found["recompute",] = partial(cases.forward_pass, setup, tokens)
    return found


def _recovery_row(
    setup: Setup, num_tokens: int, staged: bool, block_size: int, seconds: Seconds, copy: float
) -> RecoveryRow:
    def medians(*key: Any) -> list[float]:
        return [statistics.median(samples) for samples in seconds[key]]

    out_s, in_s = (medians(into, staged, block_size) for into in ("host", "device"))
    both_s = [a + b for a, b in zip(out_s, in_s, strict=True)]
    moved = cases.swapped_bytes(setup, num_tokens, block_size)
    return RecoveryRow(
        block_size=block_size,
        staged=staged,
        swap_out_s=statistics.median(out_s),
        swap_in_s=statistics.median(in_s),
        recompute_s=statistics.median(medians("recompute")),
        spread_s=max(both_s) - min(both_s),
        swapped_bytes=moved,
        share_of_copy=2 * moved / statistics.median(both_s) / copy,
    )
