"""The parts of the check of a GPU that measure: times, bandwidths, the profile, one point."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.files import write_file
from benchmarks.gpu_checks import find_setup
from benchmarks.gpu_run import Run
from engines.core.errors import UserError
from engines.core.models import find_model

if TYPE_CHECKING:
    from bench.point.spec import PointSpec
    from engines.models.interfaces import Model

PROFILE = "profile.toml"
KERNEL_SHARE, PAGED_OVER_CONTIGUOUS, DECODE_STEP = 0.85, 1.05, 1.15  # what an H200 should reach
PROMPT_LENS = (37, 61, 113, 187, 251, 333, 467, 612, 801, 1023)
PROFILED_STEPS = 5
PAPER_RATE = 1.0  # req/s on the paper's server: Orca (Oracle) is close to saturation there
PAPER_SLOTS = 15_700  # of OPT-13B on the paper's server (Table 1)
TYPICAL_BATCH, TYPICAL_CONTEXT = 30, 330  # sequences and tokens of each that make steps comparable
COMPARED = (
    *("mean_normalized_latency_s", "p90_normalized_latency_s", "mean_ttft_s", "mean_tpot_s"),
    *("throughput_tok_s", "mean_running_requests"),
)


def target(
    name: str, value: float | None, *, least: float = -math.inf, most: float = math.inf
) -> dict[str, Any]:
    """What a good device reaches: a number within limits. Missing it is told and is no failure."""
    limit = f">= {least:g}" if math.isinf(most) else f"<= {most:g}"
    met = None if value is None else least <= value <= most
    return {"name": name, "limit": limit, "value": value, "met": met}


def _dummy_model(run: Run) -> Model:
    from engines.execution.probe import build_model

    setup = find_setup(run)
    return build_model(setup.spec, dtype=setup.torch_dtype, device=run.device)


def time_prompts(run: Run) -> dict[str, Any]:
    """Time the first and the second call of PyTorch's attention for prompts of ten lengths.

    With cuDNN's kernels and without: cuDNN plans anew for each length. Another length goes first,
    so that loading a library does not count. Then each way to compute a step's prompts in one call.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from benchmarks.prompts import PROMPTS, time_prompt_attention

    setup, cuda = find_setup(run), torch.backends.cuda
    before, rows = cuda.cudnn_sdp_enabled(), []
    for cudnn in (True, False):
        cuda.enable_cudnn_sdp(cudnn)
        for length in (max(PROMPT_LENS) + 1, *PROMPT_LENS):
            size = (1, setup.spec.num_heads, length, setup.spec.head_size)
            query, key, value = (setup.draw(*size) for _ in "qkv")
            attend = partial(scaled_dot_product_attention, query, key, value, is_causal=True)
            first_s, second_s = (_seconds(attend, run.device) for _ in range(2))
            rows.append({"cudnn": cudnn, "length": length, "first_s": first_s, "again_s": second_s})
    cuda.enable_cudnn_sdp(before)
    shape = {"num_heads": setup.spec.num_heads, "head_size": setup.spec.head_size}
    prompts = PROMPTS[:2] if run.quick else PROMPTS
    ways = time_prompt_attention(run.device, setup.torch_dtype, prompts=prompts, **shape)
    return {"rows": [row for row in rows if row["length"] in PROMPT_LENS], "ways": ways}


def _seconds(run: Callable[[], object], device: str) -> float:
    import torch

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - started


