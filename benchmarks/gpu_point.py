"""One point of Figure 12, measured and simulated: `python -m benchmarks.gpu_point`.

Measures the device's profile, serves the same trace with Astra and Orca (Oracle), then simulates
both with that profile and tells how far off the simulation is. On a GPU: OPT-13B with dummy weights
in FP16 on ShareGPT, 120 s of arrivals, as if the GPU had 40 GiB. On a CPU: OPT-125M in FP32, 60 s
of arrivals, all lengths and the cache a quarter. Requests arrive as often per decode step as
1 req/s on the paper's server. Takes about six minutes, needs torch and numpy and no network, and
writes `fig12-point.json` (after each system) and `profile.toml`, small enough to be committed. Exit
status: 0, or 2 without the device.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.files import json_bytes, write_file
from bench.point.spec import PointSpec
from engines.core.config import find_model
from engines.core.errors import UserError

FILE, PROFILE = "fig12-point.json", "profile.toml"
SYSTEMS = ("astra", "orca-oracle")
PAPER_RATE = 1.0  # req/s on the paper's server: Orca (Oracle) is close to saturation there
TYPICAL_BATCH, TYPICAL_CONTEXT = 30, 330  # sequences and tokens of each that make steps comparable
PAPER_SLOTS = 15_700  # of OPT-13B on the paper's server (Table 1)
COMPARED = (
    "mean_normalized_latency_s",
    "p90_normalized_latency_s",
    "mean_ttft_s",
    "mean_tpot_s",
    "throughput_tok_s",
    "mean_running_requests",
)


@dataclass(frozen=True)
class Plan:
    """What is served: a model on a device, arrivals for `duration_s`, settings of the point."""

    device: str
    model: str
    dtype: str
    duration_s: float
    settings: dict[str, Any]

    @classmethod
    def of(cls, device: str, *, quick: bool) -> Plan:
        """The point's usual settings on a device, or in small."""
        if quick:
            small = {"kv_slots": 1000, "shrink": 16}
            return cls(device, "opt-125m", "float32", 4.0, small)
        if device == "cuda":
            return cls(device, "opt-13b", "float16", 120.0, {"gpu_memory": "40GiB"})
        shrink = 4
        settings = {"kv_slots": PAPER_SLOTS // shrink, "shrink": shrink}
        return cls(device, "opt-125m", "float32", 60.0, settings)

    def spec(self, system: str, rate: float) -> PointSpec:
        """The point of one system."""
        return PointSpec(
            system=system,
            model=self.model,
            dtype=self.dtype,
            backend=self.device,
            rate=rate,
            duration=self.duration_s,
            **self.settings,
        )


def measure_profile_file(plan: Plan, path: Path, *, quick: bool) -> None:
    """Measure the device with the model's shapes and write its profile, compiled kernels first.

    Raises UserError where these cannot be had: what the reference takes is of no interest.
    """
    from bench.devices.profile import measure_profile, profile_text, usual_effort
    from benchmarks.gpu_sections import Run, build_library

    build_library(Run(plan.device, quick, deadline=math.inf))
    measured = measure_profile(
        f"measured-{plan.device}",
        spec=find_model(plan.model),
        device=plan.device,
        dtype=plan.dtype,
        effort=usual_effort(plan.device, quick=quick),
        tell=lambda line: print(line, flush=True),
    )
    write_file(path, profile_text(measured).encode())


def comparable_rate(plan: Plan, profile: Path) -> float:
    """PAPER_RATE times the paper's decode step over this device's, to two digits."""
    from engines.sim.cost import StepCost
    from engines.sim.profile import load_profile

    def step_s(model: str, name: str, shrink: int) -> float:
        device = load_profile(name)
        cost = StepCost(
            replace(find_model(model), dtype_bytes=int(device.element_bytes)),
            device,
            tensor_parallel=1,
            block_size=16,
            python_host=True,
        )
        context_tokens = TYPICAL_BATCH * TYPICAL_CONTEXT // shrink
        return cost.decode_seconds(
            TYPICAL_BATCH, context_tokens, groups=TYPICAL_BATCH, beam_groups=0
        )

    shrink = plan.settings.get("shrink", 1)
    speed = step_s("opt-13b", "a100-40gb", 1) / step_s(plan.model, str(profile), shrink)
    return float(f"{PAPER_RATE * shrink * speed:.2g}")


def compare(spec: PointSpec, profile: Path) -> dict[str, Any]:
    """Serve a point, simulate it with as many slots, and set both side by side."""
    from bench.point.serve import run_point

    measured = run_point(spec).metrics
    simulated = replace(
        spec,
        backend="sim",
        device_profile=str(profile),
        tensor_parallel=1,
        gpu_memory=None,
        dtype=None,
        kv_slots=measured["kv_slots"],
    )
    predicted = run_point(simulated).metrics
    return {
        "system": spec.system,
        "spec": spec.to_dict(),
        "measured": measured,
        "predicted": predicted,
        "error_pct": {name: error_pct(predicted[name], measured[name]) for name in COMPARED},
    }


def error_pct(predicted: float | None, measured: float | None) -> float | None:
    """How far the prediction is from what was measured; None where either is not known."""
    if predicted is None or not measured:
        return None
    return 100 * (predicted / measured - 1)


def run(plan: Plan, out: Path, *, quick: bool) -> Iterator[dict[str, Any]]:
    """Measure and simulate; yields the record after each system, whole after the last."""
    from benchmarks.gpu_check import describe_machine
    from benchmarks.gpu_sections import release

    started = datetime.now(UTC)
    machine = describe_machine(plan.device)
    measure_profile_file(plan, out / PROFILE, quick=quick)
    rate = comparable_rate(plan, out / PROFILE)
    points = []
    for system in SYSTEMS:
        print(f"{system}: {plan.model} at {rate:g} req/s for {plan.duration_s:g} s", flush=True)
        release(plan.device)
        points.append(compare(plan.spec(system, rate), out / PROFILE))
        yield {
            "format": 1,
            "quick": quick,
            "paper_rate": PAPER_RATE,
            "rate": rate,
            "points": points,
            "provenance": {
                **machine,
                "started": started.isoformat(timespec="seconds"),
                "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        }


def print_record(record: dict[str, Any]) -> None:
    """Print what was measured beside what was predicted."""
    for point in record["points"]:
        print(f"{point['system']} at {record['rate']:g} req/s on {point['measured']['device']}")
        for name, error in point["error_pct"].items():
            told = "-" if error is None else f"{error:+.1f} %"
            values = (point[kind][name] for kind in ("measured", "predicted"))
            shown = ("-" if value is None else f"{value:.4g}" for value in values)
            print(f"  {name:28} measured {next(shown):>8}  predicted {next(shown):>8}  {told}")


def folder_of(name: str) -> str:
    """A folder's name from a device's: "NVIDIA H200" is "h200"."""
    if name.startswith("cpu:"):
        return "cpu-device"
    return re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia ")).strip("-")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description="One point of Figure 12, measured and simulated.")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, help="default: artifacts/reference/NAME of the device")
    parser.add_argument("--quick", action="store_true", help="a few seconds, as a test")
    options = parser.parse_args(arguments)
    try:
        import torch

        from engines.execution.device import device_name

        if options.device == "cuda" and not torch.cuda.is_available():
            raise UserError("no CUDA device here: run this on a machine with a GPU")
        name = device_name(torch.device(options.device))
        out = options.out or Path("artifacts") / "reference" / folder_of(name)
        plan = Plan.of(options.device, quick=options.quick)
        for record in run(plan, out, quick=options.quick):
            write_file(out / FILE, json_bytes(record))
    except ImportError as error:
        print(f"error: {error}: torch and numpy are needed", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_record(record)
    print(out / FILE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
