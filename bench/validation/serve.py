"""Serving a point for real with a log of its steps, and the price that each of them would have.

A machine's speed may change meanwhile: it is measured too, so that the simulation can be told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.files import write_file
from bench.point.model import ModelPlatform
from bench.point.platform import simulate
from bench.point.serve import Outcome, serve_on
from bench.point.setting import settle
from bench.point.spec import PointSpec
from bench.results.provenance import environment
from bench.results.store import State, Store, name_of
from bench.sweep.place import Job
from engines.core.batch import Batch
from engines.core.clock import Clock, WallClock
from engines.core.config import EngineConfig
from engines.core.executor import Executor, StepResult
from engines.sim.cost import Work
from engines.sim.executor import SimExecutor, work_of
from engines.sim.measured import MeasuredCost
from engines.sim.profile import load_profile
from engines.sim.steps import Speed, StepTable

if TYPE_CHECKING:
    import pandas as pd

    from engines.execution.pulse import Pulse

_PULSES = 5  # whose median is the speed in their middle
_SPEED = ("light_s", "heavy_s")


@dataclass
class StepLog:
    """When each step's execution began and ended (s of `clock`), and what it did.

    `pulses` holds when a pulse was taken (s), and how long the light one and perhaps the heavy one
    took, which `clock` leaves out.
    """

    clock: WallClock = field(default_factory=WallClock)

    began: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)
    pulses: list[tuple[float, float, float | None]] = field(default_factory=list)

    def start_clock(self) -> WallClock:
        """Begin to serve: the time is 0."""
        self.clock = WallClock()
        return self.clock

    def frame(self) -> pd.DataFrame:
        """A row per step: the fields of `Work`, and `seconds` from one step's end to the next.

        `light_s` and `heavy_s` are the speed of the time when it `began`. Where nothing ran before,
        the engine may have waited for an arrival; such a step has the usual time between two.
        """
        import pandas as pd

        frame = pd.DataFrame([asdict(work) for work in self.works])
        began, ended = pd.Series(self.began), pd.Series(self.ended)
        between = (began - ended.shift()).where(frame["decodes"] > 0)
        pulses = pd.DataFrame(self.pulses, columns=["at", *_SPEED]).set_index("at")
        speeds = {}
        for name in _SPEED:
            found = pulses[name].dropna()
            usual = found.rolling(_PULSES, center=True, min_periods=1).median()
            speeds[name] = np.interp(began, usual.index, usual)
        return frame.assign(
            seconds=ended - began + between.fillna(between.median()),
            began=began,
            **speeds,
        )


class LoggingExecutor:
    """An executor that logs what passes through it, and now and then the machine's pulse."""

    def __init__(self, inner: Any, block_size: int, log: StepLog, pulse: Pulse) -> None:
        self._inner = inner
        self._block_size = block_size
        self._log = log
        self._pulse = pulse

    @property
    def timing(self) -> Any:
        """The inner executor's."""
        return self._inner.timing

    def execute(self, batch: Batch) -> StepResult:
        """See `Executor.execute`."""
        log, clock = self._log, self._log.clock
        work = work_of(batch, self._block_size)
        log.works.append(work)
        began_s = clock.now
        waited = work.decodes == 0  # perhaps; a processor is slow at first after that
        if not log.pulses or (not waited and began_s - log.pulses[-1][0] >= self._pulse.every_s):
            log.pulses.append((began_s, *self._pulse.take(len(log.pulses))))
            clock.leave_out(clock.now - began_s)
        log.began.append(clock.now)
        result: StepResult = self._inner.execute(batch)
        log.ended.append(clock.now)
        return result


