"""The figures in miniature: the same comparison on a machine that cannot run a 13B model.

The rule, for every panel of the paper's OPT-13B (and LLaMA-13B) experiments:

- the model is OPT-125M's shape with dummy weights, in float32;
- input and output lengths, the model's context, the KV slots and blocks are divided by `SHRINK`
  (a block keeps at least one slot), so that as many requests share the cache, and each reserves and
  wastes the same share of it, as there; of a panel that varies the block size, those remain that
  are no larger than this context;
- request rates are multiplied by `SHRINK * speed`, where `speed` is the paper's step time over this
  device's, both for `TYPICAL_BATCH` decoding requests of typical length (the former from the
  device profile, the latter the quickest of some measured): requests then arrive as often per step
  as in the paper. Alpaca's rates are multiplied by `LARGE_BATCHES` too: its steps hold 130
  requests, for which a GPU takes 1.3 times as long as for 30 and a CPU about 2.7 times. A device
  slower than `SLOWEST` is taken to be that fast, so that points have requests at all;
- of each curve's rates three remain: the median, the upper quartile and the highest;
- arrivals last `DURATION_S`, and serving ends after `DRAINED` times that; a request that is cut off
  counts for latency as if it had finished then (a lower bound). Where a steady state is averaged,
  arrivals last `SATURATED_S`, and serving ends with them. So no point takes
  longer than that on any device: Figure 12 (OPT-13B) has 29 points, Figure 13 eight. Warm-up and
  window keep their share of the duration, but a window opens after a quarter at the earliest, since
  a queue takes longer to build up in so few requests.

`speed` is measured once for a directory of results and kept there, so that runs can be resumed and
drawn later. Shares of memory and batch sizes carry over; latencies per token are those of this
device, and claims about rates hold only as ratios between systems.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from bench.experiments.effort import Effort, at_effort
from bench.experiments.model import Curve, Panel
from bench.files import write_file
from bench.point.spec import Backend, PointSpec
from bench.records import RecordError, read_record, seal
from engines.core.config import EngineConfig, System
from engines.core.errors import UserError
from engines.core.models import find_model
from engines.sim.cost import StepCost
from engines.sim.profile import load_profile
from engines.sim.slots import default_slots

MODEL = "opt-125m"
SHRINK = 32
TYPICAL_BATCH = 30  # requests that Astra batches on ShareGPT in Fig. 13
TYPICAL_CONTEXT = 330  # tokens of a ShareGPT request halfway through its output
DURATION_S, DRAINED = 8.0, 1.5
SATURATED_S = 40.0
SLOWEST = 0.1
LARGE_BATCHES = 0.5
BLOCK_SIZE = 16  # the original's, where a panel does not vary it
SCALED_MODELS = ("opt-13b", "llama-13b")
MINIATURE = " in miniature"  # ends the titles of scaled panels

SPEED_FILE = "scale-cpu.json"  # in the artifacts
_FORMAT = 2
_WARM_UP_STEPS, _TIMED_STEPS = 3, 12


class Speed(TypedDict):
    """The content of the file that keeps this CPU's speed."""

    format: int
    speed: float
    model: str
    shrink: int


