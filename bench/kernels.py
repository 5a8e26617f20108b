"""Figure 18a's and 19a's microbenchmarks: measured, kept with provenance, read back for figures."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.devices import out_of_memory
from bench.files import json_bytes, write_file
from bench.provenance import environment
from engines.core.config import ModelSpec
from engines.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
FILE = "kernels.json"
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


@dataclass(frozen=True)
class AttentionRow:
    """Decode attention of one kind and shape (Figure 18a): quartiles of all samples in seconds."""

    kind: str
    batch_size: int
    context_len: int
    block_size: int
    latency_s: float
    p25_s: float
    p75_s: float
    bytes_moved: int
    share_of_copy: float


@dataclass(frozen=True)
class RatioRow:
    """Latency of the paged over the contiguous kernel: median, least and largest round."""

    batch_size: int
    context_len: int
    paged_over_contiguous: float
    least: float
    largest: float


@dataclass(frozen=True)
class RecoveryRow:
    """Bringing back one preempted sequence (Figure 19a): medians over rounds, and the spread.

    `staged`: blocks are gathered into large transfers; otherwise each block of each layer's keys
    or values moves by itself, as in the original. `spread_s` is the range over rounds of swapping
    out and in together. `swapped_bytes` move one way, over the bus to the host.
    """

    block_size: int
    staged: bool
    swap_out_s: float
    swap_in_s: float
    recompute_s: float
    spread_s: float
    swapped_bytes: int
    share_of_copy: float


def measure_attention(
    setup: Setup, batches: Sequence[int], contexts: Sequence[int], *, copy_bandwidth: float
) -> tuple[list[AttentionRow], list[RatioRow]]:
    """Time both kernels over all shapes; raises UserError where memory does not suffice."""
    shapes = [(batch, context) for batch in batches for context in contexts]
    rounds: dict[tuple[str, int, int], list[tuple[float, ...]]] = {}
    with out_of_memory("use smaller --batches or --contexts, or a smaller --model"):
        for number in range(setup.rounds):
            for batch, context in shapes:
                for kind in KINDS if number % 2 == 0 else KINDS[::-1]:
                    samples = _attention_samples(setup, kind, batch, context)
                    rounds.setdefault((kind, batch, context), []).append(samples)
    rows = [_attention_row(setup, *key, rounds[key], copy_bandwidth) for key in sorted(rounds)]
    return rows, [
        _ratio_row(shape, rounds["paged", *shape], rounds["contiguous", *shape]) for shape in shapes
    ]


def _work(setup: Setup, batch: int, context: int) -> Any:
    import torch

    from engines.kernels.timing import AttentionWork

    spec = setup.spec
    dtype = getattr(torch, setup.dtype)
    return AttentionWork(
        batch, context, spec.num_heads, spec.head_size, dtype, setup.device, setup.block_size,
        spec.kv_heads,
    )  # fmt: skip


def _attention_samples(setup: Setup, kind: str, batch: int, context: int) -> tuple[float, ...]:
    from engines.kernels.timing import time_attention

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
    ratios = [statistics.median(a) / statistics.median(b) for a, b in pairs]
    return RatioRow(*shape, statistics.median(ratios), min(ratios), max(ratios))


def measure_recovery(
    setup: Setup, block_sizes: Sequence[int], *, num_tokens: int, copy_bandwidth: float
) -> list[RecoveryRow]:
    """Time swapping and recomputing one sequence; raises UserError where memory does not suffice.

    On a CPU nothing crosses a bus, so that gathering is not measured apart.
    """
    import torch

    from engines.kernels.recovery import RecoveryTiming, time_swap_vs_recompute

    found: dict[tuple[bool, int], list[RecoveryTiming]] = {}
    with out_of_memory("use a smaller --model or fewer --tokens"):
        for _ in range(setup.rounds):
            for staged in (False, True) if setup.device == "cuda" else (False,):
                timings = time_swap_vs_recompute(
                    setup.spec,
                    block_sizes,
                    dtype=getattr(torch, setup.dtype),
                    device=setup.device,
                    num_tokens=num_tokens,
                    staged=staged,
                )
                for timing in timings:
                    found.setdefault((staged, timing.block_size), []).append(timing)
    rows = []
    for (staged, block_size), timings in sorted(found.items()):
        out_s, in_s, recompute_s, both_s = (
            [t.swap_out_s for t in timings],
            [t.swap_in_s for t in timings],
            [t.recompute_s for t in timings],
            [t.swap_out_s + t.swap_in_s for t in timings],
        )
        moved = timings[0].swapped_bytes
        share = 2 * moved / statistics.median(both_s) / copy_bandwidth
        rows.append(
            RecoveryRow(
                block_size, staged, statistics.median(out_s), statistics.median(in_s),
                statistics.median(recompute_s), max(both_s) - min(both_s), moved, share,
            )
        )  # fmt: skip
    return rows


def measure(
    setup: Setup,
    *,
    batches: Sequence[int] = (),
    contexts: Sequence[int] = (),
    block_sizes: Sequence[int] = (),
    num_tokens: int = 256,
) -> dict[str, Any]:
    """Measure what has shapes given; returns plain values with their provenance."""
    from engines.kernels.timing import device_name, measure_copy_bandwidth

    started = datetime.now(UTC)
    with out_of_memory("free about a gigabyte"):
        copy_bandwidth = measure_copy_bandwidth(setup.device)
    attention, ratios = measure_attention(setup, batches, contexts, copy_bandwidth=copy_bandwidth)
    recovery = (
        measure_recovery(setup, block_sizes, num_tokens=num_tokens, copy_bandwidth=copy_bandwidth)
        if block_sizes
        else []
    )
    return {
        "format": FORMAT,
        "backend": setup.device,
        "device": device_name(setup.device),
        "setup": asdict(setup),
        "num_tokens": num_tokens,
        "copy_bandwidth": copy_bandwidth,
        "attention": [asdict(row) for row in attention],
        "ratios": [asdict(row) for row in ratios],
        "recovery": [asdict(row) for row in recovery],
        "provenance": {
            **environment(gpu=setup.device == "cuda"),
            "started": started.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }


def write_measurement(directory: Path, found: dict[str, Any]) -> Path:
    """Write a measurement whole; returns its file. Raises UserError if that is refused."""
    path = directory / FILE
    write_file(path, json_bytes(found))
    return path


def read_measurement(directory: Path) -> dict[str, Any]:
    """Read a measurement; raises UserError if there is none or it is not one."""
    path = directory / FILE
    try:
        found = json.loads(path.read_bytes())
    except OSError:
        raise UserError(f"{path} cannot be read: run bench kernels --out {directory}") from None
    except ValueError:
        raise UserError(f"{path} is not valid JSON: run bench kernels again") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{path} is no measurement of this version: run bench kernels again")
    return found


def attention_frame(found: dict[str, Any]) -> pd.DataFrame:
    """One row per kind and shape: the fields of `AttentionRow` (Figure 18a)."""
    import pandas as pd

    return pd.DataFrame(found["attention"], columns=list(AttentionRow.__dataclass_fields__))


def recovery_frame(found: dict[str, Any], *, staged: bool = False) -> pd.DataFrame:
    """One row per block size: the fields of `RecoveryRow` (Figure 19a; `staged` is ours)."""
    import pandas as pd

    frame = pd.DataFrame(found["recovery"], columns=list(RecoveryRow.__dataclass_fields__))
    return frame[frame["staged"] == staged].reset_index(drop=True)
