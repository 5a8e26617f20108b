"""Which points are served for real, and how long their traces are.

On a CPU lengths, context and cache are a quarter of the paper's, so that a trace of half a minute
holds a hundred requests; the cache then limits the systems' batches as it does in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.point.spec import Backend, PointSpec
from engines.core.config import System
from engines.core.errors import UserError

LIGHT, MEDIUM, HEAVY, OVER = 0.3, 0.6, 0.9, 1.15  # of the rate that is predicted to be sustained
SHRINK = 4  # on a CPU
CPU_SLOTS = 15_700 // SHRINK  # OPT-13B's on an A100 with 40 GB
FEW_SLOTS = 4  # times fewer: a cache that has to preempt
FT_TIMES = 3  # longer traces: it sustains a fraction of the others' rate
SHORTEST_S = 5.0
_DRAIN = 1.25  # serving a trace takes longer than its arrivals
_SWAP_GIB = 1.0


@dataclass(frozen=True)
class Case:
    """One system serving one workload at some shares of its sustained rate."""

    name: str
    spec: PointSpec
    loads: Sequence[float]

    @property
    def times(self) -> int:
        """How many times longer its traces are than others."""
        return FT_TIMES if self.spec.system is System.FT else 1

    def at(self, rate: float) -> PointSpec:
        """The point at a rate (req/s), rounded to three digits."""
        return replace(self.spec, rate=float(f"{rate:.3g}"))


@dataclass(frozen=True)
class Target:
    """What is validated: a model on a device, for about `budget_s` seconds of serving."""

    model: str
    backend: Backend
    dtype: str
    budget_s: float
    short: bool = False
    gpu_memory: str | None = None

    def cases(self) -> list[Case]:
        """Every system on ShareGPT's lengths; Astra on all else. Short: two systems, two loads."""
        if self.short:
            two = (System.ASTRA, System.ORCA_ORACLE)
            found = [self._case("sharegpt", system, (MEDIUM, HEAVY)) for system in two]
        else:
            systems = (System.ASTRA, System.ORCA_ORACLE, System.ORCA_MAX, System.FT)
            found = [self._case("sharegpt", s, (LIGHT, MEDIUM, HEAVY, OVER)) for s in systems]
            found += self._others()
        served = sum(case.times * len(case.loads) for case in found) + len(self.repeated)
        seconds = self.budget_s / served / _DRAIN
        if seconds < SHORTEST_S:
            least = math.ceil(SHORTEST_S / seconds * self.budget_s / 60)
            shorter = "" if self.short else ", or give --short"
            raise UserError(
                f"{self.budget_s / 60:g} minutes leave {seconds:.1f} s for each trace: raise "
                f"--budget to {least} or more{shorter}"
            )
        return [replace(case, spec=_lasting(case.spec, case.times * seconds)) for case in found]

    @property
    def repeated(self) -> tuple[float, ...]:
        """Loads at which the first case is served twice, to know the machine's noise."""
        return (MEDIUM,) if self.short else (MEDIUM, HEAVY)

    def _others(self) -> list[Case]:
        few = {"kv_slots": CPU_SLOTS // FEW_SLOTS} if self.backend is Backend.CPU else {}
        both = (MEDIUM, HEAVY)
        return [
            self._case("alpaca", System.ASTRA, both, workload="alpaca"),
            self._case("four outputs", System.ASTRA, both, sampling="n4"),
            self._case("beam 4", System.ASTRA, both, sampling="beam4"),
            self._case(
                "shared prefix", System.ASTRA, both, workload="translation-5shot", share_prefix=True
            ),
            self._case("small cache, recompute", System.ASTRA, (HEAVY,), **few),
            self._case("small cache, swap", System.ASTRA, (HEAVY,), preemption="swap", **few),
        ]

    def _case(self, name: str, system: System, loads: Sequence[float], **changes: Any) -> Case:
        settings: dict[str, Any] = {
            "model": self.model,
            "backend": self.backend,
            "dtype": self.dtype,
            "gpu_memory": self.gpu_memory,
            "swap_space_gib": _SWAP_GIB,
        }
        if self.backend is Backend.CPU:
            settings |= {"shrink": SHRINK, "kv_slots": CPU_SLOTS}
        return Case(name, PointSpec(system=system, **{**settings, **changes}), loads)


def _lasting(spec: PointSpec, seconds: float) -> PointSpec:
    duration = float(f"{seconds:.2g}")
    return replace(spec, duration=duration, warmup=duration / 10)
