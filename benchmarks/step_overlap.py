"""How much of the driver's work hides behind the ranks' steps: one model served twice.

    python -m benchmarks.step_overlap [--model opt-125m] [--degree 2] [--device cpu] [--requests 16]

First the next step is scheduled while one is under way (as `bench run` does it), then only once it
has ended. Both must give the same tokens; the times are means per step, in microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click

from engines.core.batch import Batch
from engines.core.clock import WallClock
from engines.core.config import EngineConfig, System
from engines.core.engine import Engine
from engines.core.executor import StepResult
from engines.core.kv import KVManager
from engines.core.request import Request
from engines.core.stats import StepRecorder
from engines.execution.ray_ranks import RankPlan
from engines.execution.tensor_parallel import (
    ParallelExecutor,
    ParallelModel,
    ParallelTiming,
    start_and_load,
)
from engines.execution.torch_executor import Options
from engines.systems import create_scheduler

PROMPT_LEN, OUTPUT_LEN = 24, 60


class InTurn:
    """An executor that lets the driver go on only when a step has ended."""

    def __init__(self, executor: ParallelExecutor, kv: KVManager) -> None:
        self._executor = executor
        executor.follow(kv)

    def execute(self, batch: Batch) -> StepResult:
        """Run the step to its end."""
        self._executor.execute(batch)
        return self._executor.finish()


@dataclass(frozen=True)
class Served:
    """Tokens by request and output, wall time and where it went."""

    tokens: list[list[list[int]]]
    wall_s: float
    timing: ParallelTiming


def serve(model: ParallelModel, requests: Sequence[Request], *, overlap: bool) -> Served:
    """Serve requests that arrive at once."""
    config = EngineConfig(system=System.ASTRA, num_slots=256 * len(requests))
    executor = model.executor(config, options=Options(logprobs=False))
    scheduler, clock = create_scheduler(config), WallClock()
    engine = Engine(
        scheduler,
        executor if overlap else InTurn(executor, scheduler.kv),
        clock,
        recorder=StepRecorder(0.0, 0.0),
    )
    groups = [engine.add_request(request) for request in requests]
    while engine.has_work:
        engine.step()
    tokens = [[s.output_token_ids for s in group.sequences] for group in groups]
    return Served(tokens, clock.now, executor.timing)


def row(name: str, served: Served) -> str:
    """One line of the table."""
    timing = served.timing
    parts = (served.wall_s, timing.model_s, timing.idle_s, timing.driver_s, timing.hidden_s)
    return f"{name:<12}" + "".join(f"{1e6 * part / timing.steps:>12,.0f}" for part in parts)


@click.command()
@click.option("--model", default="opt-125m", show_default=True)
@click.option("--degree", default=2, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--requests", "count", default=16, show_default=True)
def main(model: str, degree: int, device: str, count: int) -> None:
    """Measure how much of the driver's work hides behind the ranks' steps."""
    loaded = start_and_load(model, RankPlan(degree, device))
    requests = [Request(i, 0.0, PROMPT_LEN, OUTPUT_LEN) for i in range(count)]
    try:
        serve(loaded, requests[:2], overlap=True)  # the first steps of all are slow
        overlapped = serve(loaded, requests, overlap=True)
        in_turn = serve(loaded, requests, overlap=False)
    finally:
        loaded.close()
    assert overlapped.tokens == in_turn.tokens, "the order of work changed the tokens"
    names = ("step", "model", "rank idle", "driver", "hidden")
    click.echo(f"{'':<12}" + "".join(f"{name:>12}" for name in names))
    click.echo(row("overlapped", overlapped))
    click.echo(row("in turn", in_turn))


if __name__ == "__main__":
    main()
