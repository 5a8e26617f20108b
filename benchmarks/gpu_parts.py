"""The parts of the check of a GPU: each returns a record of plain values for `gpu_check`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.files import write_file
from engines.core.errors import UserError
from engines.core.models import find_model

if TYPE_CHECKING:
    from bench.devices.kernels import Setup
    from bench.point.spec import PointSpec

ROOT = Path(__file__).parents[1]
TESTS = ("tests/engines/kernels", "tests/engines/execution/test_tokens.py")
PROFILE = "profile.toml"
KERNEL_SHARE, PAGED_OVER_CONTIGUOUS, DECODE_STEP = 0.85, 1.05, 1.2  # what an H200 should reach
PAPER_RATE = 1.0  # req/s on the paper's server: Orca (Oracle) is close to saturation there
PAPER_SLOTS = 15_700  # of OPT-13B on the paper's server (Table 1)
TYPICAL_BATCH, TYPICAL_CONTEXT = 30, 330  # sequences and tokens of each that make steps comparable
COMPARED = (
    *("mean_normalized_latency_s", "p90_normalized_latency_s", "mean_ttft_s", "mean_tpot_s"),
    *("throughput_tok_s", "mean_running_requests"),
)


@dataclass(frozen=True)
class Run:
    """What every part is told: the device, how much to do, where files go, and when to stop."""

    device: str
    quick: bool
    out: Path
    deadline: float

    @property
    def left_s(self) -> float:
        """Seconds until it is over."""
        return self.deadline - time.monotonic()


@dataclass(frozen=True)
class Part:
    """A part of the check; `run` returns a record, whose "passed" is False where a check fails.

    It is told to stop after `budget_s`, and is not started with less than `needs_s` left.
    """

    name: str
    run: Callable[[Run], dict[str, Any]]
    budget_s: float = math.inf
    needs_s: float = 0.0
    usual: bool = True


def target(
    name: str, value: float | None, *, least: float = -math.inf, most: float = math.inf
) -> dict[str, Any]:
    """What a good device reaches: a number within limits. Missing it is told and is no failure."""
    limit = f">= {least:g}" if math.isinf(most) else f"<= {most:g}"
    met = None if value is None else least <= value <= most
    return {"name": name, "limit": limit, "value": value, "met": met}


def build_library(run: Run) -> dict[str, Any]:
    """Compile the kernels for this device unless its library is there already."""
    import torch

    from engines.kernels import build, library

    architectures: Sequence[str] = build.ARCHITECTURES
    if run.device == "cuda":
        architectures = ["sm_{}{}".format(*torch.cuda.get_device_capability())]
    path = build.build(run.device, architectures=architectures)
    if not library.load_kernels(run.device).compiled:
        raise UserError(f"{path.name} cannot be loaded: the warning above says why")
    return {"library": path.name}


class Outcomes:
    """A pytest plugin that counts outcomes, and skips what is left once the time is used up."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.num_passed = 0
        self.failed: dict[str, str] = {}
        self.skipped: dict[str, str] = {}

    def pytest_runtest_setup(self) -> None:
        """Skip the test about to start where no time is left."""
        import pytest

        if self.run.left_s <= 0:
            pytest.skip("the time was used up")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note what became of a test."""
        if report.failed:
            self.failed[report.nodeid] = str(report.longrepr)[-4000:]
        elif report.skipped:
            self.skipped[report.nodeid] = str(report.longrepr)
        elif report.when == "call":
            self.num_passed += 1


def run_tests(run: Run, *, paths: Sequence[str] = TESTS) -> dict[str, Any]:
    """Run `pytest -m gpu`; one that is skipped has not passed.

    The options of pyproject.toml are left out: their plugins need not be installed here.
    """
    import pytest

    outcomes = Outcomes(run)
    options = ["-m", "gpu", "-q", "--import-mode=importlib", "-p", "no:cacheprovider"]
    options += ["-c", str(ROOT / "pyproject.toml"), "-o", "addopts=", "-o", "filterwarnings="]
    status = pytest.main([*options, *(str(ROOT / path) for path in paths)], plugins=[outcomes])
    return {
        "passed": status == 0 and outcomes.num_passed > 0 and not outcomes.skipped,
        "num_passed": outcomes.num_passed,
        "failed": outcomes.failed,
        "skipped": outcomes.skipped,
    }


def time_kernels(run: Run) -> dict[str, Any]:
    """Time paged against contiguous attention (Figure 18a's shapes, then larger ones), and
    swapping against recomputing (Figure 19a).
    """
    from bench.devices.device import Shapes
    from bench.devices.kernels import measure

    plans = [
        Shapes(batches=(8, 32), contexts=(64, 128, 256)),
        Shapes(batches=(1, 8, 32, 64), contexts=(1024, 2048)),
        Shapes(block_sizes=(1, 2, 4, 8, 16, 32, 64, 128, 256)),
    ]
    if run.quick:
        plans = [Shapes(batches=(2,), contexts=(32,), block_sizes=(16, 64), num_tokens=64)]
    measured = [measure(_setup(run), shapes) for shapes in plans]
    found = {
        key: [row for each in measured for row in each[key]]
        for key in ("attention", "ratios", "recovery")
    }
    large = {
        key: [r for r in found[key] if r["batch_size"] >= 32 and r["context_len"] >= 1024]
        for key in ("attention", "ratios")
    }
    shares = [row["share_of_copy"] for row in large["attention"] if row["kind"] == "paged"]
    ratios = [row["paged_over_contiguous"] for row in large["ratios"]]
    return {
        **found,
        "copy_bandwidth": [each["copy_bandwidth"] for each in measured],
        "targets": [
            target("paged share of copy", min(shares, default=None), least=KERNEL_SHARE),
            target("paged over contiguous", max(ratios, default=None), most=PAGED_OVER_CONTIGUOUS),
        ],
    }


def time_decode(run: Run) -> dict[str, Any]:
    """Time decode steps of a dummy model against reading weights and KV cache once."""
    import torch

    from bench.devices.timing import measure_copy_bandwidth
    from engines.execution.probe import build_model, time_decode_steps
    from engines.kernels.library import load_kernels
    from engines.models.memory import free_memory_bytes

    setup = _setup(run)
    copy = measure_copy_bandwidth(run.device)
    model = build_model(setup.spec, dtype=getattr(torch, setup.dtype), device=run.device)
    plans = [(1, 330), (8, 330), (16, 330), (32, 330), (64, 330), (32, 1024)]
    if run.quick or run.device == "cpu":
        plans = [(1, 16), (4, 16)] if run.quick else [(1, 128), (16, 128), (64, 128)]
    rows, skipped = [], []
    for num_seqs, context_len in plans:
        release(run.device)
        needed = num_seqs * (context_len + 64) * model.spec.kv_bytes_per_token
        if run.left_s <= 0 or needed > 0.8 * (free_memory_bytes(model.device) or 0):
            skipped.append([num_seqs, context_len])
            continue
        shape = {"num_seqs": num_seqs, "context_len": context_len}
        times = time_decode_steps(
            model, load_kernels(run.device), steps=2 if run.quick else 20, **shape
        )
        moved = model.weight_bytes + num_seqs * context_len * model.spec.kv_bytes_per_token
        over = times.median_s * copy / moved
        step = {"step_s": times.median_s, "quickest_s": min(times.step_s)}
        rows.append({**shape, **step, "host_us": 1e6 * times.host_s, "over_reading_once": over})
    at_32 = [row["over_reading_once"] for row in rows if row["num_seqs"] == 32]
    limit = target("step over reading once at 32", max(at_32, default=None), most=DECODE_STEP)
    return {"model": model.spec.name, "rows": rows, "skipped": skipped, "targets": [limit]}


def measure_device(run: Run) -> dict[str, Any]:
    """Measure the device's profile and write it beside the record."""
    from bench.devices.profile import measure_profile, usual_effort

    effort = usual_effort(run.device, quick=run.quick)
    text = measure_profile(f"measured-{run.device}", _setup(run), effort)
    write_file(run.out / PROFILE, text.encode())
    return {"toml": text.splitlines()}


def serve_point(run: Run, *, system: str) -> dict[str, Any]:
    """Serve one point of Figure 12, simulate it with the measured profile, and compare.

    On a GPU: OPT-13B in FP16 on ShareGPT, 120 s of arrivals, as if the GPU had 40 GiB. On a CPU:
    OPT-125M in FP32, 60 s, all lengths and the cache a quarter. Requests arrive as often per
    decode step as PAPER_RATE on the paper's server.
    """
    from bench.point.serve import run_point
    from bench.point.spec import PointSpec

    profile = run.out / PROFILE
    if not profile.is_file():
        raise UserError(f"there is no {profile}: run the part profile first")
    spec = PointSpec(system=system, backend=run.device, **_point_settings(run))
    spec = replace(spec, rate=comparable_rate(spec, profile))
    measured = run_point(spec).metrics
    predicted = run_point(simulated(spec, profile, measured["kv_slots"])).metrics
    return {
        "system": system,
        "rate": spec.rate,
        "spec": spec.to_dict(),
        "measured": measured,
        "predicted": predicted,
        "error_pct": {name: error_pct(predicted[name], measured[name]) for name in COMPARED},
    }


def _point_settings(run: Run) -> dict[str, Any]:
    if run.quick:
        small = {"model": "opt-125m", "dtype": "float32", "kv_slots": 1000, "shrink": 16}
        return {**small, "duration": 4.0}
    if run.device == "cuda":
        large = {"model": "opt-13b", "dtype": "float16", "gpu_memory": "40GiB"}
        return {**large, "duration": 120.0}
    settings = {"model": "opt-125m", "dtype": "float32", "kv_slots": PAPER_SLOTS // 4, "shrink": 4}
    return {**settings, "duration": 60.0}


def simulated(spec: PointSpec, profile: Path, kv_slots: int) -> PointSpec:
    """The same point on the simulated device, with as many slots."""
    return replace(
        spec,
        backend="sim",
        device_profile=str(profile),
        tensor_parallel=1,
        gpu_memory=None,
        dtype=None,
        kv_slots=kv_slots,
    )


def comparable_rate(spec: PointSpec, profile: Path) -> float:
    """PAPER_RATE times the paper's decode step over this device's, to two digits."""
    from engines.sim.cost import StepCost
    from engines.sim.profile import load_profile

    def step_s(model: str, name: str, shrink: int) -> float:
        device = load_profile(name)
        shape = replace(find_model(model), dtype_bytes=int(device.element_bytes or 2))
        cost = StepCost(shape, device, tensor_parallel=1, block_size=16, python_host=True)
        context_tokens = TYPICAL_BATCH * TYPICAL_CONTEXT // shrink
        return cost.decode_seconds(
            TYPICAL_BATCH, context_tokens, groups=TYPICAL_BATCH, beam_groups=0
        )

    speed = step_s("opt-13b", "a100-40gb", 1) / step_s(spec.model, str(profile), spec.shrink)
    return float(f"{PAPER_RATE * spec.shrink * speed:.2g}")


def error_pct(predicted: float | None, measured: float | None) -> float | None:
    """How far the prediction is from what was measured; None where either is not known."""
    if predicted is None or not measured:
        return None
    return 100 * (predicted / measured - 1)


def _setup(run: Run) -> Setup:
    """What to measure on this device; raises UserError without compiled kernels."""
    from bench.devices.device import DEFAULT_MODEL, DTYPES, settle_device
    from bench.devices.kernels import Setup

    device = settle_device(run.device)
    rounds, samples = (1, 1) if run.quick else (3, 7)
    spec = find_model("opt-125m" if run.quick else DEFAULT_MODEL[device])
    return Setup(spec=spec, device=device, dtype=DTYPES[device][0], rounds=rounds, samples=samples)


def release(device: str) -> None:
    """Give back the memory of what nobody uses any more; executors are part of cycles."""
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


PARTS = (
    Part("build", build_library, budget_s=200),
    Part("tests", run_tests, budget_s=270),
    Part("kernel-times", time_kernels, needs_s=100),
    Part("decode-times", time_decode, budget_s=80, needs_s=30),
    Part("profile", measure_device, needs_s=60),
    Part("point-astra", partial(serve_point, system="astra"), usual=False),
    Part("point-orca-oracle", partial(serve_point, system="orca-oracle"), usual=False),
)
