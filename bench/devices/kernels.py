"""Figure 18a's and 19a's microbenchmarks on the present device."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bench.devices.device import out_of_memory
from bench.results.measurements import FORMAT, AttentionRow, RatioRow, RecoveryRow
from bench.results.provenance import environment
from engines.core.config import ModelSpec

if TYPE_CHECKING:
    from bench.devices.recovery import SwapTiming

KINDS = ("paged", "contiguous")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What to measure: heads and layers of `spec`, in a type, on a device.

    `samples` are taken in each of `rounds`; rounds go over all shapes, so that whatever slows the
    machine for a while slows all of them.
    """

    spec: ModelSpec
    device: str
    dtype: str
    block_size: int = 16
    samples: int = 7
    rounds: int = 3


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What to measure it for: attention over all batches and contexts, swapping by block size."""

    batches: Sequence[int] = ()
    contexts: Sequence[int] = ()
    block_sizes: Sequence[int] = ()
    num_tokens: int = 256  # of the sequence that is swapped


class Steps:
    """Counts the timings that are done, and tells the share of them."""

    def __init__(self, total: int, tell: Callable[[float], None]) -> None:
        self._total, self._tell, self._done = total, tell, 0

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        self._tell(self._done / self._total)


def _unheard(share: float) -> None:
    """For those who need no progress."""


def measure_attention(
    setup: Setup, wanted: Shapes, *, copy_bandwidth: float, steps: Steps | None = None
) -> tuple[list[AttentionRow], list[RatioRow]]:
    """Time both kernels over all shapes; raises UserError where memory does not suffice."""
    shapes = [(batch, context) for batch in wanted.batches for context in wanted.contexts]
    rounds: dict[tuple[str, int, int], list[tuple[float, ...]]] = {}
    with out_of_memory("use smaller --batches or --contexts, or a smaller --model"):
        for number in range(setup.rounds):
            for batch, context in shapes:
                for kind in KINDS if number % 2 == 0 else KINDS[::-1]:
                    samples = _attention_samples(setup, kind, batch, context)
                    rounds.setdefault((kind, batch, context), []).append(samples)
                    if steps is not None:
                        steps.advance()
    rows = [_attention_row(setup, *key, rounds[key], copy_bandwidth) for key in sorted(rounds)]
    return rows, [
        _ratio_row(shape, rounds["paged", *shape], rounds["contiguous", *shape]) for shape in shapes
    ]


def _work(setup: Setup, batch: int, context: int) -> Any:
    import torch

    from bench.devices.timing import AttentionWork

    spec = setup.spec
    dtype = getattr(torch, setup.dtype)
    return AttentionWork(
        batch, context, spec.num_heads, spec.head_size, dtype, setup.device, setup.block_size,
        spec.kv_heads,
    )  # fmt: skip


def _attention_samples(setup: Setup, kind: str, batch: int, context: int) -> tuple[float, ...]:
    from bench.devices.timing import time_attention

    work = _work(setup, batch, context)
    return time_attention(kind, work, copy_bandwidth=1.0, samples=setup.samples).seconds


def _attention_row(
    setup: Setup, kind: str, batch: int, context: int,
    rounds: Sequence[tuple[float, ...]], copy_bandwidth: float,
) -> AttentionRow:  # fmt: skip
    samples = sorted(sample for one in rounds for sample in one)
    latency_s = statistics.median(samples)
    moved = int(_work(setup, batch, context).bytes_moved)
    return AttentionRow(
        kind, batch, context, setup.block_size, latency_s, samples[len(samples) // 4],
        samples[(3 * len(samples)) // 4], moved, moved / latency_s / copy_bandwidth,
    )  # fmt: skip


def _ratio_row(
    shape: tuple[int, int],
    paged: Sequence[tuple[float, ...]],
    contiguous: Sequence[tuple[float, ...]],
) -> RatioRow:
    pairs = zip(paged, contiguous, strict=True)
    by_round = [statistics.median(a) / statistics.median(b) for a, b in pairs]
    quickest = min(map(min, paged)) / min(map(min, contiguous))
    return RatioRow(*shape, quickest, min(by_round), max(by_round))


def measure_recovery(
    setup: Setup, wanted: Shapes, *, copy_bandwidth: float, steps: Steps | None = None
) -> list[RecoveryRow]:
    """Time swapping and recomputing one sequence; raises UserError where memory does not suffice.

    On a CPU nothing crosses a bus, so that gathering is not measured apart.
    """
    recomputed: list[float] = []
    found: dict[tuple[bool, int], list[SwapTiming]] = {}
    with out_of_memory("use a smaller --model or fewer --tokens"):
        for _ in range(setup.rounds):
            recomputed.append(_recompute_seconds(setup, wanted.num_tokens))
            for staged in _gathering(setup):
                for size in wanted.block_sizes:
                    timing = _swap_timing(setup, size, wanted.num_tokens, staged=staged)
                    found.setdefault((staged, size), []).append(timing)
                    if steps is not None:
                        steps.advance()
    again_s = statistics.median(recomputed)
    return [
        _recovery_row(staged, timings, again_s, copy_bandwidth)
        for (staged, _), timings in sorted(found.items())
    ]


def _gathering(setup: Setup) -> tuple[bool, ...]:
    return (False, True) if setup.device == "cuda" else (False,)


def _recompute_seconds(setup: Setup, num_tokens: int) -> float:
    import torch

    from bench.devices.recovery import time_recompute

    dtype = getattr(torch, setup.dtype)
    return time_recompute(setup.spec, num_tokens, dtype=dtype, device=setup.device)


def _swap_timing(setup: Setup, block_size: int, num_tokens: int, *, staged: bool) -> SwapTiming:
    import torch

    from bench.devices.recovery import SwapWork, time_swap

    work = SwapWork(
        setup.spec, getattr(torch, setup.dtype), setup.device, block_size, num_tokens, staged
    )
    return time_swap(work)


def _recovery_row(
    staged: bool, timings: Sequence[SwapTiming], recompute_s: float, copy_bandwidth: float
) -> RecoveryRow:
    both_s = [t.swap_out_s + t.swap_in_s for t in timings]
    moved = timings[0].swapped_bytes
    return RecoveryRow(
        block_size=timings[0].block_size,
        staged=staged,
        swap_out_s=statistics.median(t.swap_out_s for t in timings),
        swap_in_s=statistics.median(t.swap_in_s for t in timings),
        recompute_s=recompute_s,
        spread_s=max(both_s) - min(both_s),
        swapped_bytes=moved,
        share_of_copy=2 * moved / statistics.median(both_s) / copy_bandwidth,
    )


def measure(
    setup: Setup, wanted: Shapes, *, tell: Callable[[float], None] = _unheard
) -> dict[str, Any]:
    """Measure what has shapes given; returns plain values with their provenance.

    `tell` hears the share that is done, 0 to 1. Raises UserError where memory does not suffice.
    """
    import torch

    from bench.devices.timing import measure_copy_bandwidth
    from engines.execution.device import device_name

    started = datetime.now(UTC)
    pairs = len(wanted.batches) * len(wanted.contexts)
    swaps = len(wanted.block_sizes) * len(_gathering(setup))
    steps = Steps(setup.rounds * (len(KINDS) * pairs + swaps), tell)
    with out_of_memory("free about a gigabyte"):
        copy = measure_copy_bandwidth(setup.device)
    attention, ratios = measure_attention(setup, wanted, copy_bandwidth=copy, steps=steps)
    recovery = (
        measure_recovery(setup, wanted, copy_bandwidth=copy, steps=steps)
        if wanted.block_sizes
        else []
    )
    return {
        "format": FORMAT,
        "backend": setup.device,
        "device": device_name(torch.device(setup.device)),
        "setup": asdict(setup),
        "num_tokens": wanted.num_tokens,
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
