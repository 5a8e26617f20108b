"""Times every way to compute the attention of a step's prompts; `gpu_check` calls it on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch

from bench.devices.timing import sample_seconds
from engines.execution import varlen
from engines.execution.varlen import Attend, Lengths

PROMPTS = (29, 57, 113, 161, 226, 330, 513, 619)  # 2048 tokens, lengths as ShareGPT's vary
CALLS = 20  # queued one after another to time the host


def time_prompt_attention(
    device: str,
    dtype: torch.dtype,
    *,
    num_heads: int = 40,
    head_size: int = 128,
    prompts: Sequence[int] = PROMPTS,
) -> list[dict[str, Any]]:
    """Time one layer's attention over whole prompts, then with half of each cached, each way.

    A record each: "implementation", "cached", "device_us" and "host_us" (to queue a call, Python's
    time included), or "error", the first line of why it does not run here.
    """
    records: list[dict[str, Any]] = []
    ways = {**varlen.IMPLEMENTATIONS, "per sequence": varlen.per_sequence}
    for cached in (False, True):
        queries = [n - n // 2 for n in prompts] if cached else list(prompts)
        q, k, v = (
            torch.randn(sum(counts), num_heads, head_size, device=device).to(dtype)
            for counts in (queries, prompts, prompts)
        )
        starts = (
            torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=device)
            for counts in (queries, prompts)
        )
        lengths = Lengths(queries, list(prompts), *starts)
        for name, way in ways.items():
            record: dict[str, Any] = {"implementation": name, "cached": cached}
            try:
                attend = way(lengths)
                record |= _times(attend, (q, k, v), device)
            except Exception as error:  # it is told, and the others are timed
                record["error"] = str(error).partition("\n")[0]
            records.append(record)
    return records


def _times(attend: Attend, heads: Sequence[torch.Tensor], device: str) -> dict[str, float]:
    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    with torch.inference_mode():
        device_s = min(sample_seconds(lambda: attend(*heads), device, samples=5))
        wait()
        started = time.perf_counter()
        for _ in range(CALLS):
            attend(*heads)
        host_s = (time.perf_counter() - started) / CALLS
        wait()
    return {"device_us": 1e6 * device_s, "host_us": 1e6 * host_s}
