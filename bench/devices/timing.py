"""Times functions on a device, each sample with cold caches, and the device's copy bandwidth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

FLUSH_BYTES = 512 << 20  # more than any last-level cache to be expected
COPY_BYTES = 1 << 30  # moved by one copy: half read, half written
CACHES_FLUSHED, CACHES_COPIED = 4, 16  # on a CPU that tells its caches: these times all of them

Run = Callable[[], object]  # what is timed
Case = Callable[[], Run]  # makes the tensors of a run, untimed
Key = TypeVar("Key", bound=Hashable)


def time_cases(
    cases: Mapping[Key, Case],
    device: str,
    *,
    samples: int,
    rounds: int,
    tell: Callable[[float], None] = lambda _: None,
) -> dict[Key, list[list[float]]]:
    """Seconds of each case: a list of samples for each round.

    Rounds go over all cases, every second one backward, so that whatever slows the machine for a
    while slows all of them. One case's tensors exist at a time. `tell` hears the share done.
    """
    found: dict[Key, list[list[float]]] = {key: [] for key in cases}
    order = list(cases)
    with torch.inference_mode():
        for number in range(rounds):
            for i, key in enumerate(order):
                found[key].append(sample_seconds(cases[key](), device, samples=samples))
                tell((number + (i + 1) / len(order)) / rounds)
            order.reverse()
    return found


def sample_seconds(run: Run, device: str, *, samples: int) -> list[float]:
    """Time `run` with caches flushed before each sample, after two runs that do not count.

    Seconds are of the device (CUDA events), or wall-clock on a CPU.
    """
    size = _scaled_bytes(FLUSH_BYTES, CACHES_FLUSHED, device)
    flush = torch.empty(size // 4, dtype=torch.float32, device=device)
    seconds = []
    for i in range(samples + 2):
        flush.fill_(float(i))
        if device == "cuda":
            # What was written is still in the L2 cache and would be written back while `run` is
            # timed; reading as much drives it out and leaves nothing to be written.
            flush.sum()
        seconds.append(_seconds_on_gpu(run) if device == "cuda" else _seconds_on_cpu(run))
    return seconds[2:]


def _seconds_on_cpu(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _seconds_on_gpu(run: Run) -> float:
    event: Callable[..., torch.cuda.Event] = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    # The flush is still running while these are queued, so launch times do not count.
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def measure_copy_bandwidth(device: str) -> float:
    """Return the bandwidth of a large copy on the device, in bytes read plus written per second."""
    size = _scaled_bytes(COPY_BYTES, CACHES_COPIED, device)
    source = torch.ones(size // 8, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return size / statistics.median(sample_seconds(lambda: target.copy_(source), device, samples=7))


def _scaled_bytes(most: int, caches: int, device: str) -> int:
    """Enough for a CPU's caches, where they are known; a GPU moves the most in no time."""
    known = cache_bytes() if device == "cpu" else None
    return most if known is None else min(most, caches * known)


def cache_bytes(root: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """Size of all last-level caches of this machine's CPU; None where the system does not tell."""
    found: dict[tuple[int, str], int] = {}
    for index in root.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level, cores, size = (
                (index / name).read_text().strip() for name in ("level", "shared_cpu_list", "size")
            )
            found[int(level), cores] = int(size.removesuffix("K")) << 10
        except (OSError, ValueError):
            return None
    last = max((level for level, _ in found), default=None)
    return None if last is None else sum(n for (level, _), n in found.items() if level == last)
