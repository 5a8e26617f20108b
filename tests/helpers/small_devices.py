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


def write_measured_profile(path: Path) -> Path:
    """Write a profile with steps of TINY: 1 ms, and 0.2 ms for each sequence and prompt token."""
    from engines.sim.steps import FAMILIES, StepRow, to_csv

    rows = [
        row
        for system in FAMILIES
        for row in (
            *(
                StepRow(
                    kind="decode", system=system, sequences=n, context=c, seconds=1e-3 + n / 5e3
                )
                for n in (1, 16)
                for c in (16, 256)
            ),
            *(
                StepRow(kind="prompt", system=system, prompts=1, tokens=t, seconds=1e-3 + t / 5e3)
                for t in (1, 32)
            ),
        )
    ]
    steps = f"model = \"tiny\"\nblock_size = 16\ncsv = '''\n{to_csv(rows)}'''\n"
    write_profile(path, step_overhead_s=1e-3, element_bytes=4)
    path.write_text(f"{path.read_text()}[steps]\n{steps}")
    return path


def write_profile(path: Path, *, step_overhead_s: float, **terms: float) -> Path:
    """Write the profile of a device that takes `step_overhead_s` a step, and what `terms` say."""
    values = {**_FREE, "step_overhead_s": step_overhead_s, **terms}
    lines = [f'name = "{path.stem}"', *(f"{name} = {value}" for name, value in values.items())]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
