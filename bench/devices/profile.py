"""Measures a device profile and writes it as TOML: whole engine steps, and rates.

The steps are what the simulation of this very model interpolates. A rate is what the kernels and
layers get out of the device at the model's shapes, so it holds for models of about that size.
Nothing here is fitted to an end-to-end result.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from bench.devices import cases
from bench.devices.cases import Linears, Subject
from bench.devices.device import out_of_memory
from bench.devices.steps import measure_steps, usual_scopes
from bench.devices.timing import Case, measure_copy_bandwidth, time_cases
from bench.machine import git_state, memory_bytes
from bench.results.provenance import source_hash
from engines.core.errors import UserError
from engines.execution.device import device_name
from engines.execution.probe import build_model, narrow_spec, time_decode_steps
from engines.execution.pulse import HEAVY_EVERY, READINGS, Pulse
from engines.execution.setup import LoadedModel
from engines.execution.step_probe import StepProbe, filled_shape
from engines.kernels.library import load_kernels
from engines.sim.interpolation import rising
from engines.sim.steps import StepTable, to_csv

BLOCK_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
USUAL_BLOCK = 16
RUNNING = (1, 64)  # sequences between which the host's time is taken as a line
# Slots of the cache in which steps are measured: on a CPU no more than a trace is likely to fill.
MOST_SLOTS = {"cpu": 36_000, "cuda": 1_000_000}
SLOTS_A_TOKEN = 2.2  # which Orca reserves at most, in powers of two
MOST_PROMPT_TOKENS = 2560
SAMPLES = 2  # of a step, each time it is measured: more times say more than more at a time
STEPS_SHARE = 0.8  # of the time
IDLE_S = (0.1, 0.5, 2.0, 6.0)  # after which a device may take its time to wake up
IDLE_SHARE = 0.1  # of the time of steps
LEAST_LATE_S = 1e-6  # less is none


@dataclass(frozen=True)
class Term:
    """A measured parameter of the profile, and with what it was measured in a few words."""

    name: str
    value: float
    how: str

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.4g}  # {self.how}"


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    `tokens` is of the matrix product and the prompt; `batch_size` and `context_len` are of paged
    decode attention; `samples` are taken in each of `rounds`; `steps` are decode steps.
    Engine steps of all systems are measured for `steps_s` seconds, up to `most_sequences` and
    prompts of `most_tokens`; waking up after IDLE_S in each of `idle_rounds`.
    """

    tokens: int = 512
    batch_size: int = 16
    context_len: int = 512
    samples: int = 3
    rounds: int = 3
    steps: int = 20
    block_sizes: tuple[int, ...] = BLOCK_SIZES
    steps_s: float = 240.0
    idle_rounds: int = 3
    most_sequences: int = 128
    most_tokens: int = 1024


def usual_effort(device: str, *, quick: bool = False) -> Effort:
    """GPUs take a larger batch to fill; a quick run tries every step on next to nothing."""
    if quick:
        return Effort(
            tokens=32, batch_size=2, context_len=32, samples=1, rounds=1, steps=2,
            block_sizes=(1, 16, 256), steps_s=0.0, idle_rounds=0, most_sequences=2,
            most_tokens=16,
        )  # fmt: skip
    return Effort(batch_size=32, context_len=1024, tokens=2048) if device == "cuda" else Effort()


def validation_effort(device: str, *, short: bool) -> Effort:
    """Steps above all: a validation needs the rates only to have a whole profile."""
    usual = replace(usual_effort(device), samples=1, rounds=1, most_tokens=512)
    return replace(usual, steps_s=60.0, idle_rounds=1, most_sequences=64) if short else usual


def measure_profile(
    name: str,
    subject: Subject,
    effort: Effort,
    *,
    tell: Callable[[float], None] = lambda _: None,
) -> str:
    """Measure a profile; returns its TOML, as `--device-profile FILE` takes it.

    `tell` hears the share that is done, 0 to 1. Raises UserError where memory does not suffice.
    """
    with out_of_memory("use a smaller --model"):
        steps = _steps(subject, effort, lambda share: tell(share * STEPS_SHARE))
        linears = Linears.of(subject)
        timed = time_cases(
            _cases(subject, effort, linears), subject.device,
            samples=effort.samples, rounds=effort.rounds,
            tell=lambda share: tell(STEPS_SHARE + share * (1 - STEPS_SHARE)),
        )  # fmt: skip
        # The best round's median: whatever else runs on the machine can only slow a round.
        best = {key: min(map(statistics.median, rounds)) for key, rounds in timed.items()}
        terms = [
            *_rates(subject, effort, linears, best),
            *_swap_terms(subject, effort, best),
            *_host_terms(subject, effort),
        ]
    usual = best["paged", USUAL_BLOCK]
    efficiency = {size: usual / best["paged", size] for size in effort.block_sizes}
    return _toml(name, subject, terms, efficiency) + _steps_toml(steps)


