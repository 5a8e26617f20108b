"""What is logged while a point is served; the simulation of a machine that changes its speed."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from small_devices import TINY, write_measured_profile

from bench.point.serve import run_point
from bench.point.spec import PointSpec
from bench.validation.serve import (
    LoggingExecutor,
    StepLog,
    price_steps,
    simulate_paced,
    steps_of,
)
from engines.core.batch import Batch
from engines.core.config import System
from engines.core.errors import UserError
from engines.sim.cost import Work
from engines.sim.steps import Speed


def spec_of(profile: Path, pulse_s: str = "", waking: str = "") -> PointSpec:
    given = {"pulse_s": pulse_s, "waking": waking}
    lines = [f"{name} = {value}" for name, value in given.items() if value]
    if lines:
        text = profile.read_text().replace("[steps]", "\n".join(["[steps]", *lines]))
        profile.write_text(text)
    return PointSpec(
        system=System.ASTRA, model="opt-125m", device_profile=str(profile), workload="alpaca",
        rate=5.0, duration=20.0, shrink=4, kv_slots=1600,
    )  # fmt: skip


@pytest.fixture
def spec(tmp_path: Path, small_device: None) -> PointSpec:
    return spec_of(write_measured_profile(tmp_path / "steps.toml"))


def test_a_steps_time_holds_what_lies_between_steps_but_no_pulse() -> None:
    works = [Work(prompts=1), Work(decodes=1), Work(decodes=1), Work(prompts=1), Work(decodes=1)]
    log = StepLog(
        began=[10.0, 11.5, 13.0, 20.0, 21.5],
        ended=[11.0, 12.5, 13.9, 21.0, 22.5],
        works=works,
        pulses=[(10.0, 0.1, 0.2), (13.0, 0.6, None), (20.0, 0.1, 0.4)],
    )
    frame = log.frame()
    # Half a second between two steps; before a prompt the engine waited, and the usual time counts.
    assert frame["seconds"].tolist() == pytest.approx([1.5, 1.5, 1.4, 1.5, 1.5])
    assert frame["light_s"].tolist() == pytest.approx([0.1] * 5)  # the median of all three
    assert frame["heavy_s"].tolist() == pytest.approx([0.3] * 5)  # of both


def test_a_pulse_takes_no_time_of_the_serving_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """One before the first step, the next a second of serving later, but not after waiting."""
    now_s = 100.0
    monkeypatch.setattr("engines.core.clock.time.perf_counter", lambda: now_s)

    def spend(seconds: float) -> Any:
        nonlocal now_s
        now_s += seconds
        return seconds

    log = StepLog()
    inner = SimpleNamespace(execute=lambda _: spend(0.4))
    pulse = SimpleNamespace(take=lambda number: (spend(5.0), number), every_s=1.0)
    executor = LoggingExecutor(inner, 16, log, cast(Any, pulse))
    assert log.start_clock().now == 0.0
    for decodes in (0, 1, 1, 0, 1, 1):  # the fourth may have waited for a request
        batch = Batch()
        batch.num_decodes = decodes
        executor.execute(batch)
    starts = np.arange(7) * 0.4
    assert log.began == pytest.approx(starts[:-1])
    assert log.ended == pytest.approx(starts[1:])
    assert log.pulses == [(pytest.approx(starts[i]), 5.0, n) for n, i in enumerate((0, 4))]


def speeds_of(began: list[float], light: list[float], heavy: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"began": began, "light_s": light, "heavy_s": heavy})


def test_a_machine_of_one_speed_is_simulated_as_ever(spec: PointSpec) -> None:
    spec_of(Path(str(spec.device_profile)), "[0.002, 0.009]")
    paced = simulate_paced(spec, speeds_of([0.0, 20.0], [0.002] * 2, [0.009] * 2))
    plain = run_point(spec)
    changing = ("wall_s", "host_us_per_step")
    for name, value in plain.metrics.items():
        if name not in changing:
            assert paced.metrics[name] == pytest.approx(value, nan_ok=True), name


def test_steps_take_longer_while_the_machine_is_slow(spec: PointSpec) -> None:
    """Twice as long from the tenth second on: latencies double there and nowhere else."""
    spec_of(Path(str(spec.device_profile)), "[0.002, 0.009]")
    light = [0.002, 0.002, 0.004, 0.004]
    speeds = speeds_of([0.0, 10.0, 10.001, 20.0], light, [4.5 * each for each in light])
    paced = pd.DataFrame(simulate_paced(spec, speeds).requests)
    plain = pd.DataFrame(run_point(spec).requests)
    first = [each["first_token_s"] - each["arrival_s"] for each in (paced, plain)]
    early, late = plain["arrival_s"] < 9, plain["arrival_s"] > 10.1
    assert (first[0][early] / first[1][early]).tolist() == pytest.approx([1.0] * early.sum())
    assert (first[0][late] / first[1][late]).median() == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize(
    ("pulse_s", "rows", "expected"),
    [
        ("", 1, 1.0),
        ("0.004", 1, 1.5),  # an earlier profile's
        ("[0.004, 0.012]", 1, 1.75),  # one row waits for memory even more
        ("[0.004, 0.012]", 8, 1.5),
        ("[0.004, 0.012]", 36, 1.125),  # the middle: 9 ms over 8 ms
        ("[0.004, 0.012]", 64, 1.0),
        ("[0.004, 0.012]", 2000, 1.0),
    ],
)
def test_slowness_is_by_a_steps_rows(
    tmp_path: Path, small_device: None, pulse_s: str, rows: int, expected: float
) -> None:
    """Steps of few rows are slow while those of many are not: only what reads memory is."""
    spec = spec_of(write_measured_profile(tmp_path / "steps.toml"), pulse_s)
    works = pd.DataFrame([asdict(Work(decodes=1, groups=1, context_tokens=20))] * 2)
    works.loc[1, "prompt_tokens"] = rows - 1
    heavy_s = 0.006 if pulse_s == "0.004" else 0.012
    works = works.assign(began=[0.0, 0.0012], seconds=0.0012, light_s=0.006, heavy_s=heavy_s)
    priced = price_steps(works, spec)
    assert priced["slowness"][1] == pytest.approx(expected)
    assert priced["priced"][0] == pytest.approx(1.2e-3)


@pytest.mark.parametrize("pulse_s", ["[0.004, 0]", "[0.004]", "-1", "nan", "true", "'now'"])
def test_a_pulse_that_is_no_two_times_is_refused(tmp_path: Path, pulse_s: str) -> None:
    spec = spec_of(write_measured_profile(tmp_path / "steps.toml"), pulse_s)
    with pytest.raises(UserError, match=r"steps\.pulse_s must be two times in seconds, got"):
        steps_of(spec)


def test_the_first_step_after_idling_is_late(tmp_path: Path, small_device: None) -> None:
    """A request that comes to an idle device waits longer for its first token."""
    path = write_measured_profile(tmp_path / "steps.toml")
    first = []
    for waking in ("", "[[0.1, 0.02], [1.0, 0.11]]"):
        run = run_point(replace(spec_of(path, waking=waking), rate=0.5, duration=200.0))
        requests = pd.DataFrame(run.requests)
        first.append(requests["first_token_s"] - requests["arrival_s"])
        if not waking:
            idle = requests["arrival_s"] - requests["finish_s"].cummax().shift(fill_value=0.0)
    late = first[1] - first[0]
    alone, short = idle > 1.2, (idle > 0.3) & (idle < 0.9)
    assert min(alone.sum(), short.sum()) > 10
    assert late[alone].tolist() == pytest.approx([0.11] * alone.sum())
    # 0.1 s for each second; less what the request before was late and so ended later.
    assert (late[short] - (0.01 + 0.1 * idle[short])).abs().max() < 0.012


def test_the_price_of_a_step_holds_what_waking_takes(tmp_path: Path, small_device: None) -> None:
    """Of a step that began long after the last, unless it decodes: then nothing was idle."""
    path = write_measured_profile(tmp_path / "steps.toml")
    spec = spec_of(path, waking="[[1.0, 0.1]]")
    works = [Work(prompts=1, prompt_tokens=4, groups=1), Work(prompts=1, prompt_tokens=4, groups=1)]
    works += [Work(decodes=1, groups=1, context_tokens=20)]
    steps = pd.DataFrame([asdict(work) for work in works])
    steps = steps.assign(began=[0.0, 0.51, 9.0], seconds=0.01, light_s=0.0, heavy_s=0.0)
    priced = price_steps(steps, spec)
    assert priced["priced_waking"].tolist() == pytest.approx([0.0, 0.05, 0.0])
    assert priced["priced"][1] - priced["priced"][0] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("waking", "message"),
    [
        ("[[1.0, 0.1], [0.5, 0.2]]", r"the idle times of steps\.waking must rise"),
        ("[[1.0]]", r"pairs of times in seconds, got \[1.0\]"),
        ("[[0.0, 0.1]]", r"pairs of times in seconds"),
        ("3.0", r"pairs of times in seconds, got 3.0"),
    ],
)
def test_waking_that_is_no_rising_times_is_refused(
    tmp_path: Path, waking: str, message: str
) -> None:
    spec = spec_of(write_measured_profile(tmp_path / "steps.toml"), waking=waking)
    with pytest.raises(UserError, match=message):
        steps_of(spec)


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_a_pulse_is_taken_anew_when_it_is_old(family: str) -> None:
    torch = pytest.importorskip("torch")
    from engines.execution.probe import build_model
    from engines.execution.pulse import HEAVY_EVERY, Pulse

    spec = replace(TINY, family=family)
    pulse = Pulse(build_model(spec, dtype=torch.bfloat16, device="cpu"), every_s=3600.0)
    found = pulse.recent()
    assert pulse.recent() == found
    assert (found.light_s, found.heavy_s) == (pulse.light[0], pulse.heavy[0])
    pulse.every_s = 0.0
    for _ in range(HEAVY_EVERY):
        pulse.recent()
    assert (len(pulse.light), len(pulse.heavy)) == (1 + HEAVY_EVERY, 2)
    pulse.light[:], pulse.heavy[:] = [9.0, 1.0, 2.0], [5.0]
    assert pulse.usual == Speed(2.0, 5.0)


def test_waking_is_measured_by_medians_that_do_not_fall() -> None:
    pytest.importorskip("torch")
    from bench.devices.profile import IDLE_S, measure_waking

    times = {0.1: [0.01, 0.02, 0.9], 0.5: [0.04] * 3, 2.0: [0.02] * 3, 6.0: [-0.1, 0.2, 0.3]}
    readings = {idle_s: iter(each) for idle_s, each in times.items()}
    shares: list[float] = []
    pulse = SimpleNamespace(late_s=lambda idle_s: next(readings[idle_s]))
    found = measure_waking(cast(Any, pulse), 3, shares.append)
    # 2 s and 0.5 s are out of order: both take their mean.
    assert [idle_s for idle_s, _ in found] == list(IDLE_S)
    assert [late_s for _, late_s in found] == pytest.approx([0.02, 0.03, 0.03, 0.2])
    assert shares == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_how_late_a_device_is_is_held_against_steps_right_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    from engines.execution.probe import build_model
    from engines.execution.pulse import Pulse

    pulse = Pulse(build_model(TINY, dtype=torch.float32, device="cpu"))
    slept: list[float] = []
    monkeypatch.setattr("engines.execution.pulse.time.sleep", slept.append)
    times = iter([0.5, 0.1, 0.2, 0.3, 0.2, 0.2])
    monkeypatch.setattr(pulse, "_time", lambda rows: next(times))
    assert pulse.late_s(2.5) == pytest.approx(0.3)
    assert slept == [2.5]
