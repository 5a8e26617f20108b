"""Serving a point for real with a log of its steps, and the price that each of them would have."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.files import write_file
from bench.point.platform import Platform, simulate
from bench.point.serve import serve_on
from bench.point.setting import settle
from bench.point.spec import Backend, PointSpec
from bench.results.provenance import environment, provenance_of
from bench.results.store import State, Store, name_of
from engines.core.batch import Batch
from engines.core.config import EngineConfig
from engines.core.executor import Executor, StepResult
from engines.sim.cost import Work
from engines.sim.executor import SimExecutor, Units
from engines.sim.measured import MeasuredCost

if TYPE_CHECKING:
    import pandas as pd

STEPS = "steps.parquet"


@dataclass
class StepLog:
    """When each step's execution began and ended (s), and what it did."""

    began: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)

    def frame(self) -> pd.DataFrame:
        """A row per step: the fields of `Work`, and `seconds` from one step's end to the next.

        Where nothing ran before, the engine may have waited for an arrival; such a step has the
        usual time between two executions.
        """
        import pandas as pd

        frame = pd.DataFrame([asdict(work) for work in self.works])
        began, ended = pd.Series(self.began), pd.Series(self.ended)
        between = (began - ended.shift()).where(frame["decodes"] > 0)
        return frame.assign(seconds=ended - began + between.fillna(between.median()))


class LoggingExecutor:
    """An executor that logs what passes through it."""

    def __init__(self, inner: Any, units: Units, log: StepLog) -> None:
        self._inner = inner
        self._units = units
        self._log = log

    @property
    def timing(self) -> Any:
        """The inner executor's."""
        return self._inner.timing

    def execute(self, batch: Batch) -> StepResult:
        """See `Executor.execute`."""
        self._log.works.append(self._units.work(batch))
        self._log.began.append(time.perf_counter())
        result: StepResult = self._inner.execute(batch)
        self._log.ended.append(time.perf_counter())
        return result


@dataclass(frozen=True)
class Server:
    """Serves points with one loaded model, each once: what is in the store is not served again."""

    platform: Platform
    store: Store

    def serve(self, spec: PointSpec, on_progress: Callable[[float], None]) -> None:
        """Serve a point and keep its result and steps; raises UserError."""
        if self.has(spec):
            return
        log, started = StepLog(), datetime.now(UTC)

        def create(config: EngineConfig, seed: int) -> Executor:
            units = Units(self.platform.model, tensor_parallel=1, block_size=config.block_size)
            return LoggingExecutor(self.platform.create_executor(config, seed), units, log)

        platform = replace(self.platform, create_executor=create)
        outcome = serve_on(platform, spec, None, on_progress=on_progress)
        shared = environment(source=self.store.source, gpu=spec.backend == "cuda")
        provenance = provenance_of(
            spec, shared=shared, inputs=outcome.inputs, started=started, ended=datetime.now(UTC)
        )
        content = io.BytesIO()
        log.frame().to_parquet(content, index=False)
        write_file(self.steps_path(spec), content.getvalue())
        self.store.write(spec, outcome, provenance=provenance)

    def has(self, spec: PointSpec) -> bool:
        """Whether the point is served already, by the present sources."""
        return self.store.state(spec) is State.COMPLETE and self.steps_path(spec).is_file()

    def steps_path(self, spec: PointSpec) -> Path:
        """Where the steps of a point are kept."""
        return self.store.root / "steps" / f"{name_of(spec)}.parquet"


def twin(spec: PointSpec, profile: Path) -> PointSpec:
    """The simulation of a served point; its cache is to be given if memory decides it."""
    return replace(
        spec, backend=Backend.SIM, dtype=None, gpu_memory=None, device_profile=str(profile)
    )


def price_steps(steps: pd.DataFrame, spec: PointSpec) -> pd.DataFrame:
    """Add to a served point's steps what the simulation `spec` would price each at, by term."""
    import pandas as pd

    platform = simulate(spec)
    executor = platform.create_executor(settle(spec, platform).config, spec.seed)
    assert isinstance(executor, SimExecutor), "a simulated point is priced"
    price = executor.cost
    assert isinstance(price, MeasuredCost), "the profile holds steps of this model"
    names = list(Work.__dataclass_fields__)
    works = [Work(*row) for row in steps[names].itertuples(index=False, name=None)]
    terms = pd.DataFrame([price.terms(work) for work in works]).add_prefix("priced_")
    return pd.concat([steps, terms], axis=1).assign(priced=terms.sum(axis=1))
