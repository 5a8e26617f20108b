"""A store of made-up results for drawing."""

from collections.abc import Callable, Iterable

import pandas as pd
import pytest

from bench.point.spec import PointSpec
from bench.results.store import Check, State

# What `bench kernels` leaves: on an imaginary device the paged kernel takes a tenth longer.
MEASURED = {
    "format": 1,
    "backend": "cpu",
    "device": "CPU, made up",
    "setup": {
        "spec": {"name": "opt-125m", "num_heads": 12, "num_layers": 12},
        "dtype": "float32",
        "rounds": 3,
        "samples": 7,
        "block_size": 16,
    },
    "num_tokens": 256,
    "copy_bandwidth": 1e10,
    "attention": [
        {
            "kind": kind,
            "batch_size": batch,
            "context_len": context,
            "block_size": 16,
            "latency_s": factor * batch * context * 1e-8,
            "p25_s": 0.9 * factor * batch * context * 1e-8,
            "p75_s": 1.2 * factor * batch * context * 1e-8,
            "bytes_moved": 1000,
            "share_of_copy": 0.5,
        }
        for kind, factor in (("paged", 1.1), ("contiguous", 1.0))
        for batch in (8, 32)
        for context in (64, 128, 256)
    ],
    "ratios": [
        {
            "batch_size": batch,
            "context_len": context,
            "paged_over_contiguous": 1.1,
            "least": 1.05,
            "largest": 1.15,
        }
        for batch in (8, 32)
        for context in (64, 128, 256)
    ],
    "recovery": [
        {
            "block_size": size,
            "staged": False,
            "swap_out_s": 0.02 / size,
            "swap_in_s": 0.03 / size,
            "recompute_s": 0.01,
            "spread_s": 0.001,
            "swapped_bytes": 1000,
            "share_of_copy": 0.1,
        }
        for size in (1, 16, 256)
    ],
}
KV = {"token": 40.0, "reservation": 25.0, "internal": 5.0, "external": 30.0}


class MadeUpStore:
    """Holds every point but those for which `lost` gives a state."""

    def __init__(self, lost: Callable[[PointSpec], State | None] = lambda spec: None) -> None:
        self.lost = lost

    def load(self, specs: Iterable[PointSpec]) -> pd.DataFrame:
        rows = [self._row(spec) for spec in specs if self.lost(spec) in (None, State.STALE)]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["digest", "stale"])

    def kernels(self, part: str, *, backend: str) -> dict | None:
        del part, backend
        return MEASURED

    def check(self, spec: PointSpec) -> Check:
        return Check(self.lost(spec) or State.COMPLETE, "made up")

    def _row(self, spec: PointSpec) -> dict:
        return {
            **spec.to_dict(),
            "digest": spec.digest,
            "stale": self.lost(spec) is State.STALE,
            "device": "1x made-up",
            "mean_normalized_latency_s": 0.05 + 0.02 * spec.rate,
            "mean_running_requests": 7.5,
            "kv_used_pct": 70.0,
            "sharing_saving_pct": 12.5,
            "throughput_tok_s": 300.0,
            **{f"kv_pct_{category}": value for category, value in KV.items()},
        }


@pytest.fixture
def made_up() -> type[MadeUpStore]:
    return MadeUpStore
