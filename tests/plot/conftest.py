"""A store of made-up results for drawing."""

from collections.abc import Callable, Iterable

import pandas as pd
import pytest
from made_up_kernels import MEASURED

from bench.point.spec import PointSpec
from bench.results.store import Check, State

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
