"""One point of an experiment: everything that determines its result, in one frozen record."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from engines.core.config import MOST_KV_SLOTS, Preemption, System, parse_size
from engines.core.errors import UserError, unknown_name
from engines.core.request import SamplingParams

BACKENDS = ("auto", "cuda", "cpu", "sim")
ROUTERS = ("round-robin", "least-loaded")
DEFAULT_ROUTER = "round-robin"
MAX_SEED = (1 << 32) - 1
# Beyond every machine, and within what this one can keep lists of.
_AT_MOST: Mapping[str, float] = {
    "seed": MAX_SEED,
    "tensor_parallel": 1024,
    "replicas": 10_000,
    "kv_slots": MOST_KV_SLOTS,
    "max_batched_tokens": MOST_KV_SLOTS,
    "swap_space_gib": 100_000,
}
# Settings that say nothing to the simulation, and what to give it instead.
_OF_MODELS = {"gpu_memory": "--kv-slots or --device-profile", "dtype": "--device-profile"}


@dataclass(frozen=True, kw_only=True)
class PointSpec:
    """The options of `bench run`, validated. `None` means: the default for model and device.

    Times are in seconds, `rate` in requests per second. `window` bounds the steps over which
    running requests and memory are averaged; `warmup` drops early arrivals from latency.
    `gpu_memory` ("40GiB") stands in for a smaller device when KV slots are derived from memory.
    `shrink` divides all lengths and the model's context, for runs in miniature.
    `timeout` ends serving early, with requests unfinished. `trace` replays a file; `lengths`
    replaces a workload's shipped length statistics by a file. `replicas` engines, each on devices
    of its own, share the arrivals out through `router` (simulation only).
    """

    system: str
    model: str = "opt-13b"
    workload: str = "sharegpt"
    trace: str | None = None
    lengths: str | None = None
    rate: float = 1.0
    duration: float = 600.0
    seed: int = 0
    sampling: str = "n1"
    block_size: int = 16
    backend: str = "sim"
    device_profile: str | None = None
    tensor_parallel: int | None = None
    kv_slots: int | None = None
    gpu_memory: str | None = None
    dtype: str | None = None
    shrink: int = 1
    swap_space_gib: float = 20.0
    max_batch_size: int | None = None
    max_batched_tokens: int = 2560
    max_num_seqs: int | None = None
    preemption: str = "auto"
    share_prefix: bool = False
    warmup: float | None = None
    timeout: float | None = None
    window: tuple[float, float] | None = None
    replicas: int = 1
    router: str | None = None

    def __post_init__(self) -> None:
        System.parse(self.system)
        SamplingParams.parse(self.sampling)
        if self.backend not in BACKENDS:
            raise UserError(f"unknown backend '{self.backend}': known: {', '.join(BACKENDS)}")
        if self.preemption not in [p.value for p in Preemption]:
            raise UserError(f"unknown preemption '{self.preemption}': known: auto, recompute, swap")
        self._check_times()
        self._check_sizes()
        self._check_backend()
        self._check_replicas()

    def _check_times(self) -> None:
        for name in ("rate", "duration"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} must be a positive number, got {value:g}")
        if self.warmup is not None and not self.warmup >= 0:
            raise UserError(f"warmup must not be negative, got {self.warmup:g}")
        if self.timeout is not None and not self.timeout > 0:
            raise UserError(f"timeout must be positive, got {self.timeout:g}")
        if self.window is not None and not 0 <= self.window[0] < self.window[1]:
            raise UserError(f"window must be START:END with 0 <= START < END, got {self.window}")

    def _check_sizes(self) -> None:
        if not (math.isfinite(self.swap_space_gib) and self.swap_space_gib >= 0):
            raise UserError(f"swap space must not be negative, got {self.swap_space_gib:g}")
        if self.gpu_memory is not None:
            parse_size(self.gpu_memory)
        if self.tensor_parallel is not None and self.tensor_parallel < 1:
            raise UserError(
                f"tensor-parallel degree must be at least 1, got {self.tensor_parallel}"
            )
        if self.shrink < 1:
            raise UserError(f"shrink must be at least 1, got {self.shrink}")
        for name, most in _AT_MOST.items():
            if (value := getattr(self, name)) is not None and value > most:
                raise UserError(f"{name} must be at most {most:,}, got {value:,}")

    def _check_backend(self) -> None:
        for name, instead in _OF_MODELS.items():
            if self.backend == "sim" and (value := getattr(self, name)) is not None:
                flag = "--" + name.replace("_", "-")
                raise UserError(
                    f"{flag} {value} counts only where a model runs (--backend cpu or cuda): give "
                    f"{instead} to the simulation"
                )

    def _check_replicas(self) -> None:
        if self.replicas < 1:
            raise UserError(f"replicas must be at least 1, got {self.replicas}")
        if self.router is not None and self.router not in ROUTERS:
            raise unknown_name("router", self.router, ROUTERS)
        if self.replicas == 1 and self.router is not None:
            raise UserError(
                f"router '{self.router}' has nothing to choose from: give --replicas 2 or more"
            )
        if self.replicas > 1 and self.backend != "sim":
            raise UserError(
                f"replicas are simulated only, got --replicas {self.replicas} with backend "
                f"'{self.backend}': use --backend sim"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; read back by `from_dict`.

        A single engine has no entries for replicas, so that its identity does not depend on them.
        """
        values = asdict(self)
        if self.replicas == 1:
            del values["replicas"], values["router"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PointSpec:
        """Rebuild a spec; raises UserError for keys of another version."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise UserError(f"point has unknown settings: {', '.join(sorted(unknown))}")
        window = values.get("window")
        return cls(**{**values, "window": tuple(window) if window is not None else None})

    @property
    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of the spec: the point's identity."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def slug(self) -> str:
        """A readable name, unique together with `digest`."""
        source = "trace" if self.trace else self.workload
        several = f"_x{self.replicas}" if self.replicas > 1 else ""
        return f"{self.system}_{self.model}_{source}_{self.sampling}_r{self.rate:g}{several}"