def scale_panel(panel: Panel, speed: float) -> Panel:
    """Return the panel in miniature, or as it is if its model is one that has none."""
    if not has_miniature(panel):
        return panel
    panel = at_effort(panel, Effort.SHORT)
    model = panel.settings["model"]
    profile = load_profile(panel.settings["device_profile"])
    slots = default_slots(find_model(model), profile, panel.settings["tensor_parallel"])
    before, window = panel.settings["duration"], panel.settings.get("window")
    duration = DURATION_S if window is None else SATURATED_S
    share = duration / before
    settings = {
        **panel.settings,
        "model": MODEL,
        "device_profile": None,
        "dtype": "float32",
        "shrink": SHRINK,
        "kv_slots": slots // SHRINK,
        "block_size": max(1, panel.settings.get("block_size", BLOCK_SIZE) // SHRINK),
        "duration": duration,
        "timeout": duration if window else DRAINED * duration,
        "warmup": share * panel.settings.get("warmup", 0.1 * before),
    }
    if window is not None:
        settings["window"] = (max(share * window[0], duration / 4), share * window[1])
    context = find_model(MODEL).max_positions // SHRINK
    curves = [c for c in panel.curves if c.settings.get("block_size", 1) <= context]
    left_out = f", blocks of at most {context} tokens" if len(curves) < len(panel.curves) else ""
    factor = SHRINK * speed * (LARGE_BATCHES if panel.settings["workload"] == "alpaca" else 1.0)
    return replace(
        panel,
        title=panel.title + MINIATURE,
        note=f"{MODEL} for {model}, lengths / {SHRINK}, rates x {factor:.3g}{left_out}",
        curves=tuple(_scale_curve(curve, factor) for curve in curves),
        settings=settings,
    )


def has_miniature(panel: Panel) -> bool:
    """Whether a panel's model is one that the miniature stands for."""
    return panel.settings.get("model") in SCALED_MODELS


def require_miniature(panel: Panel) -> None:
    """Raise UserError for a panel that a CPU cannot run even in miniature."""
    if not has_miniature(panel):
        raise UserError(
            f"{panel.name} is about {panel.settings.get('model')}, which has no miniature for a "
            f"CPU: name panels of {' or '.join(SCALED_MODELS)}, or use --backend sim"
        )


def _scale_curve(curve: Curve, factor: float) -> Curve:
    rates = curve.all_rates
    kept = sorted({len(rates) // 2, 3 * len(rates) // 4, len(rates) - 1})
    scaled = tuple(float(f"{factor * rates[i]:.3g}") for i in kept)
    return replace(curve, rates=scaled, extra_rates=())


def with_speed(
    overrides: Mapping[str, Any],
    root: Path,
    *,
    backend: str,
    measure: Callable[[], float] | None = None,
    keeps: bool = True,
) -> dict[str, Any]:
    """Add the device's speed to the overrides of a CPU's results unless it was given.

    It is the one that results in `root` were made with; if there is none, `measure` tells it, and
    with `keeps` it is kept there. Raises UserError where it may not be measured.
    """
    if backend != "cpu" or "scale" in overrides:
        return dict(overrides)
    path = root / SPEED_FILE
    if path.is_file():
        return {**overrides, "scale": _kept_speed(path)}
    if measure is None:
        raise UserError(f"no results of backend cpu in {root}: run 'bench figure' first")
    speed = measure()
    if keeps:
        kept: Speed = {"format": _FORMAT, "speed": speed, "model": MODEL, "shrink": SHRINK}
        write_file(path, seal(kept))
    return {**overrides, "scale": speed}


def _kept_speed(path: Path) -> float:
    """The speed that results were made with; raises UserError if the file is damaged."""
    try:
        speed: float = read_record(path, Speed, expected_format=_FORMAT)["speed"]
        if speed <= 0:
            raise RecordError(f"has speed {speed:g}")
    except RecordError as error:
        raise UserError(
            f"{path} does not tell this CPU's speed ({error}): remove it, and 'bench figure' "
            "measures anew"
        ) from None
    return speed


def measure_speed() -> float:
    """The paper's step time over this device's, to two digits; raises UserError without torch.

    The device's is the quickest of some, since whatever else runs can only slow one.
    """
    from bench.point.model import load_platform
    from engines.core.clock import WallClock
    from engines.core.engine import Engine
    from engines.core.request import Request
    from engines.core.stats import StepRecorder
    from engines.systems import create_scheduler

    spec = PointSpec(system=System.ASTRA, model=MODEL, backend=Backend.CPU, dtype="float32")
    config = EngineConfig(system=System.ASTRA, num_slots=8 * TYPICAL_CONTEXT)
    executor = load_platform(spec).loaded.executor(config)
    recorder = StepRecorder(0.0, 0.0)
    engine = Engine(create_scheduler(config), executor, WallClock(), recorder=recorder)
    steps = _WARM_UP_STEPS + _TIMED_STEPS
    for index in range(TYPICAL_BATCH):
        engine.add_request(Request(index, 0.0, TYPICAL_CONTEXT // SHRINK, steps))
    durations = []
    for _ in range(steps):
        before = executor.timing.total_s
        engine.step()
        durations.append(executor.timing.total_s - before)
    ours_s = min(durations[_WARM_UP_STEPS:])
    paper = StepCost(
        find_model("opt-13b"),
        load_profile("a100-40gb"),
        tensor_parallel=1,
        block_size=BLOCK_SIZE,
        python_host=True,
    )
    return max(SLOWEST, float(f"{typical_step_s(paper) / ours_s:.2g}"))


def typical_step_s(cost: StepCost) -> float:
    """Seconds of a step that decodes the typical batch."""
    context_tokens = TYPICAL_BATCH * TYPICAL_CONTEXT
    return cost.decode_seconds(TYPICAL_BATCH, context_tokens, groups=TYPICAL_BATCH, beam_groups=0)


if __name__ == "__main__":  # in a container, which has PyTorch where the launcher may have none
    print(json.dumps({"speed": measure_speed()}))