def _steps(subject: Subject, effort: Effort, tell: Callable[[float], None]) -> StepTable:
    """Measure engine steps of all systems, whose caches share the device's memory.

    Each sample is held against the device's pulse of that moment, so that the table is of one
    speed: the usual one of the whole time.
    """
    kernels = load_kernels(subject.device)
    model = build_model(subject.spec, dtype=subject.torch_dtype, device=subject.device)
    loaded, pulse = LoadedModel(model, kernels), Pulse(model)
    slots = loaded.default_slots(gpu_memory_bytes=None, max_batched_tokens=MOST_PROMPT_TOKENS)
    slots = min(slots, MOST_SLOTS[subject.device])
    scopes = usual_scopes(
        subject.spec.max_positions,
        int(slots / SLOTS_A_TOKEN),
        most_sequences=effort.most_sequences,
        most_tokens=effort.most_tokens,
    )
    shape = filled_shape(loaded, slots)
    probes = {
        system: StepProbe(loaded, shape, system, num_slots=slots, block_size=USUAL_BLOCK)
        for system in (scope.system for scope in scopes)
    }
    for number in range(HEAVY_EVERY * READINGS):  # the first step is to have whole medians too
        pulse.take(number)
    rows = measure_steps(
        probes,
        scopes,
        samples=min(SAMPLES, effort.steps),
        budget_s=effort.steps_s,
        unit_s=lambda rows: pulse.recent().seconds(rows),
        tell=lambda share: tell(share * (1 - IDLE_SHARE)),
    )
    waking = measure_waking(
        pulse, effort.idle_rounds, lambda share: tell(1 - (1 - share) * IDLE_SHARE)
    )
    usual = pulse.usual
    timed = [
        replace(row, seconds=unit_s * row.seconds, spread=unit_s * row.spread)
        for row, unit_s in zip(rows, (usual.seconds(row.rows) for row in rows), strict=True)
    ]
    return StepTable(subject.spec.name, USUAL_BLOCK, tuple(timed), usual, waking)


def measure_waking(
    pulse: Pulse, rounds: int, tell: Callable[[float], None]
) -> tuple[tuple[float, float], ...]:
    """How late a small step is after each of IDLE_S: medians, which do not fall."""
    late: dict[float, list[float]] = {}
    for number in range(rounds):
        for idle_s in IDLE_S:
            late.setdefault(idle_s, []).append(max(LEAST_LATE_S, pulse.late_s(idle_s)))
        tell((number + 1) / rounds)
    return tuple(
        zip(late, rising([statistics.median(each) for each in late.values()]), strict=True)
    )


def _steps_toml(steps: StepTable) -> str:
    """The table of measured steps, as CSV within TOML."""
    return f"""
# Whole engine steps, as engines/sim/steps.py explains them.
[steps]
model = "{steps.model}"
block_size = {steps.block_size}
pulse_s = [{steps.speed.light_s:.6g}, {steps.speed.heavy_s:.6g}]
waking = [{", ".join(f"[{idle_s:g}, {late_s:.3g}]" for idle_s, late_s in steps.waking)}]
csv = '''
{to_csv(steps.rows)}'''
"""


def _cases(subject: Subject, effort: Effort, linears: Linears) -> dict[tuple[Any, ...], Case]:
    found: dict[tuple[Any, ...], Case] = {
        ("linears", rows): partial(cases.matrix_products, subject, linears, rows)
        for rows in (1, effort.tokens)
    }
    found["prompt",] = partial(cases.prompt_attention, subject, effort.tokens)
    for size in sorted({USUAL_BLOCK, *effort.block_sizes}):
        found["paged", size] = partial(
            cases.paged_attention, subject, effort.batch_size, effort.context_len, size
        )
    for size in (effort.block_sizes[0], effort.block_sizes[-1]):
        for into in ("host", "device"):
            found[into, size] = partial(cases.swap, subject, BLOCK_SIZES[-1], size, into=into)
    return found