def time_kernels(run: Run) -> dict[str, Any]:
    """Time paged against contiguous attention: Figure 18a's shapes, then larger ones."""
    from bench.devices.device import Shapes
    from bench.devices.kernels import measure

    plans = [
        Shapes(batches=(8, 32), contexts=(64, 128, 256)),
        Shapes(batches=(1, 8, 32, 64), contexts=(1024, 2048)),
    ]
    if run.quick:
        plans = [Shapes(batches=(2,), contexts=(32,))]
    measured = [measure(find_setup(run), shapes) for shapes in plans]
    found = {key: [row for m in measured for row in m[key]] for key in ("attention", "ratios")}
    large = {
        key: [r for r in found[key] if r["batch_size"] >= 32 and r["context_len"] >= 1024]
        for key in found
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
    from bench.devices.timing import measure_copy_bandwidth
    from engines.execution.probe import time_decode_steps
    from engines.kernels.library import load_kernels
    from engines.models.memory import free_memory_bytes

    copy, model = measure_copy_bandwidth(run.device), _dummy_model(run)
    plans = [(32, 330), (1, 330), (8, 330), (16, 330), (64, 330), (32, 1024)]
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
    return {
        "model": model.spec.name,
        "copy_bandwidth": copy,
        "rows": rows,
        "skipped": skipped,
        "targets": [limit],
    }


def release(device: str) -> None:
    """Give back the memory of what nobody uses any more; executors are part of cycles."""
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def profile_steps(run: Run) -> dict[str, Any]:
    """List the kernels of five decode steps, as torch's profiler sees them, longest first.

    On a CPU torch's operations stand for kernels.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    from engines.execution.probe import WARM_STEPS, start_decoding
    from engines.kernels.library import load_kernels

    shape = (
        {"num_seqs": 2, "context_len": 16} if run.quick else {"num_seqs": 32, "context_len": 330}
    )
    steps = WARM_STEPS + PROFILED_STEPS
    engine, _ = start_decoding(_dummy_model(run), load_kernels(run.device), steps=steps, **shape)
    for _ in range(WARM_STEPS):
        engine.step()
    seen, own = ProfilerActivity.CPU, "self_cpu_time_total"
    if run.device == "cuda":
        seen, own = ProfilerActivity.CUDA, "self_device_time_total"
    started = time.perf_counter()
    with profile(activities=[seen]) as profiler:
        for _ in range(PROFILED_STEPS):
            engine.step()
    wall_s = time.perf_counter() - started
    rows = [
        {"name": e.key, "calls": e.count / PROFILED_STEPS, "us": getattr(e, own) / PROFILED_STEPS}
        for e in profiler.key_averages()
        if getattr(e, own) > 0
    ]
    rows.sort(key=lambda row: -row["us"])
    total = {name: sum(row[name] for row in rows) for name in ("calls", "us")}
    return {**shape, "torch": torch.__version__, "step_s": wall_s / PROFILED_STEPS,
            "per_step": total, "rows": rows[:40], "passed": bool(rows)}  # fmt: skip


def measure_device(run: Run) -> dict[str, Any]:
    """Measure the device's profile and write it beside the record."""
    from bench.devices.profile import measure_profile, usual_effort

    effort = usual_effort(run.device, quick=run.quick)
    text = measure_profile(f"measured-{run.device}", find_setup(run), effort)
    write_file(run.out / PROFILE, text.encode())
    return {"toml": text.splitlines()}


def serve_points(run: Run) -> dict[str, Any]:
    """Serve a point of Figure 12 with each system, simulate it with the measured profile, compare.

    On a GPU: OPT-13B in FP16 on ShareGPT as if the GPU had 40 GiB. On a CPU: OPT-125M in FP32, all
    lengths and the cache a quarter. Requests arrive as often per decode step as PAPER_RATE on the
    paper's server, and serving ends at one and a half times the duration.
    """
    profile = run.out / PROFILE
    if not profile.is_file():
        raise UserError(f"there is no {profile}: run the part profile first")
    return {"points": [_serve_point(run, system, profile) for system in run.systems]}


def _serve_point(run: Run, system: str, profile: Path) -> dict[str, Any]:
    from bench.point.serve import run_point
    from bench.point.spec import PointSpec

    spec = PointSpec(system=system, backend=run.device, **point_settings(run))
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


def point_settings(run: Run) -> dict[str, Any]:
    """What the point serves on this device, and for how long."""
    time = {"duration": run.duration_s, "timeout": 1.5 * run.duration_s}
    if run.device == "cuda" and not run.quick:
        return {**time, "model": "opt-13b", "dtype": "float16", "gpu_memory": "40GiB"}
    shrink, slots = (16, 1000) if run.quick else (4, PAPER_SLOTS // 4)
    return {**time, "model": "opt-125m", "dtype": "float32", "kv_slots": slots, "shrink": shrink}


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