class PacedExecutor:
    """A simulated executor on a machine whose speed changes.

    `speeds` has it in seconds, `light_s` and `heavy_s`, at the rising times `began` (s), between
    which it is interpolated; `usual` is that of the prices.
    """

    def __init__(
        self, inner: SimExecutor, clock: Clock, speeds: pd.DataFrame, usual: Speed
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._began = speeds["began"].to_numpy()
        self._speeds = [speeds[name].to_numpy() for name in _SPEED]
        self._usual = usual

    @property
    def outside(self) -> int:
        """The inner executor's."""
        return self._inner.outside

    def execute(self, batch: Batch) -> StepResult:
        """See `Executor.execute`."""
        result = self._inner.execute(batch)
        now = self._clock.now
        speed = Speed(*(float(np.interp(now, self._began, each)) for each in self._speeds))
        result.elapsed_s *= speed.slowness(self._usual, work_of(batch, 1).rows)
        return result


@dataclass(frozen=True)
class Server:
    """Serves points with one loaded model, each once: what is in the store is not served again."""

    platform: ModelPlatform
    store: Store

    def serve(self, spec: PointSpec, on_progress: Callable[[float], None]) -> None:
        """Serve a point, unless it is there, and keep its result and steps; raises UserError."""
        if self.store.state(spec) is State.COMPLETE and self.steps_path(spec).is_file():
            return
        from engines.execution.pulse import Pulse

        log, started = StepLog(), datetime.now(UTC)
        pulse = Pulse(self.platform.loaded.model)

        def create(config: EngineConfig, seed: int) -> Executor:
            inner = self.platform.create_executor(config, seed)
            return LoggingExecutor(inner, config.block_size, log, pulse)

        platform = replace(self.platform, create_executor=create, create_clock=log.start_clock)
        outcome = serve_on(platform, spec, None, on_progress=on_progress)
        ended = datetime.now(UTC)
        shared = environment(source=self.store.source, gpu=spec.backend == "cuda")
        write_file(self.steps_path(spec), log.frame().to_parquet(index=False))
        Job(self.store, (spec,), shared).keep(spec, outcome, started, ended)

    def steps_path(self, spec: PointSpec) -> Path:
        """Where the steps of a point are kept."""
        return self.store.root / "logs" / f"{name_of(spec)}.parquet"


def steps_of(spec: PointSpec) -> StepTable:
    """The measured steps of a point's own profile."""
    assert spec.device_profile is not None, "a validation's own profile"
    table = load_profile(spec.device_profile).steps
    assert table is not None, "the profile holds steps of this model"
    return table


def simulate_paced(spec: PointSpec, steps: pd.DataFrame) -> Outcome:
    """Simulate a point on a machine as fast as when it served the `steps` (`StepLog.frame`)."""
    platform = simulate(spec)
    clock = platform.create_clock()

    def create(config: EngineConfig, seed: int) -> Executor:
        inner = platform.create_executor(config, seed)
        assert isinstance(inner, SimExecutor), "a simulated point is priced"
        return PacedExecutor(inner, clock, steps, steps_of(spec).speed)

    paced = replace(platform, create_executor=create, create_clock=lambda: clock)
    return serve_on(paced, spec, None, on_progress=None)


def price_steps(steps: pd.DataFrame, spec: PointSpec) -> pd.DataFrame:
    """Add to a served point's steps what the simulation `spec` would price each at, by term.

    `slowness` is how many times longer the machine took than when the profile was measured.
    """
    import pandas as pd

    platform = simulate(spec)
    executor = platform.create_executor(settle(spec, platform).config, spec.seed)
    assert isinstance(executor, SimExecutor), "a simulated point is priced"
    price = executor.cost
    assert isinstance(price, MeasuredCost), "the profile holds steps of this model"
    names = list(Work.__dataclass_fields__)
    works = [Work(*row) for row in steps[names].itertuples(index=False, name=None)]
    terms = pd.DataFrame([price.terms(work) for work in works]).add_prefix("priced_")
    table = steps_of(spec)
    idle = steps["began"] - (steps["began"] + steps["seconds"]).shift()
    terms["priced_waking"] = [
        table.late_s(idle_s) if work.decodes == 0 else 0.0
        for idle_s, work in zip(idle.fillna(0.0), works, strict=True)
    ]
    slowness = [
        Speed(light_s, heavy_s).slowness(table.speed, work.rows)
        for light_s, heavy_s, work in zip(*(steps[name] for name in _SPEED), works, strict=True)
    ]
    return pd.concat([steps, terms], axis=1).assign(priced=terms.sum(axis=1), slowness=slowness)
