"""Devices for tests: a profile on which little takes time, a model of next to no size."""

from __future__ import annotations

from pathlib import Path

from engines.core.models import ModelSpec

TINY = ModelSpec("tiny", "opt", 2, 2, 128, 160, 97, max_positions=96)

_FREE = {
    "memory_bytes": 1e12,
    "weight_bandwidth": "inf",
    "kv_bandwidth": "inf",
    "flops": "inf",
    "attention_flops": "inf",
    "copy_bandwidth": "inf",
    "pcie_bandwidth": "inf",
    "pcie_latency_s": 0,
    "link_bandwidth": "inf",
    "link_latency_s": 0,
}


def write_profile(path: Path, *, step_overhead_s: float, **terms: float) -> Path:
    """Write the profile of a device that takes `step_overhead_s` a step, and what `terms` say."""
    values = {**_FREE, "step_overhead_s": step_overhead_s, **terms}
    lines = [f'name = "{path.stem}"', *(f"{name} = {value}" for name, value in values.items())]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