def _rates(
    subject: Subject, effort: Effort, linears: Linears, best: Mapping[tuple[Any, ...], float]
) -> Iterator[Term]:
    spec, tokens, num_bytes = subject.spec, effort.tokens, linears.weight_bytes
    batch, context = effort.batch_size, effort.context_len
    yield Term(
        "kv_bandwidth",
        cases.attention_bytes(subject, batch, context) / best["paged", USUAL_BLOCK],
        f"paged decode attention, {batch} sequences of {context} tokens, block size {USUAL_BLOCK}",
    )
    shape = f"linears of {len(linears.layers)} layers of {spec.name}, {num_bytes / 2**20:.0f} MiB"
    yield Term("weight_bandwidth", num_bytes / best["linears", 1], f"{shape}, 1 row")
    flop = 2 * tokens * num_bytes / subject.torch_dtype.itemsize
    yield Term("flops", flop / best["linears", tokens], f"{shape}, {tokens} rows")
    # Half of a full square: attention is causal.
    flop = 2 * spec.num_heads * spec.head_size * tokens**2
    kernel = "prompt attention kernel" if subject.device == "cpu" else "PyTorch's fused attention"
    yield Term("attention_flops", flop / best["prompt",], f"{kernel}, a prompt of {tokens} tokens")
    copy = measure_copy_bandwidth(subject.device)
    yield Term("copy_bandwidth", copy, "a copy beyond all caches, bytes read plus bytes written")


def _swap_terms(
    subject: Subject, effort: Effort, best: Mapping[tuple[Any, ...], float]
) -> Iterator[Term]:
    """Bus bandwidth and the cost of one more transfer, by the smallest and the largest blocks.

    A transfer is a block of one layer's keys or values, as the price of a step counts them; the
    executor may gather several into one.
    """
    small, large = effort.block_sizes[0], effort.block_sizes[-1]
    small_s, large_s = ((best["host", size] + best["device", size]) / 2 for size in (small, large))
    many, few = (2 * subject.spec.num_layers * -(-BLOCK_SIZES[-1] // s) for s in (small, large))
    latency_s = max(0.0, (small_s - large_s) / (many - few)) if many > few else 0.0
    seconds = max(large_s - few * latency_s, 0.5 * large_s)
    how = f"swapping {BLOCK_SIZES[-1]} tokens out and in, blocks of"
    moved = cases.swapped_bytes(subject, BLOCK_SIZES[-1], large)
    yield Term("pcie_bandwidth", moved / seconds, f"{how} {large}")
    yield Term("pcie_latency_s", latency_s, f"{how} {small} against {large}")


def _host_terms(subject: Subject, effort: Effort) -> Iterator[Term]:
    """Time of a decode step that is not arithmetic: a line through two batch sizes.

    The model has the layers and vocabulary of the subject's but next to no width, so that a step is
    scheduling, launches, sampling and bookkeeping.
    """
    narrow, kernels = narrow_spec(subject.spec), load_kernels(subject.device)
    model = build_model(narrow, dtype=subject.torch_dtype, device=subject.device)
    few_s, many_s = (
        time_decode_steps(model, kernels, num_seqs=n, context_len=8, steps=effort.steps).median_s
        for n in RUNNING
    )
    sequence_s = max(0.0, (many_s - few_s) / (RUNNING[1] - RUNNING[0]))
    how = f"decode steps of a model of {narrow.num_layers} layers with next to no width"
    yield Term("step_overhead_s", max(0.0, few_s - RUNNING[0] * sequence_s), f"{how}, 1 sequence")
    yield Term("sequence_overhead_s", sequence_s, f"{how}, {RUNNING[0]} to {RUNNING[1]} sequences")


def _toml(
    name: str, subject: Subject, terms: Sequence[Term], efficiency: Mapping[int, float]
) -> str:
    state, device = git_state(), device_name(torch.device(subject.device))
    dirty = " with changes" if state["git_dirty"] else ""
    lines = [
        f"# {device}, measured with the shapes of {subject.spec.name} in {subject.dtype}.",
        f"# Sources {source_hash()[:16]}, commit {state['git_commit'] or 'unknown'}{dirty}.",
        "",
        f'name = "{name}"',
        f"memory_bytes = {_device_memory(subject.device)}",
        f"element_bytes = {subject.torch_dtype.itemsize}",
        *map(str, terms),
        "# One device alone: no worker processes to drive, and nobody to exchange with.",
        "link_bandwidth = inf",
        "link_latency_s = 0.0",
        "worker_overhead_s = 0.0",
        "",
        "# Nothing was fitted to an end-to-end result.",
        "[calibrated]",
        "",
        "# Speed of paged decode attention over block sizes, relative to 16.",
        "[kv_block_efficiency]",
        *(f"{size} = {value:.3f}" for size, value in efficiency.items()),
    ]
    return "\n".join(lines) + "\n"


def _device_memory(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    found = memory_bytes()
    if found is None:
        raise UserError("the size of this machine's memory cannot be found out")
    return found
